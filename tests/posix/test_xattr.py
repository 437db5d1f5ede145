"""Extended attributes."""

import ctypes
import os
from errno import E2BIG, EACCES, EEXIST, ENODATA, ENOSPC, ENOTSUP, EPERM, ERANGE

import pytest

from tests.posix.asserts import fails, names, opened, raised, stamped, write
from tests.posix.places import USER, Place
from tests.posix.trees import Dir, File, Symlink, given

TREE = {
    "file": File(content=b"content"),
    "dir": Dir(children={"child": File()}),
    "link": Symlink(target="file"),
    "dressed": File(xattrs={"user.one": b"1", "user.two": b"\x00\xff binary", "user.empty": b""}),
    "theirs": File(mode=0o644, xattrs={"user.one": b"1"}),
    "private": File(mode=0o600, xattrs={"user.one": b"1"}),
}


@pytest.mark.parametrize("name", ["file", "dir"])
@pytest.mark.parametrize("value", [b"", b"1", b"\x00\xff\n", b"v" * 1000])
@given(TREE)
def test_sets(place: Place, name: str, value: bytes) -> None:
    os.setxattr(place / name, "user.new", value)
    assert os.getxattr(place / name, "user.new") == value
    assert os.listxattr(place / name) == ["user.new"]


@given(TREE)
def test_given(place: Place) -> None:
    expected = TREE["dressed"].xattrs
    for _ in range(2):
        assert sorted(os.listxattr(place / "dressed")) == sorted(expected)
        for name, value in expected.items():
            assert os.getxattr(place / "dressed", name) == value
        os.chmod(place / "dressed", 0o600)


@given(TREE)
def test_replaces(place: Place) -> None:
    os.setxattr(place / "dressed", "user.one", b"longer than before")
    assert os.getxattr(place / "dressed", "user.one") == b"longer than before"
    os.setxattr(place / "dressed", "user.one", b"")
    assert os.getxattr(place / "dressed", "user.one") == b""
    assert len(os.listxattr(place / "dressed")) == 3


@given(TREE)
def test_removes(place: Place) -> None:
    os.removexattr(place / "dressed", "user.one")
    assert sorted(os.listxattr(place / "dressed")) == ["user.empty", "user.two"]
    with fails(ENODATA):
        os.getxattr(place / "dressed", "user.one")
    with fails(ENODATA):
        os.removexattr(place / "dressed", "user.one")


@given(TREE)
def test_create_and_replace_flags(place: Place) -> None:
    with fails(EEXIST):
        os.setxattr(place / "dressed", "user.one", b"x", os.XATTR_CREATE)
    with fails(ENODATA):
        os.setxattr(place / "dressed", "user.new", b"x", os.XATTR_REPLACE)
    os.setxattr(place / "dressed", "user.one", b"x", os.XATTR_REPLACE)
    os.setxattr(place / "dressed", "user.new", b"y", os.XATTR_CREATE)
    assert os.getxattr(place / "dressed", "user.one") == b"x"


@given(TREE)
def test_by_descriptor(place: Place) -> None:
    with opened(place / "file") as fd:
        os.setxattr(fd, "user.a", b"1")
        assert os.listxattr(fd) == ["user.a"]
    with opened(place / "dir") as fd:
        os.setxattr(fd, "user.a", b"2")
    assert os.getxattr(place / "dir", "user.a") == b"2"


@given(TREE)
def test_of_what_a_link_names(place: Place) -> None:
    os.setxattr(place / "link", "user.a", b"1")
    assert os.getxattr(place / "file", "user.a") == b"1"
    with fails(ENODATA):
        os.getxattr(place / "link", "user.a", follow_symlinks=False)


@given(TREE)
def test_missing_attribute(place: Place) -> None:
    for name in ("user.missing", "user.m"):
        with fails(ENODATA):
            os.getxattr(place / "file", name)


@pytest.mark.parametrize("name", ["unknown.a", "nonamespace", "user"])
@given(TREE)
def test_unknown_namespace(place: Place, name: str) -> None:
    with fails(ENOTSUP):
        os.setxattr(place / "file", name, b"1")
    with fails(ENOTSUP):
        os.getxattr(place / "file", name)


@given(TREE)
def test_name_of_255_bytes(place: Place) -> None:
    name = "user." + "n" * 250
    os.setxattr(place / "file", name, b"1")
    assert os.listxattr(place / "file") == [name]
    with fails(ERANGE):
        os.setxattr(place / "file", name + "n", b"1")


@given(TREE)
def test_value_over_the_limit(place: Place) -> None:
    with fails(E2BIG):
        os.setxattr(place / "file", "user.a", b"v" * 65537)
    with fails(ENOSPC, E2BIG):
        os.setxattr(place / "file", "user.a", b"v" * 65536)
    assert os.listxattr(place / "file") == []


