"""Branches that do not keep still, and mounts that lead back into them."""

import errno
import itertools
import os
import random
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.posix.asserts import fails
from tests.tree.test_hostile_branches import CLEAN, SECRET
from tests.tree.union import Union, hide, on_disk, put

#: What a name can be that changes beneath the union. Beyond what a still branch gives, a name
#: that a node was found by may have become another file's.
FLEETING = CLEAN | {errno.ESTALE, errno.ENXIO}


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Repeats `work` in another thread during the block."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert errors == []


# The union renames here meanwhile: what was removed may be a link to `outside` again. So these
# follow no link, or the test would write to the outside by itself.


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_file(name: str, content: bytes, directory: int | None = None) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)
    os.write(fd, content)
    os.close(fd)


def make_directory(path: Path) -> None:
    path.mkdir()
    fd = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        make_file("inside", b"inside", fd)
    finally:
        os.close(fd)


def transformations(path: Path, outside: Path) -> Iterator[Callable[[], None]]:
    """What replaces the name, again and again."""
    return itertools.cycle(
        [
            lambda: make_file(str(path), b"a file"),
            lambda: make_directory(path),
            lambda: path.symlink_to(outside),
            lambda: path.symlink_to("../outside/secret"),
            lambda: os.mkfifo(path),
            lambda: os.mknod(path, stat.S_IFCHR),
            lambda: hide(path.parent, path.name, "aufs"),
        ]
    )


@pytest.mark.parametrize("branch", ["lower1", "lower2", "upper"])
def test_names_that_change_their_type_while_they_are_used(
    make_union: Callable[..., Union], branch: str, chance: random.Random
) -> None:
    union = make_union(fd_limit=4)
    outside = union.base / "outside"
    put(outside, "secret", content=SECRET)
    put(union.lowers[1], "t/inside", "d/t")
    path = union.base / branch / "t"
    changes = transformations(path, outside)

    def change() -> None:
        with suppress(OSError):  # the union works on the same names
            remove(path)
            (path.parent / ".wh.t").unlink(missing_ok=True)
            next(changes)()

    calls: list[Callable[[], object]] = [
        lambda: union.read("t"),
        lambda: union.read("t/inside"),
        lambda: union.names("t"),
        lambda: union.tree.readlink(union.node("t")),
        lambda: union.tree.listxattr(union.node("t")),
        lambda: union.tree.setattr(union.node("t"), mode=0o644),
        lambda: union.write("t", b"x"),
        lambda: union.create("t/new"),
        lambda: union.rename("t", "moved"),
        lambda: union.rename("moved", "t"),
        lambda: union.unlink("t"),
        lambda: union.rmdir("t"),
        lambda: union.tree.shrink(everything=True),
        lambda: union.link("t", "d/link"),
        lambda: union.unlink("d/link"),
    ]
    with beside(change):
        for _ in range(3000):
            try:
                assert chance.choice(calls)() != SECRET
            except OSError as error:
                assert error.errno in FLEETING, error
    assert on_disk(outside) == {"secret": SECRET}
    assert stat.S_IMODE((outside / "secret").stat().st_mode) == 0o644
    # What was found while it changed is not held against the branch for ever.
    union.restart()
    assert union.names("d") == ["t"] or union.names("d") == ["link", "t"]
    union.visible()


@pytest.fixture
def bind() -> Iterator[Callable[[Path, Path], None]]:
    mounted: list[Path] = []

    def mount(source: Path, target: Path) -> None:
        subprocess.run(["mount", "--bind", source, target], check=True)
        mounted.append(target)

    yield mount
    for target in reversed(mounted):
        subprocess.run(["umount", target], check=True)


def test_bind_mounts_that_lead_back_into_the_union(
    union: Union, bind: Callable[[Path, Path], None]
) -> None:
    """A branch is one mount: what is mounted below it is not entered, so there is no loop."""
    put(union.lower, "f", "d/loop/under", "d/g")
    put(union.upper, "up/loop/under")
    bind(union.lower, union.lower / "d/loop")
    bind(union.base, union.upper / "up/loop")
    for path, beside in (("d", "g"), ("up", None)):
        assert union.names(path) == [name for name in (beside, "loop") if name]
        for name in ("under", "f", "d", "upper"):
            with fails(errno.EXDEV):
                union.node(f"{path}/loop/{name}")
        for attempt in (union.names, union.rmdir, partial(union.rename, new="moved")):
            with suppress(OSError):
                attempt(f"{path}/loop")
    assert union.read("f") == b"lower1: f"
    assert (union.lower / "d/loop/f").read_bytes() == b"lower1: f"
