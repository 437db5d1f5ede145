"""What the union writes itself is found to be in order, in either format."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.check.upper import opened
from tests.conftest import Directories
from tests.tree.union import FORMATS, Union, put
from unionfs.check import Finding, check
from unionfs.copyup import make_whole

RENAME_EXCHANGE = 2


def link(union: Union, source: str, path: str) -> None:
    os.link(union.lower / source, union.lower / path)


def removed(union: Union) -> None:
    put(union.lower, "f", "d/f", "d/g", "e/f")
    union.unlink("f")
    union.unlink("d/f")
    union.unlink("e/f")
    union.rmdir("e")


def created_over_whiteouts(union: Union) -> None:
    removed(union)
    union.create("f")
    union.mkdir("e")
    union.create("e/f")
    union.symlink("target", "d/f")


def copied_up(union: Union) -> None:
    put(union.lower, "d/e/f", "d/g")
    os.symlink("target", union.lower / "d/link")
    os.mkfifo(union.lower / "d/fifo")
    union.tree.copy_up(union.node("d"))
    union.tree.copy_up(union.node("d/link"))
    union.tree.copy_up(union.node("d/fifo"))
    union.tree.copy_up(union.node("d/e"))
    union.write("d/e/f", b"x")


def names_without_room_for_a_prefix(union: Union) -> None:
    name = "n" * 253
    put(union.lower, name, f"d/{name}/f")
    union.unlink(name)
    union.unlink(f"d/{name}/f")
    union.rmdir(f"d/{name}")
    union.mkdir(f"d/{name}")


def renamed(union: Union) -> None:
    put(union.lower, "f", "g", "d/f", "e/")
    union.rename("f", "d/new")
    union.rename("d/new", "d/f")
    union.create("own")
    union.rename("own", "g")
    union.mkdir("dir")
    union.create("dir/own")
    union.rename("dir", "e")
    union.rename("e", "dir")


def exchanged(union: Union) -> None:
    put(union.lower, "f", "d/g")
    union.rename("f", "d/g", RENAME_EXCHANGE)


def directory_made_whole_and_renamed(union: Union) -> None:
    put(union.lower, "d/f", "d/e/f", "d/e/g")
    put(union.lowers[1], "d/h", "d/e/i")
    union.unlink("d/f")
    union.unlink("d/e/g")
    make_whole(union.tree, union.node("d"))
    union.rename("d", "new")


def directories_redirected(union: Union) -> None:
    put(union.lower, "d/f", "d/e/f", "d/e/g", "other/")
    put(union.lowers[1], "d/h", "d/e/i")
    link(union, "d/e/f", "d/e/h")
    union.restart(rename_dir="redirect")
    union.unlink("d/e/g")
    union.write("d/e/f", b"changed")
    union.rename("d", "new")
    union.rename("new/e", "other/e")
    union.unlink("other/e/i")
    union.mkdir("d")
    union.rename("other/e", "d/e")


def several_names(union: Union) -> None:
    put(union.lower, "a", "d/x")
    for name in ("b", "c", "d/e"):
        link(union, "a", name)
    union.write("a", b"changed")
    assert union.read("c").startswith(b"changed")
    union.unlink("b")
    union.link("c", "new")
    union.rename("new", "d/x")
    union.unlink("a")


def every_name_removed(union: Union) -> None:
    put(union.lower, "a")
    link(union, "a", "b")
    union.write("a", b"changed")
    union.unlink("a")
    union.unlink("b")


def name_removed_before_a_copy(union: Union) -> None:
    put(union.lower, "a")
    link(union, "a", "b")
    link(union, "a", "c")
    union.unlink("a")


def escaped_attributes(union: Union) -> None:
    node = union.create("f")
    for name in ("user.overlay.redirect", "user.unionfs.origin", "trusted.overlay.opaque"):
        union.tree.setxattr(node, name, b"value")


OPERATIONS = (
    removed,
    created_over_whiteouts,
    copied_up,
    names_without_room_for_a_prefix,
    renamed,
    exchanged,
    directory_made_whole_and_renamed,
    directories_redirected,
    several_names,
    every_name_removed,
    name_removed_before_a_copy,
    escaped_attributes,
)


@pytest.fixture
def state(base: Path) -> Iterator[Path]:
    path = base / "state"
    path.mkdir()
    return path


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "user"])
@pytest.mark.parametrize("whiteout", FORMATS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_operations(
    base: Path, state: Path, operation: Callable[[Union], None], whiteout: str, trusted: bool
) -> None:
    with opened(state) as (state_fd,):
        union = Union(base, 2, whiteout=whiteout, trusted=trusted, state=state_fd)
        try:
            operation(union)
            assert examine(union.upper, state, *union.lowers) == []
            assert examine(union.upper, state) == []
        finally:
            union.restart()


def examine(upper: Path, workdir: Path | None, *lowers: Path) -> list[Finding]:
    with ExitStack() as held:
        fds = held.enter_context(opened(upper, *lowers))
        work = None if workdir is None else held.enter_context(opened(workdir))[0]
        return check(fds[0], work, fds[1:])


@pytest.mark.parametrize("whiteout", FORMATS)
@pytest.mark.parametrize("given", [False, True], ids=["default", "workdir"])
def test_a_mount(
    branches: Directories, mounted: Callable[..., Path], whiteout: str, given: bool
) -> None:
    put(branches.lower, "a", "d/f", "d/g", "e/f", "gone/f", "same")
    os.link(branches.lower / "same", branches.lower / "d/same")
    put(branches.lower2, "d/h", "e/g")
    options = {"workdir": branches.work} if given else {}
    mount = mounted(whiteout=whiteout, **options)
    (mount / "a").write_bytes(b"changed")
    (mount / "d/f").unlink()
    (mount / "d/f").mkdir()
    (mount / "e").rename(mount / "d/f/e")
    (mount / "same").write_bytes(b"changed")
    (mount / "gone/f").unlink()
    (mount / "gone").rmdir()
    (mount / "new").write_bytes(b"new")
    (mount / "new").rename(mount / "d/g")
    # The session ends with the fixture; its upper is in order even while it is mounted.
    lowers = (branches.lower, branches.lower2)
    workdir = branches.work if given else None
    running = examine(branches.upper, workdir, *lowers)
    assert {one.code for one in running} == {"scratch-left"}