@given(TREE)
def test_buffer_too_small(place: Place) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(3)
    path = os.fsencode(place / "dressed")
    assert libc.getxattr(path, b"user.two", None, 0) == 9
    assert libc.getxattr(path, b"user.two", buffer, 3) == -1
    assert ctypes.get_errno() == ERANGE
    assert libc.listxattr(path, None, 0) == sum(len(name) + 1 for name in TREE["dressed"].xattrs)
    assert libc.listxattr(path, buffer, 3) == -1
    assert ctypes.get_errno() == ERANGE


@given(TREE)
def test_many(place: Place) -> None:
    for number in range(30):
        os.setxattr(place / "file", f"user.n{number}", str(number).encode())
    assert len(os.listxattr(place / "file")) == 30
    assert os.getxattr(place / "file", "user.n17") == b"17"


@given(TREE)
def test_times(place: Place) -> None:
    with stamped({place / "dressed": "c"}):
        os.setxattr(place / "dressed", "user.one", b"2")
    with stamped({place / "dressed": "c"}):
        os.removexattr(place / "dressed", "user.one")
    with stamped({place / "dressed": ""}):
        os.getxattr(place / "dressed", "user.two")


@given(TREE)
def test_survive_rename_link_and_rewrite(place: Place) -> None:
    os.rename(place / "dressed", place / "dir/moved")
    os.link(place / "dir/moved", place / "again")
    write(place / "again", b"rewritten")
    os.truncate(place / "again", 0)
    assert os.getxattr(place / "dir/moved", "user.two") == b"\x00\xff binary"


@pytest.mark.needs("users")
@pytest.mark.parametrize(
    ("name", "operation", "errno"),
    [
        ("theirs", "get", 0),
        ("theirs", "list", 0),
        ("theirs", "set", EACCES),
        ("theirs", "remove", EACCES),
        ("private", "get", EACCES),
        ("private", "list", 0),
        ("private", "set", EACCES),
    ],
)
@given(TREE)
def test_rights(place: Place, name: str, operation: str, errno: int) -> None:
    path = place / name
    act = {
        "get": lambda: os.getxattr(path, "user.one"),
        "list": lambda: os.listxattr(path),
        "set": lambda: os.setxattr(path, "user.one", b"x"),
        "remove": lambda: os.removexattr(path, "user.one"),
    }[operation]
    assert place.as_user(raised, act) == errno


@pytest.mark.needs("users")
@given({"open": File(mode=0o666), "sticky": Dir(mode=0o1777), "mine": Dir(mode=0o1777, uid=USER)})
def test_rights_come_from_the_mode(place: Place) -> None:
    assert place.as_user(raised, os.setxattr, place / "open", "user.a", b"1") == 0
    assert place.as_user(raised, os.setxattr, place / "sticky", "user.a", b"1") == EPERM
    assert place.as_user(raised, os.setxattr, place / "mine", "user.a", b"1") == 0


@given({"fifo": File()})
def test_user_attributes_of_special_files(place: Place) -> None:
    os.mkfifo(place / "pipe")
    with fails(EPERM):
        os.setxattr(place / "pipe", "user.a", b"1")
    assert "pipe" in names(place.path)


@pytest.mark.needs("trusted")
@given({"file": File(xattrs={"trusted.t": b"secret"}), "dir": Dir(xattrs={"trusted.t": b"d"})})
def test_trusted(place: Place) -> None:
    for name in ("file", "dir"):
        assert os.listxattr(place / name) == ["trusted.t"]
        os.chmod(place / name, 0o755)
        assert os.listxattr(place / name) == ["trusted.t"]
        assert place.as_user(os.listxattr, place / name) == []
        assert place.as_user(raised, os.getxattr, place / name, "trusted.t") == ENODATA
        assert place.as_user(raised, os.setxattr, place / name, "trusted.t", b"1") == EPERM


@pytest.mark.needs("trusted")
@given({"file": File(xattrs={"security.unionfs-test": b"label"})})
def test_security(place: Place) -> None:
    assert os.getxattr(place / "file", "security.unionfs-test") == b"label"
    os.chmod(place / "file", 0o600)
    assert os.getxattr(place / "file", "security.unionfs-test") == b"label"
    assert place.as_user(raised, os.setxattr, place / "file", "security.x", b"1") == EPERM


#: Names that union filesystems keep for themselves; a union in a union needs them.
PRIVATE = ["overlay.opaque", "overlay.redirect", "overlay.origin", "unionfs.origin", "unionfs.x"]


@pytest.mark.needs("trusted")
@pytest.mark.parametrize("prefix", ["trusted", "user"])
@pytest.mark.parametrize("name", PRIVATE)
@given({"dir": Dir(children={"file": File(content=b"stays")}), "file": File(content=b"f")})
def test_private_names_are_names(place: Place, prefix: str, name: str) -> None:
    for path in (place / "dir", place / "file"):
        os.setxattr(path, f"{prefix}.{name}", b"y")
        assert os.getxattr(path, f"{prefix}.{name}") == b"y"
        assert f"{prefix}.{name}" in os.listxattr(path)
    os.rename(place / "file", place / "moved")
    assert names(place / "dir") == {"file"}
    os.removexattr(place / "moved", f"{prefix}.{name}")
    assert f"{prefix}.{name}" not in os.listxattr(place / "moved")
