"""mknod(2) and mkfifo(3)."""

import os
import stat
from errno import EACCES, EEXIST, EINVAL, ENOENT, EPERM

import pytest

from tests.posix.asserts import fails, mode, names, raised, read, stamped, umask, write
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, Special, Symlink, given

TREE = {
    "file": File(),
    "dir": Dir(),
    "link": Symlink(target="file"),
    "dangling": Symlink(target="nowhere"),
    "fifo": Special(type=stat.S_IFIFO),
}


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK])
@pytest.mark.parametrize("bits", [0o000, 0o640, 0o777, 0o4711])
def test_makes(place: Place, kind: int, bits: int) -> None:
    with umask(0):
        os.mknod(place / "new", kind | bits)
    st = os.lstat(place / "new")
    assert st.st_mode == kind | bits
    assert (st.st_nlink, st.st_size, st.st_uid) == (1, 0, os.geteuid())


def test_regular_file_is_one(place: Place) -> None:
    os.mknod(place / "new", stat.S_IFREG | 0o600)
    write(place / "new", b"content")
    assert read(place / "new") == b"content"


def test_type_zero_is_a_regular_file(place: Place) -> None:
    os.mknod(place / "new", 0o600)
    assert stat.S_ISREG(os.stat(place / "new").st_mode)


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFLNK])
def test_other_types(place: Place, kind: int) -> None:
    with fails(EPERM if kind == stat.S_IFDIR else EINVAL):
        os.mknod(place / "new", kind | 0o600)


@pytest.mark.needs("devices")
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
@pytest.mark.parametrize("number", [(1, 3), (0, 1), (255, 0), (4095, 1048575)])
def test_devices(place: Place, kind: int, number: tuple[int, int]) -> None:
    os.mknod(place / "new", kind | 0o600, os.makedev(*number))
    st = os.stat(place / "new")
    assert st.st_mode == kind | 0o600
    assert (os.major(st.st_rdev), os.minor(st.st_rdev)) == number


@pytest.mark.needs("devices")
def test_device_zero(place: Place) -> None:
    os.mknod(place / "new", stat.S_IFCHR | 0o600, 0)
    assert names(place.path) == {"new"}


@pytest.mark.needs("users")
def test_devices_are_for_root(place: Place) -> None:
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        assert place.as_user(raised, os.mknod, place / "new", kind, os.makedev(1, 3)) == EPERM


@pytest.mark.needs("users")
def test_belongs_to_its_maker(place: Place) -> None:
    place.as_user(os.mkfifo, place / "new")
    st = os.stat(place / "new")
    assert (st.st_uid, st.st_gid) == (USER, GROUP)


@pytest.mark.parametrize("name", ["file", "dir", "link", "dangling", "fifo"])
@given(TREE)
def test_exists(place: Place, name: str) -> None:
    with fails(EEXIST):
        os.mkfifo(place / name)


@given(TREE)
def test_name_with_slash(place: Place) -> None:
    with fails(ENOENT):
        os.mkfifo(place / "new/")


@given(TREE)
def test_times(place: Place) -> None:
    with stamped({place / "dir": "mc", place.path: "?"}):
        os.mkfifo(place / "dir/new")


@pytest.mark.needs("users")
@given({"closed": Dir()})
def test_without_the_right(place: Place) -> None:
    assert place.as_user(raised, os.mkfifo, place / "closed/new") == EACCES


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o777])
def test_umask(place: Place, mask: int) -> None:
    with umask(mask):
        os.mkfifo(place / "new", 0o777)
    assert mode(place / "new") == 0o777 & ~mask
