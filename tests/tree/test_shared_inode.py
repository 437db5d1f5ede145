"""Whiteouts are links to one inode: what happens when there are too many, or none."""

import os
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path

import pytest

from tests.tree.union import Union, on_disk, put


def test_whiteouts_are_links_to_one_inode(formatted: Union) -> None:
    union = formatted
    put(union.lower, *"abcd")
    for name in "abcd":
        union.unlink(name)
    inodes = {(union.upper / name).lstat().st_ino for name in os.listdir(union.upper)}
    assert len(inodes) == 1


@pytest.mark.parametrize("kind", ["directory", "file", "link", "nothing"])
def test_no_inode_for_what_comes_over_a_whiteout(
    scarce: Callable[[int], None],
    make_union: Callable[..., Union],
    whiteout: str,
    kind: str,
) -> None:
    """Wherever it fails: the name is as absent as before, on the disk too."""
    union = make_union(whiteout=whiteout)
    put(union.lower, "d/x", "other")
    union.write("other", b"in the upper")
    union.unlink("d/x")
    union.rmdir("d")
    acts = {
        "directory": lambda: union.mkdir("d"),
        "file": lambda: union.create("d", uid=7),
        "link": lambda: union.link("other", "d"),
        "nothing": lambda: union.rename("other", "d"),
    }
    before = on_disk(union.upper)
    failures = 0
    for free in range(8):
        scarce(free)
        try:
            acts[kind]()
        except OSError as error:
            assert error.errno == ENOSPC
            failures += 1
        else:
            break
        assert on_disk(union.upper) == before
        assert not union.exists("d")
        union.restart()
        assert union.names() == ["other"]
    else:
        pytest.fail("it never came about")
    assert failures or kind == "nothing"
    union.restart()
    assert union.exists("d")
    if kind == "directory":
        assert union.names("d") == []


def test_a_full_shared_inode_is_replaced(base: Path, union: Union) -> None:
    """ext4 allows an inode 65000 links, xfs 2^31; tmpfs has no limit."""
    put(union.lower, *"abcd")
    union.unlink("a")
    shared = union.upper / os.listdir(union.upper)[0]
    limit = os.pathconf(union.upper, "PC_LINK_MAX")
    if limit > 100_000:
        pytest.skip(f"this filesystem allows an inode {limit} links")
    crowd = base / "crowd"
    crowd.mkdir()
    fd = os.open(crowd, os.O_PATH)
    for i in range(limit - shared.lstat().st_nlink):
        os.link(shared, str(i), dst_dir_fd=fd)
    os.close(fd)
    assert shared.lstat().st_nlink == limit
    union.unlink("b")
    union.unlink("c")
    assert union.names() == ["d"]
    others = {path.lstat().st_ino for path in union.upper.iterdir() if not path.samefile(shared)}
    assert len(others) == 1


def test_whiteouts_after_the_shared_inode_is_gone(formatted: Union) -> None:
    """The work directory may be cleared between mounts, as kernel overlayfs does it."""
    union = formatted
    put(union.lower, *"ab")
    union.unlink("a")
    for name in os.listdir(union.work):
        os.unlink(union.work / name)
    union.unlink("b")
    assert union.names() == []
