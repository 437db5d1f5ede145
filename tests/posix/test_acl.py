"""POSIX ACLs: rights, inheritance, and the umask against a default ACL."""

import os
import socket
import stat
from collections.abc import Callable
from errno import EACCES, EINVAL, ENODATA, EPERM

import pytest

from tests.posix import calls
from tests.posix.acls import ACCESS, DEFAULT, acl, decode
from tests.posix.asserts import fails, mode, names, raised, read, umask, write
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, given

pytestmark = pytest.mark.needs("acls")

NAMED = acl(f"u:6 U{USER}:4 g:4 m:4 o:0")
GROUPED = acl("u:6 g:0 G777:6 m:6 o:0")
INHERITED = acl("u:7 U99:7 g:5 m:7 o:0")
PLAIN = acl("u:7 g:5 o:1")

TREE = {
    "file": File(content=b"content"),
    "named": File(content=b"n", xattrs={ACCESS: NAMED}, mode=0o640),
    "grouped": File(content=b"g", xattrs={ACCESS: GROUPED}, mode=0o660),
    "dir": Dir(mode=0o777, xattrs={DEFAULT: INHERITED}),
    "plain-default": Dir(mode=0o777, xattrs={DEFAULT: PLAIN}),
    "bare": Dir(mode=0o777),
}


@given(TREE)
def test_sets(place: Place) -> None:
    os.setxattr(place / "file", ACCESS, NAMED)
    assert os.getxattr(place / "file", ACCESS) == NAMED
    assert mode(place / "file") == 0o640
    os.removexattr(place / "file", ACCESS)
    with fails(ENODATA):
        os.getxattr(place / "file", ACCESS)


@given(TREE)
def test_equivalent_to_a_mode_leaves_only_the_mode(place: Place) -> None:
    os.setxattr(place / "file", ACCESS, acl("u:7 g:5 o:1"))
    assert mode(place / "file") == 0o751
    with fails(ENODATA):
        os.getxattr(place / "file", ACCESS)


@given(TREE)
def test_given_survives_change(place: Place) -> None:
    assert os.getxattr(place / "named", ACCESS) == NAMED
    os.utime(place / "named", (1, 2))
    assert os.getxattr(place / "named", ACCESS) == NAMED
    os.rename(place / "named", place / "bare/moved")
    assert os.getxattr(place / "bare/moved", ACCESS) == NAMED


@given(TREE)
def test_listed(place: Place) -> None:
    assert os.listxattr(place / "named") == [ACCESS]
    assert os.listxattr(place / "dir") == [DEFAULT]


@given(TREE)
def test_chmod_sets_the_mask(place: Place) -> None:
    os.chmod(place / "named", 0o671)
    assert decode(os.getxattr(place / "named", ACCESS)) == f"u:6 U{USER}:4 g:4 m:7 o:1"
    assert mode(place / "named") == 0o671


@pytest.mark.parametrize(
    "text", ["u:7", "u:7 g:7", "u:7 g:7 o:7 u:1", f"u:7 U{USER}:7 g:7 o:7", "u:9 g:1 o:1"]
)
@given(TREE)
def test_malformed(place: Place, text: str) -> None:
    with fails(EINVAL):
        os.setxattr(place / "file", ACCESS, acl(text))


@given(TREE)
def test_default_is_for_directories(place: Place) -> None:
    with fails(EACCES):
        os.setxattr(place / "file", DEFAULT, INHERITED)


@pytest.mark.needs("users")
@given(TREE)
def test_named_user(place: Place) -> None:
    assert place.as_user(read, place / "named") == b"n"
    assert place.as_user(raised, os.open, place / "named", os.O_WRONLY) == EACCES
    assert place.as_user(raised, os.open, place / "named", os.O_RDONLY, uid=USER + 1) == EACCES


@pytest.mark.needs("users")
@given(TREE)
def test_named_group(place: Place) -> None:
    assert place.as_user(raised, os.open, place / "grouped", os.O_RDWR) == EACCES
    assert place.as_user(raised, os.open, place / "grouped", os.O_RDWR, groups=[777]) == 0


@pytest.mark.needs("users")
@given({"masked": File(xattrs={ACCESS: acl(f"u:6 U{USER}:7 g:7 m:4 o:0")}, mode=0o640)})
def test_mask_limits(place: Place) -> None:
    assert place.as_user(raised, os.open, place / "masked", os.O_RDONLY) == 0
    assert place.as_user(raised, os.open, place / "masked", os.O_RDWR) == EACCES


