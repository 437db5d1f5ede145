"""Immutable and append-only files of a lower, and what the upper refuses for its own."""

import os
import subprocess
from collections.abc import Callable, Iterator
from errno import ENOTEMPTY, EPERM
from pathlib import Path

import pytest

from tests.posix.asserts import fails
from tests.tree.union import Union, on_disk, put


@pytest.fixture
def flag() -> Iterator[Callable[[str, Path], None]]:
    """chattr(1), taken back at the end: what has a flag cannot be removed."""
    done: list[tuple[str, Path]] = []

    def set_(letter: str, path: Path) -> None:
        subprocess.run(["chattr", f"+{letter}", path], check=True)
        done.append((letter, path))

    yield set_
    for letter, path in done:
        subprocess.run(["chattr", f"-{letter}", path], check=True)


@pytest.mark.parametrize("letter", ["i", "a"])
def test_a_file(
    make_union: Callable[..., Union], flag: Callable[[str, Path], None], letter: str
) -> None:
    union = make_union(2)
    put(union.lower, "file", content=b"above")
    put(union.lowers[1], "file", "other", content=b"below")
    flag(letter, union.lower / "file")
    node, tree = union.node("file"), union.tree
    before = on_disk(union.upper)
    for act in (
        lambda: tree.write(node, b"x"),
        lambda: tree.fallocate(node, 0, 0, 100),
        lambda: tree.setattr(node, mode=0o600),
        lambda: tree.setattr(node, size=0),
        lambda: tree.setxattr(node, "user.x", b"1"),
        lambda: tree.copy_up(node),
        lambda: union.link("file", "new"),
        lambda: union.rename("file", "new"),
        lambda: union.rename("other", "file"),
        lambda: union.unlink("file"),
    ):
        with fails(EPERM):
            act()
    assert union.read("file") == b"above"
    assert on_disk(union.upper).keys() - before.keys() <= {"other"}


def test_the_topmost_lower_counts(
    make_union: Callable[..., Union], flag: Callable[[str, Path], None]
) -> None:
    union = make_union(2)
    for lower in union.lowers:
        put(lower, "d/file", content=b"x")
    for path in ("d", "d/file"):
        flag("i", union.lowers[1] / path)
    union.unlink("d/file")
    union.create("d/new")
    assert union.names("d") == ["new"]


def test_a_directory_and_its_copy(
    make_union: Callable[..., Union], flag: Callable[[str, Path], None]
) -> None:
    union = make_union()
    put(union.lower, "d/file", "d/sub/deep", content=b"x")
    flag("i", union.lower / "d")
    for _ in range(2):
        for act in (
            lambda: union.create("d/new"),
            lambda: union.mkdir("d/new"),
            lambda: union.unlink("d/file"),
            lambda: union.tree.setattr(union.node("d"), mode=0o700),
            lambda: union.tree.make_whole(union.node("d")),
            lambda: union.rename("d", "new"),
        ):
            with fails(EPERM):
                act()
        union.write("d/sub/deep", b"y")
        assert os.listdir(union.upper / "d") == ["sub"]
        union.restart()


@pytest.mark.parametrize("letter", ["i", "a"])
def test_a_removal_that_the_upper_refuses(
    formatted: Union, flag: Callable[[str, Path], None], letter: str
) -> None:
    """A mark may stay on the disk; nothing of it is to be seen, now or after the next mount."""
    union = formatted
    put(union.lower, "d/file", "d/sub/file", content=b"below")
    union.write("d/file", b"above")
    union.unlink("d/sub/file")
    union.mkdir("d/full")
    union.create("d/full/file")
    flag(letter, union.upper / "d")
    before = union.visible()
    for _ in range(2):
        for act, code in (
            (lambda: union.unlink("d/file"), EPERM),
            (lambda: union.rmdir("d/sub"), EPERM),
            (lambda: union.rmdir("d/full"), ENOTEMPTY),
        ):
            with fails(code):
                act()
        assert union.visible() == before
        union.restart()
