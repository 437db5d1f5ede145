"""Extended attributes: whole, but for what belongs to unions, which is escaped."""

import errno
import os
import stat

import pytest

from tests.posix.acls import ACCESS, DEFAULT, acl
from tests.posix.asserts import fails
from tests.tree.union import Union, put
from unionfs._tree import ROOT

CREATE, REPLACE = 1, 2  # setxattr(2)
EVERYWHERE = pytest.mark.parametrize("where", ["upper", "lower1"])
#: Names that say something to a union, and what they are stored as when an application sets them.
PRIVATE = {
    "trusted.overlay.opaque": "trusted.overlay.overlay.opaque",
    "user.overlay.redirect": "user.overlay.overlay.redirect",
    "user.fuseoverlayfs.opaque": "user.fuseoverlayfs.fuseoverlayfs.opaque",
    "trusted.unionfs.origin": "trusted.unionfs.unionfs.origin",
    "user.unionfs.impure": "user.unionfs.unionfs.impure",
}


@EVERYWHERE
@pytest.mark.parametrize("kind", ["file", "dir"])
def test_set_get_list_remove(union: Union, where: str, kind: str) -> None:
    put(union.base / where, "x" if kind == "file" else "x/")
    os.setxattr(union.base / where / "x", "user.there", b"1")
    node = union.node("x")
    tree = union.tree
    assert tree.listxattr(node) == ["user.there"]
    assert tree.getxattr(node, "user.there") == b"1"
    tree.setxattr(node, "user.there", b"2")
    tree.setxattr(node, "user.empty", b"")
    tree.setxattr(node, "trusted.new", b"\0\xff" * 500)
    assert sorted(tree.listxattr(node)) == ["trusted.new", "user.empty", "user.there"]
    assert tree.getxattr(node, "user.there") == b"2"
    assert tree.getxattr(node, "user.empty") == b""
    assert tree.getxattr(node, "trusted.new") == b"\0\xff" * 500
    tree.removexattr(node, "user.there")
    for call in (tree.getxattr, tree.removexattr):
        with fails(errno.ENODATA):
            call(node, "user.there")
    union.restart()
    assert sorted(union.tree.listxattr(union.node("x"))) == ["trusted.new", "user.empty"]


@EVERYWHERE
@pytest.mark.parametrize("kind", ["file", "dir"])
@pytest.mark.parametrize("asked", ["list", "get"])
def test_what_had_none_can_get_some(union: Union, where: str, kind: str, asked: str) -> None:
    """That a file has none is remembered: until it has one, and over its copy-up."""
    put(union.base / where, "x" if kind == "file" else "x/")
    tree, node = union.tree, union.node("x")
    for name in ("user.first", "user.second"):
        for _ in range(2):
            if asked == "list":
                assert tree.listxattr(node) == []
            else:
                with fails(errno.ENODATA):
                    tree.getxattr(node, name)
        tree.setxattr(node, name, b"1")
        assert tree.listxattr(node) == [name]
        assert tree.getxattr(node, name) == b"1"
        tree.removexattr(node, name)
    tree.setattr(node, uid=1)
    assert tree.listxattr(node) == []


@EVERYWHERE
def test_create_and_replace(union: Union, where: str) -> None:
    put(union.base / where, "f")
    os.setxattr(union.base / where / "f", "user.there", b"1")
    node = union.node("f")
    for name, flags, error in (
        ("user.there", CREATE, errno.EEXIST),
        ("user.new", REPLACE, errno.ENODATA),
    ):
        with fails(error):
            union.tree.setxattr(node, name, b"2", flags)
    union.tree.setxattr(node, "user.there", b"2", REPLACE)
    union.tree.setxattr(node, "user.new", b"2", CREATE)
    assert union.tree.getxattr(node, "user.there") == b"2"


def test_of_the_root(union: Union) -> None:
    os.setxattr(union.upper, "user.upper", b"1")
    os.setxattr(union.lower, "user.lower", b"1")
    assert union.tree.listxattr(ROOT) == ["user.upper"]
    union.tree.setxattr(ROOT, "user.new", b"1")
    assert sorted(os.listxattr(union.upper)) == ["user.new", "user.upper"]


@EVERYWHERE
@pytest.mark.parametrize("kind", ["link", "fifo", "char"])
def test_of_other_types(union: Union, where: str, kind: str) -> None:
    path = union.base / where / "x"
    if kind == "link":
        path.symlink_to(".")
    else:
        os.mknod(path, (stat.S_IFIFO if kind == "fifo" else stat.S_IFCHR) | 0o600, 259)
    node = union.node("x")
    union.tree.setxattr(node, "trusted.x", b"1")
    assert union.tree.listxattr(node) == ["trusted.x"]
    assert os.getxattr(union.upper / "x", "trusted.x", follow_symlinks=False) == b"1"
    with pytest.raises(PermissionError):
        union.tree.setxattr(node, "user.x", b"1")
    assert not os.listxattr(union.upper)[1:]


# --- private names ---


@EVERYWHERE
@pytest.mark.parametrize("name", PRIVATE)
def test_private_names_are_hidden(union: Union, where: str, name: str) -> None:
    put(union.base / where, "d/f")
    os.setxattr(union.base / where / "d", name, b"n")
    node = union.node("d")
    assert union.tree.listxattr(node) == []
    for call in (union.tree.getxattr, union.tree.removexattr):
        with fails(errno.ENODATA):
            call(node, name)
    assert os.getxattr(union.base / where / "d", name) == b"n"