@pytest.mark.needs("users")
@given({"dir": Dir(mode=0o770, xattrs={ACCESS: acl(f"u:7 U{USER}:7 g:7 m:7 o:0")})})
def test_named_user_of_a_directory(place: Place) -> None:
    place.as_user(write, place / "dir/new", b"by acl")
    assert names(place / "dir") == {"new"}
    assert place.as_user(raised, write, place / "dir/new2", b"", uid=USER + 1) == EACCES


@pytest.mark.needs("users")
@given(TREE)
def test_not_the_owner(place: Place) -> None:
    assert place.as_user(raised, os.setxattr, place / "file", ACCESS, NAMED) == EPERM
    assert place.as_user(raised, os.removexattr, place / "named", ACCESS) == EPERM


def _socket(path: str) -> None:
    os.chdir(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.basename(path))


def _tmpfile(path: str) -> None:
    fd = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR, 0o666)
    calls.link_proc(fd, path)
    os.close(fd)


#: Makers with the mode that they ask for. bind(2) alone subtracts the umask by itself, before
#: the filesystem is asked (net/unix/af_unix.c); the cases with an ACL use 0077.
MAKERS: dict[str, tuple[Callable[[str], object], int]] = {
    "open": (lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)), 0o666),
    "mkdir": (lambda path: os.mkdir(path, 0o777), 0o777),
    "mknod": (lambda path: os.mknod(path, stat.S_IFREG | 0o666), 0o666),
    "mkfifo": (lambda path: os.mkfifo(path, 0o666), 0o666),
    "socket": (_socket, 0o777),
    "tmpfile": (_tmpfile, 0o666),
}

each_maker = pytest.mark.parametrize("maker", MAKERS)


@each_maker
@given(TREE)
def test_default_acl_outranks_the_umask(place: Place, maker: str) -> None:
    make, bits = MAKERS[maker]
    if maker == "socket":
        bits &= ~0o077
    with umask(0o077):
        make(place / "dir/new")
    assert mode(place / "dir/new") == 0o770 & bits
    found = decode(os.getxattr(place / "dir/new", ACCESS))
    assert found == f"u:{7 & bits >> 6} U99:7 g:5 m:{7 & bits >> 3} o:0"
    if maker == "mkdir":
        assert os.getxattr(place / "dir/new", DEFAULT) == INHERITED
    else:
        assert DEFAULT not in os.listxattr(place / "dir/new")


@each_maker
@given(TREE)
def test_minimal_default_acl(place: Place, maker: str) -> None:
    """Three entries are a mode: no access ACL is left on the new file."""
    make, bits = MAKERS[maker]
    if maker == "socket":
        bits &= ~0o077
    with umask(0o077):
        make(place / "plain-default/new")
    assert mode(place / "plain-default/new") == 0o751 & bits
    assert ACCESS not in os.listxattr(place / "plain-default/new")


@each_maker
@pytest.mark.parametrize("mask", [0o000, 0o027, 0o077])
@given(TREE)
def test_umask_without_default_acl(place: Place, maker: str, mask: int) -> None:
    make, bits = MAKERS[maker]
    with umask(mask):
        make(place / "bare/new")
    assert mode(place / "bare/new") == bits & ~mask
    assert os.listxattr(place / "bare/new") == []


@given(TREE)
def test_default_acl_is_inherited_down(place: Place) -> None:
    os.makedirs(place / "dir/a/b/c")
    assert os.getxattr(place / "dir/a/b/c", DEFAULT) == INHERITED
    os.removexattr(place / "dir/a/b", DEFAULT)
    os.mkdir(place / "dir/a/b/d")
    assert os.listxattr(place / "dir/a/b/d") == []


@given(TREE)
def test_symlinks_have_none(place: Place) -> None:
    os.symlink("target", place / "dir/new")
    assert mode(place / "dir/new") == 0o777
    assert os.listxattr(place / "dir/new", follow_symlinks=False) == []


@given(TREE)
def test_moved_in_is_not_changed(place: Place) -> None:
    before = mode(place / "file")
    os.rename(place / "file", place / "dir/file")
    assert mode(place / "dir/file") == before
    assert os.listxattr(place / "dir/file") == []


@given(
    {
        "dir": Dir(
            mode=0o777,
            xattrs={DEFAULT: INHERITED},
            children={"file": File(mode=0o604, content=b"f")},
        )
    }
)
def test_copied_up_is_not_changed(place: Place) -> None:
    """A copy is created in a directory with a default ACL and must not take it on."""
    write(place / "dir/file", b"new")
    assert mode(place / "dir/file") == 0o604
    assert os.listxattr(place / "dir/file") == []


@pytest.mark.needs("users")
@given(TREE)
def test_default_acl_for_a_user(place: Place) -> None:
    place.as_user(MAKERS["open"][0], place / "dir/new")
    st = os.stat(place / "dir/new")
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (USER, GROUP, 0o660)
