"""Without an upper nothing can be changed, and everything can be read."""

import errno
import os
import stat
from collections.abc import Callable

import pytest

from tests.posix.asserts import fails
from tests.tree.union import Union, hide, put
from unionfs._tree import ROOT, Tree


@pytest.fixture
def readonly(make_union: Callable[..., Union]) -> Union:
    union = make_union(upper=False)
    put(union.lowers[0], "f", "d/f", "empty/")
    put(union.lowers[1], "f", "d/g", "gone")
    hide(union.lowers[0], "gone", "aufs")
    (union.lower / "l").symlink_to("f")
    os.setxattr(union.lower / "f", "user.x", b"1")
    return union


CHANGES: dict[str, Callable[[Union], object]] = {
    "mknod": lambda union: union.create("new"),
    "mknod-over-whiteout": lambda union: union.create("gone"),
    "mkdir": lambda union: union.mkdir("d/new"),
    "symlink": lambda union: union.symlink("target", "new"),
    "link": lambda union: union.link("f", "new"),
    "unlink": lambda union: union.unlink("f"),
    "rmdir": lambda union: union.rmdir("empty"),
    "rename": lambda union: union.rename("f", "new"),
    "rename-over": lambda union: union.rename("f", "d/f"),
    "rename-directory": lambda union: union.rename("d", "new"),
    "exchange": lambda union: union.rename("f", "d", 2),
    "write": lambda union: union.write("f", b"x"),
    "truncate": lambda union: union.tree.setattr(union.node("f"), size=0),
    "chmod": lambda union: union.tree.setattr(union.node("f"), mode=0),
    "chown": lambda union: union.tree.setattr(union.node("l"), uid=1),
    "utimens": lambda union: union.tree.setattr(union.node("d"), mtime_ns=1),
    "chmod-root": lambda union: union.tree.setattr(ROOT, mode=0o700),
    "fallocate": lambda union: union.tree.fallocate(union.node("f"), 0, 0, 10),
    "setxattr": lambda union: union.tree.setxattr(union.node("f"), "user.y", b""),
    "setxattr-root": lambda union: union.tree.setxattr(ROOT, "user.y", b""),
    "removexattr": lambda union: union.tree.removexattr(union.node("f"), "user.x"),
    "copy_up": lambda union: union.tree.copy_up(union.node("f")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_can_be_changed(readonly: Union, change: Callable[[Union], object]) -> None:
    before = readonly.visible()
    with fails(errno.EROFS):
        change(readonly)
    assert readonly.visible() == before


def test_everything_can_be_read(readonly: Union) -> None:
    union = readonly
    assert sorted(union.walk()) == ["d", "d/f", "d/g", "empty", "f", "l"]
    assert union.read("f") == b"lower1: f"
    assert union.read("d/g") == b"lower2: d/g"
    assert union.tree.readlink(union.node("l")) == b"f"
    assert union.tree.getxattr(union.node("f"), "user.x") == b"1"
    assert union.tree.where(union.node("d/g")) == (2, b"d/g")
    assert not union.exists("gone")
    union.tree.fsync(union.node("f"))
    union.tree.fsync(union.node("d"))
    assert union.stat().st_ino == union.lower.stat().st_ino


def test_the_root_is_the_topmost_branch(make_union: Callable[..., Union]) -> None:
    union = make_union(upper=False)
    union.lower.chmod(0o1750)
    os.chown(union.lower, 1234, 2345)
    os.setxattr(union.lower, "user.x", b"1")
    st = union.stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o1750, 1234, 2345)
    assert union.tree.listxattr(ROOT) == ["user.x"]


def test_one_branch(make_union: Callable[..., Union]) -> None:
    union = make_union(1, upper=False)
    put(union.lower, "d/f")
    hide(union.lower, "g", "aufs")
    assert sorted(union.walk()) == ["d", "d/f"]


def test_arguments_that_make_no_union(union: Union) -> None:
    fd = os.open(union.lower, os.O_PATH)
    try:
        for arguments, options in (
            (([],), {}),
            (([fd], fd), {}),
            (([fd], None, fd), {}),
            (([fd],), {"whiteout": "unknown"}),
            (([fd],), {"rename_dir": "unknown"}),
        ):
            with pytest.raises(ValueError):
                Tree(*arguments, **options)  # type: ignore[arg-type]
        with fails(errno.EBADF):
            Tree([999_999])
    finally:
        os.close(fd)


def test_a_closed_tree_says_so(union: Union) -> None:
    tree = union.tree
    tree.close()
    tree.close()
    for call in (lambda: tree.lookup(ROOT, b"f"), lambda: tree.stats(), lambda: tree.readdir(ROOT)):
        with pytest.raises(ValueError, match="closed"):
            call()
