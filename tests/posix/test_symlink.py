"""symlink(2) and readlink(2)."""

import os
import stat
from errno import EACCES, EEXIST, EINVAL, ENAMETOOLONG, ENOENT, EPERM

import pytest

from tests.posix.asserts import fails, names, raised, read, stamped, umask, write
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, Symlink, given

TARGETS = [
    "x",
    "a/b/c",
    "/absolute",
    "../up",
    ".",
    "nowhere",
    "t" * 255,
    "p/" * 2047,
    "\udcff\udc81 \n",
]


@pytest.mark.parametrize("number", range(len(TARGETS)))
def test_makes(place: Place, number: int) -> None:
    target = TARGETS[number]
    with umask(0o077):
        os.symlink(target, place / "link")
    assert os.readlink(place / "link") == target
    st = os.lstat(place / "link")
    assert stat.S_ISLNK(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o777
    assert st.st_size == len(os.fsencode(target)) and st.st_nlink == 1


@pytest.mark.parametrize("number", range(len(TARGETS)))
@given({str(number): Symlink(target=target) for number, target in enumerate(TARGETS)})
def test_reads_given(place: Place, number: int) -> None:
    name, target = str(number), TARGETS[number]
    assert os.readlink(place / name) == target
    assert os.lstat(place / name).st_size == len(os.fsencode(target))
    os.rename(place / name, place / "moved")
    assert os.readlink(place / "moved") == target


def test_empty_target(place: Place) -> None:
    with fails(ENOENT):
        os.symlink("", place / "link")


def test_longest_target(place: Place) -> None:
    os.symlink("t" * 4095, place / "link")
    assert os.readlink(place / "link") == "t" * 4095
    with fails(ENAMETOOLONG):
        os.symlink("t" * 4096, place / "link2")


TREE = {
    "file": File(content=b"f"),
    "dir": Dir(),
    "link": Symlink(target="file"),
    "dangling": Symlink(target="nowhere"),
}


@pytest.mark.parametrize("name", ["file", "dir", "link", "dangling"])
@given(TREE)
def test_exists(place: Place, name: str) -> None:
    with fails(EEXIST):
        os.symlink("target", place / name)


@pytest.mark.parametrize("name", ["file", "dir"])
@given(TREE)
def test_read_no_link(place: Place, name: str) -> None:
    with fails(EINVAL):
        os.readlink(place / name)


@given(TREE)
def test_name_with_slash(place: Place) -> None:
    with fails(ENOENT):
        os.symlink("target", place / "new/")


@given(TREE)
def test_times(place: Place) -> None:
    with stamped({place / "dir": "mc", place.path: "?"}):
        os.symlink("target", place / "dir/new")
    with stamped({place / "link": "", place.path: ""}):
        os.readlink(place / "link")


@pytest.mark.needs("users")
@given({"closed": Dir(mode=0o755)})
def test_without_the_right(place: Place) -> None:
    assert place.as_user(raised, os.symlink, "target", place / "closed/new") == EACCES


@pytest.mark.needs("users")
def test_belongs_to_its_maker(place: Place) -> None:
    place.as_user(os.symlink, "target", place / "new")
    st = os.lstat(place / "new")
    assert (st.st_uid, st.st_gid) == (USER, GROUP)


@pytest.mark.needs("users")
@given(TREE)
def test_chown_of_the_link_alone(place: Place) -> None:
    os.lchown(place / "link", USER, GROUP)
    assert os.lstat(place / "link").st_uid == USER
    assert os.stat(place / "file").st_uid != USER
    os.chown(place / "link", USER + 1, -1)
    assert os.lstat(place / "link").st_uid == USER
    assert os.stat(place / "file").st_uid == USER + 1


@given(TREE)
def test_times_of_the_link_alone(place: Place) -> None:
    before = os.stat(place / "file").st_mtime_ns
    os.utime(place / "link", (11, 12), follow_symlinks=False)
    assert os.lstat(place / "link").st_mtime == 12
    assert os.stat(place / "file").st_mtime_ns == before
    os.utime(place / "dangling", (13, 14), follow_symlinks=False)
    assert os.lstat(place / "dangling").st_mtime == 14


@given(TREE)
def test_user_xattrs_are_refused(place: Place) -> None:
    with fails(EPERM):
        os.setxattr(place / "link", "user.a", b"1", follow_symlinks=False)
    assert "user.a" not in os.listxattr(place / "file")


@pytest.mark.needs("trusted")
@given(TREE)
def test_trusted_xattrs_of_the_link_alone(place: Place) -> None:
    os.setxattr(place / "dangling", "trusted.a", b"1", follow_symlinks=False)
    assert os.getxattr(place / "dangling", "trusted.a", follow_symlinks=False) == b"1"
    os.setxattr(place / "link", "trusted.a", b"2", follow_symlinks=False)
    assert os.listxattr(place / "file") == []


@given({"dir": Dir(children={"file": File(content=b"in")}), "link": Symlink(target="dir")})
def test_link_to_directory_is_retargeted(place: Place) -> None:
    assert names(place / "link") == {"file"}
    os.unlink(place / "link")
    os.mkdir(place / "dir2")
    os.symlink("dir2", place / "link")
    write(place / "link/new", b"n")
    assert names(place / "dir2") == {"new"} and names(place / "dir") == {"file"}
    assert read(place / "dir/file") == b"in"


@given(TREE)
def test_absolute_link_leads_through_the_mount(place: Place) -> None:
    os.symlink(place / "file", place / "absolute")
    write(place / "absolute", b"through")
    assert read(place / "file") == b"through"


@pytest.mark.needs("users")
@given({"link": Symlink(target="file", uid=USER), "file": File(content=b"f")})
def test_protected_links_do_not_apply_outside_sticky_directories(place: Place) -> None:
    assert place.as_user(os.readlink, place / "link") == "file"
    assert place.as_user(read, place / "link") == b"f"
