"""chown(2), lchown(2) and fchown(2), and set-id bits under them."""

import os
import stat
from errno import EPERM

import pytest

from tests.posix.asserts import mode, opened, raised, read, stamped
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, Special, Symlink, given

TREE = {
    "file": File(content=b"content"),
    "dir": Dir(children={"child": File()}),
    "link": Symlink(target="file"),
    "fifo": Special(type=stat.S_IFIFO),
    "mine": File(uid=USER, gid=GROUP),
    "setid": File(mode=0o6755),
    "setgid-noexec": File(mode=0o2744),
    "setid-dir": Dir(mode=0o6755),
    "my-setid": File(mode=0o6755, uid=USER, gid=GROUP),
}

pytestmark = pytest.mark.needs("users")


def _owner(path: str) -> tuple[int, int]:
    st = os.lstat(path)
    return st.st_uid, st.st_gid


@pytest.mark.parametrize("name", ["file", "dir", "link", "fifo"])
@given(TREE)
def test_sets(place: Place, name: str) -> None:
    before = os.lstat(place / name)
    os.lchown(place / name, 12, 34)
    after = os.lstat(place / name)
    assert (after.st_uid, after.st_gid) == (12, 34)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    os.lchown(place / name, -1, 56)
    assert _owner(place / name) == (12, 56)
    os.lchown(place / name, 78, -1)
    assert _owner(place / name) == (78, 56)


@given(TREE)
def test_follows_links(place: Place) -> None:
    link = _owner(place / "link")
    os.chown(place / "link", 12, 34)
    assert _owner(place / "file") == (12, 34)
    assert _owner(place / "link") == link


@given(TREE)
def test_by_descriptor(place: Place) -> None:
    with opened(place / "file") as fd:
        os.fchown(fd, 12, 34)
        assert (os.fstat(fd).st_uid, os.fstat(fd).st_gid) == (12, 34)
    assert read(place / "file") == b"content"


@given({"file": File(uid=65000, gid=65001)})
def test_given_ids_are_kept(place: Place) -> None:
    os.chmod(place / "file", 0o600)
    assert _owner(place / "file") == (65000, 65001)


@pytest.mark.needs("devices")
@given(TREE)
def test_large_ids(place: Place) -> None:
    """A user namespace maps no more than 65536 of them here."""
    os.chown(place / "file", 4294967294, 3000000000)
    assert _owner(place / "file") == (4294967294, 3000000000)


@given(TREE)
def test_times(place: Place) -> None:
    with stamped({place / "file": "c", place.path: "?"}):
        os.chown(place / "file", 1, 1)


@given(TREE)
def test_of_nothing_stamps_too(place: Place) -> None:
    """Linux takes -1, -1 as a change of ctime on ext4."""
    with stamped({place / "file": "c"}):
        os.chown(place / "file", -1, -1)


@pytest.mark.parametrize(
    ("name", "uid", "gid", "groups", "errno"),
    [
        ("file", USER, -1, (), EPERM),
        ("file", -1, GROUP, (), EPERM),
        ("mine", USER + 1, -1, (), EPERM),
        ("mine", -1, 777, (), EPERM),
        ("mine", -1, 777, (777,), 0),
        ("mine", USER, GROUP, (), 0),
        ("mine", -1, -1, (), 0),
        ("mine", 0, -1, (777,), EPERM),
    ],
)
@given(TREE)
def test_rights(
    place: Place, name: str, uid: int, gid: int, groups: tuple[int, ...], errno: int
) -> None:
    assert place.as_user(raised, os.chown, place / name, uid, gid, groups=groups) == errno


@pytest.mark.parametrize(("uid", "gid"), [(1, -1), (-1, 1), (1, 1), (0, 0)])
@given(TREE)
def test_clears_set_id_bits_even_for_root(place: Place, uid: int, gid: int) -> None:
    os.chown(place / "setid", uid, gid)
    assert mode(place / "setid") == 0o755


@given(TREE)
def test_clears_set_id_bits_for_the_owner(place: Place) -> None:
    place.as_user(os.chown, place / "my-setid", -1, 777, groups=[777])
    assert mode(place / "my-setid") == 0o755


@given(TREE)
def test_set_group_id_without_execution_is_kept(place: Place) -> None:
    """Mandatory locking once; the bit says nothing about rights then."""
    os.chown(place / "setgid-noexec", 1, 1)
    assert mode(place / "setgid-noexec") == 0o2744


@given(TREE)
def test_set_id_bits_of_directories_are_kept(place: Place) -> None:
    os.chown(place / "setid-dir", 1, 1)
    assert mode(place / "setid-dir") == 0o6755


CAPABILITY = b"\x01\x00\x00\x02" + b"\x00\x04\x00\x00" + bytes(12)  # cap_net_bind_service+ep


@pytest.mark.needs("trusted")
@given({"able": File(mode=0o755, xattrs={"security.capability": CAPABILITY})})
def test_removes_capabilities(place: Place) -> None:
    assert os.getxattr(place / "able", "security.capability") == CAPABILITY
    os.chown(place / "able", 1, 1)
    assert "security.capability" not in os.listxattr(place / "able")
