"""Immutable and append-only files (chattr +i, +a) in the branches: EPERM, and nothing half done."""

import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EPERM
from pathlib import Path

import pytest

from tests.mounted.harness import PEER, Union, fails_with, needs_root, only_unionfs
from tests.mounted.trees import assert_same, branch, build, snapshot

pytestmark = [needs_root, pytest.mark.timeout(60)]

Act = Callable[[Path], object]

TREE = {"file": "content", "other": "more", "d/child": "child", "d/empty": None, "d/sub/deep": "x"}


@contextmanager
def flagged(union: Union, letter: str, *paths: Path) -> Iterator[Path]:
    """The mounted union, with the flag of chattr(1) on files of its branches."""
    subprocess.run(["chattr", f"+{letter}", *paths], check=True)
    try:
        with union:
            yield union.mountpoint
    finally:
        subprocess.run(["chattr", f"-{letter}", *paths], check=True)


def write(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.write(fd, b"new")
    finally:
        os.close(fd)


CHANGES: dict[str, Act] = {
    "write": lambda top: write(top / "file", os.O_WRONLY),
    "rewrite": lambda top: write(top / "file", os.O_WRONLY | os.O_TRUNC),
    "truncate": lambda top: os.truncate(top / "file", 1),
    "chmod": lambda top: (top / "file").chmod(0o600),
    "chown": lambda top: os.chown(top / "file", 1, 1),
    "utime": lambda top: os.utime(top / "file", (1, 1)),
    "setxattr": lambda top: os.setxattr(top / "file", "user.x", b""),
    "removexattr": lambda top: os.removexattr(top / "file", "user.note"),
    "link": lambda top: (top / "new").hardlink_to(top / "file"),
    "rename": lambda top: (top / "file").rename(top / "new"),
    "replace": lambda top: (top / "other").rename(top / "file"),
    "unlink": lambda top: (top / "file").unlink(),
}
DIRECTORY_CHANGES: dict[str, Act] = {
    "unlink in": lambda top: (top / "d/child").unlink(),
    "rename in": lambda top: (top / "d/child").rename(top / "d/new"),
    "rename out of": lambda top: (top / "d/child").rename(top / "new"),
    "replace in": lambda top: (top / "other").rename(top / "d/child"),
    "rmdir in": lambda top: (top / "d/empty").rmdir(),
    "chmod": lambda top: (top / "d").chmod(0o700),
    "utime": lambda top: os.utime(top / "d", (1, 1)),
    "setxattr": lambda top: os.setxattr(top / "d", "user.x", b""),
    "removexattr": lambda top: os.removexattr(top / "d", "user.note"),
    "rename": lambda top: (top / "d").rename(top / "new"),
}
ADDITIONS: dict[str, Act] = {
    "create": lambda top: (top / "d/new").touch(),
    "mkdir": lambda top: (top / "d/newdir").mkdir(),
    "symlink": lambda top: (top / "d/newlink").symlink_to("x"),
    "link": lambda top: (top / "d/newname").hardlink_to(top / "other"),
    "rename into": lambda top: (top / "other").rename(top / "d/moved"),
}
OPTIONS = [{}, {"whiteout": "overlay", "copyup": "open"}, {"io": "passthrough"}]


def on_disk(union: Union) -> dict[str, str]:
    """What the upper holds, without what the work directory in it keeps ready."""
    assert union.upper is not None
    return {
        path: what
        for path, what in branch(union.upper).items()
        if not path.startswith(".wh..wh.work")
    }


def build_noted(root: Path) -> None:
    build(root, TREE)
    for name in ("file", "d"):
        os.setxattr(root / name, "user.note", b"1")


@pytest.mark.parametrize("options", OPTIONS[:1] if PEER else OPTIONS, ids=str)
@pytest.mark.parametrize("letter", ["i", "a"])
@pytest.mark.parametrize("where", ["lower", "upper"])
def test_nothing_changes(place: Path, where: str, letter: str, options: dict[str, str]) -> None:
    union = Union(place, **options)
    assert union.upper is not None
    root = union.lower if where == "lower" else union.upper
    build_noted(root)
    if where == "upper":
        # So that removing and renaming would need whiteouts. (Overlayfs cannot even show a merged
        # directory that it may not mark.)
        build(union.lower, {"file": "below", "d/child": "below"})
        if not PEER:
            build(union.lower, {"d/empty": None})
    refused = {**{f"file: {name}": act for name, act in CHANGES.items()}, **DIRECTORY_CHANGES}
    if letter == "i":
        refused |= ADDITIONS
    with flagged(union, letter, root / "file", root / "d") as top:
        shown, held = snapshot(top), on_disk(union)
        for name, act in refused.items():
            fails_with(EPERM, lambda act=act: act(top), name)
            assert_same(shown, snapshot(top), f"after {name}")
            if where == "lower":  # in the upper a mark may stay that hides nothing
                assert_same(held, on_disk(union), f"in the upper after {name}")
        union.remount()
        assert_same(shown, snapshot(top), "after a remount")


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_what_append_only_allows(place: Path, where: str) -> None:
    """Names are added to a directory; to a file in the upper, data."""
    union = Union(place)
    assert union.upper is not None
    root = union.lower if where == "lower" else union.upper
    build(root, TREE)
    with flagged(union, "a", root / "file", root / "d") as top:
        for act in ADDITIONS.values():
            act(top)
        os.utime(top / "d")
        names = {"child", "empty", "sub", "new", "newdir", "newlink", "newname", "moved"}
        assert {path.name for path in (top / "d").iterdir()} == names
        fails_with(EPERM, (top / "d/new").unlink)
        if where == "upper":
            for _ in range(2):
                write(top / "file", os.O_WRONLY | os.O_APPEND)
            assert (top / "file").read_text() == "contentnewnew"
        union.remount()
        assert {path.name for path in (top / "d").iterdir()} == names
        fails_with(EPERM, (top / "d/new").unlink)


@only_unionfs
@pytest.mark.parametrize("options", [{"copyup": "open"}, {"io": "passthrough"}, {}], ids=str)
def test_appending_in_the_upper(place: Path, options: dict[str, str]) -> None:
    """By descriptors that say so when they write, and at the end only."""
    union = Union(place, **options)
    assert union.upper is not None
    build(union.upper, {"file": "0123"})
    with flagged(union, "a", union.upper / "file") as top:
        fd = os.open(top / "file", os.O_RDWR | os.O_APPEND)
        os.write(fd, b"45")
        os.write(fd, b"67")
        assert os.pread(fd, 10, 0) == b"01234567"
        with mmap.mmap(fd, 8, prot=mmap.PROT_READ) as mapping:
            assert mapping[:] == b"01234567"
        os.close(fd)
        assert (top / "file").read_text() == (union.upper / "file").read_text() == "01234567"


def test_a_copy_of_a_directory_is_immutable_too(place: Path) -> None:
    """What lies deeper may change, which copies the directory; its flag goes on counting."""
    union = Union(place)
    assert union.upper is not None
    build_noted(union.lower)
    with flagged(union, "i", union.lower / "d") as top:
        (top / "d/sub/deep").write_text("changed")
        (top / "d/child").write_text("changed")
        assert (union.upper / "d").is_dir()
        for _ in range(2):
            for act in (*ADDITIONS.values(), *DIRECTORY_CHANGES.values()):
                fails_with(EPERM, lambda act=act: act(top))
            union.remount()
        assert (top / "d/child").read_text() == "changed"


def test_an_upper_directory_of_its_own_is_not(place: Path) -> None:
    """It has been made over the lower one, and is no copy of it."""
    union = Union(place)
    assert union.upper is not None
    build(union.lower, TREE)
    (union.upper / "d").mkdir()
    with flagged(union, "i", union.lower / "d") as top:
        for act in ADDITIONS.values():
            act(top)


@only_unionfs
@pytest.mark.parametrize("rename_dir", ["copy", "redirect"])
@pytest.mark.parametrize("name", ["top/d", "top/file"])
def test_renaming_what_is_above(place: Path, name: str, rename_dir: str) -> None:
    """A copy of everything would be without the flag; a redirect needs none."""
    union = Union(place, rename_dir=rename_dir)
    assert union.upper is not None
    build(union.lower, {f"top/{path}": content for path, content in TREE.items()})
    with flagged(union, "i", union.lower / name) as top:
        shown = snapshot(top)
        if rename_dir == "copy":
            fails_with(EPERM, lambda: (top / "top").rename(top / "moved"))
            assert_same(shown, snapshot(top))
            return
        (top / "top").rename(top / "moved")
        for _ in range(2):
            if name == "top/d":
                fails_with(EPERM, (top / "moved/d/new").touch)
            else:
                fails_with(EPERM, (top / "moved/file").unlink)
            union.remount()


@only_unionfs
@pytest.mark.parametrize("options", [{"copyup": "open"}, {"io": "passthrough"}], ids=str)
def test_opening_a_file_of_a_lower(place: Path, options: dict[str, str]) -> None:
    """EPERM from open(2) where the daemon is asked; a reader does not lose the file."""
    union = Union(place, **options)
    build(union.lower, TREE)
    with flagged(union, "i", union.lower / "file") as top, open(top / "file") as early:
        fails_with(EPERM, lambda: os.open(top / "file", os.O_WRONLY))
        fails_with(EPERM, lambda: (top / "new").hardlink_to(top / "file"))
        assert os.path.samestat(os.fstat(early.fileno()), (top / "file").stat())


@pytest.mark.parametrize("letter", ["i", "a"])
@pytest.mark.parametrize("whiteout", ["aufs"] if PEER else ["aufs", "overlay"])
def test_removing_an_empty_directory_of_the_upper(place: Path, whiteout: str, letter: str) -> None:
    """A lower has it too, so a whiteout comes first; that may stay, for it hides nothing."""
    union = Union(place) if PEER else Union(place, whiteout=whiteout)
    assert union.upper is not None
    for root in (union.lower, union.upper):
        (root / "d").mkdir()
    with flagged(union, letter, union.upper / "d") as top:
        shown = snapshot(top)
        fails_with(EPERM, (top / "d").rmdir)
        fails_with(EPERM, lambda: (top / "d").rename(top / "new"))
        (top / "e").mkdir()
        fails_with(EPERM, lambda: (top / "e").rename(top / "d"))
        (top / "e").rmdir()
        for _ in range(2):
            assert_same(shown, snapshot(top))
            assert list((top / "d").iterdir()) == []
            union.remount()