@EVERYWHERE
@pytest.mark.parametrize(("name", "stored"), PRIVATE.items())
def test_private_names_are_escaped(union: Union, where: str, name: str, stored: str) -> None:
    put(union.base / where, "d/f")
    put(union.lowers[1], "d/g")
    node = union.node("d")
    union.tree.setxattr(node, name, b"y")
    assert union.tree.getxattr(node, name) == b"y"
    assert union.tree.listxattr(node) == [name]
    assert os.getxattr(union.upper / "d", stored) == b"y"
    assert name not in os.listxattr(union.upper / "d") or ".unionfs." in name
    # It means nothing here.
    union.restart()
    assert union.names("d") == ["f", "g"]
    node = union.node("d")
    # As deep as one likes, as the kernel does it: each union takes one escape away.
    union.tree.setxattr(node, stored, b"deeper")
    assert union.tree.getxattr(node, stored) == b"deeper"
    assert union.tree.getxattr(node, name) == b"y"
    assert sorted(union.tree.listxattr(node)) == sorted([name, stored])
    union.tree.removexattr(node, name)
    assert union.tree.listxattr(node) == [stored]


@pytest.mark.parametrize("name", ["user.overlay", "user.overlayfs.x", "trusted.union", "user.u"])
def test_names_that_only_look_private(union: Union, name: str) -> None:
    put(union.upper, "f")
    node = union.node("f")
    union.tree.setxattr(node, name, b"1")
    assert os.listxattr(union.upper / "f") == [name]
    assert union.tree.listxattr(node) == [name]


def test_a_union_in_the_union(union: Union, base: os.PathLike[str]) -> None:
    """What an inner union writes through an outer one, it reads back."""
    put(union.lower, "upper/d/f")
    put(union.lower, "lower/d/g")
    node = union.node("upper/d")
    union.tree.setxattr(node, "trusted.overlay.opaque", b"y")
    union.tree.setxattr(node, "trusted.unionfs.origin", b"4711")
    st = union.tree.getattr(node)
    union.restart()
    node = union.node("upper/d")
    assert union.tree.getxattr(node, "trusted.overlay.opaque") == b"y"
    assert union.tree.getxattr(node, "trusted.unionfs.origin") == b"4711"
    assert union.tree.getattr(node).st_ino == st.st_ino
    assert union.names("upper/d") == ["f"]


# --- limits ---


@EVERYWHERE
def test_names_and_values_too_long(union: Union, where: str) -> None:
    put(union.base / where, "f")
    node = union.node("f")
    longest = "user." + "x" * 250
    union.tree.setxattr(node, longest, b"1")
    assert union.tree.getxattr(node, longest) == b"1"
    for name, value, errors in (
        (longest + "x", b"1", {errno.ERANGE}),
        ("user." + "x" * 5000, b"1", {errno.ERANGE}),
        # Too long once it is escaped.
        ("user.overlay." + "x" * 240, b"1", {errno.ERANGE}),
        ("user.big", b"x" * 65537, {errno.E2BIG, errno.ENOSPC}),
        ("unknown.x", b"1", {errno.EOPNOTSUPP}),
        ("user.", b"1", {errno.EINVAL, errno.EOPNOTSUPP}),
        ("", b"1", {errno.ERANGE, errno.EINVAL, errno.EOPNOTSUPP}),
    ):
        with fails(*errors):
            union.tree.setxattr(node, name, value)
        with pytest.raises(OSError):
            union.tree.getxattr(node, name)
        with pytest.raises(OSError):
            union.tree.removexattr(node, name)
    assert union.tree.listxattr(node) == [longest]


def test_a_value_of_the_greatest_size(union: Union, tmp_path_factory: object) -> None:
    put(union.upper, "f")
    node = union.node("f")
    try:
        os.setxattr(union.work, "user.probe", b"x" * 65536)
    except OSError:
        greatest = 3000  # ext4: all attributes share a block
    else:
        greatest = 65536
    value = os.urandom(greatest)
    union.tree.setxattr(node, "user.big", value)
    assert union.tree.getxattr(node, "user.big") == value


# --- access control lists ---


def test_acls_and_modes_agree(union: Union) -> None:
    put(union.lower, "f")
    node = union.node("f")
    union.tree.setxattr(node, ACCESS, acl("u:6 U1234:7 g:0 m:5 o:4"))
    assert stat.S_IMODE(union.tree.getattr(node).st_mode) == 0o654
    union.tree.setattr(node, mode=0o600)
    assert union.tree.getxattr(node, ACCESS) == acl("u:6 U1234:7 g:0 m:0 o:0")
    union.tree.removexattr(node, ACCESS)
    assert union.tree.listxattr(node) == []
    # acl(5): removing one that is not there succeeds.
    union.tree.removexattr(node, ACCESS)


def test_acls_where_they_cannot_be(union: Union) -> None:
    put(union.lower, "f", "d/")
    (union.lower / "l").symlink_to("f")
    for path, name, value, error in (
        ("f", DEFAULT, acl("u:7 g:7 o:7"), errno.EACCES),
        ("l", ACCESS, acl("u:7 g:7 o:7"), errno.EOPNOTSUPP),
        ("f", ACCESS, b"nonsense", errno.EOPNOTSUPP),
        ("f", ACCESS, acl("u:7 g:7"), errno.EINVAL),
    ):
        with fails(error):
            union.tree.setxattr(union.node(path), name, value)
