"""mkdir(2) and rmdir(2)."""

import os
import stat
from errno import EACCES, EEXIST, EINVAL, ENOENT, ENOTDIR, ENOTEMPTY

import pytest

from tests.posix.asserts import fails, mode, names, opened, raised, read, stamped, umask, write
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, Special, Symlink, given

TREE = {
    "file": File(),
    "empty": Dir(),
    "full": Dir(children={"child": File(content=b"c"), "sub": Dir(children={"deep": File()})}),
    "link": Symlink(target="empty"),
    "dangling": Symlink(target="nowhere"),
    "fifo": Special(type=stat.S_IFIFO),
}


@pytest.mark.parametrize("bits", [0o000, 0o500, 0o555, 0o700, 0o755, 0o777, 0o1777])
def test_makes(place: Place, bits: int) -> None:
    with umask(0):
        os.mkdir(place / "new", bits)
    st = os.stat(place / "new")
    assert stat.S_ISDIR(st.st_mode) and mode(place / "new") == bits
    assert (st.st_uid, st.st_gid, st.st_nlink) == (os.geteuid(), os.getegid(), 2)
    os.chmod(place / "new", 0o700)
    assert names(place / "new") == set()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o777])
def test_umask(place: Place, mask: int) -> None:
    with umask(mask):
        os.mkdir(place / "new", 0o777)
    assert mode(place / "new") == 0o777 & ~mask


def test_set_id_bits_are_not_taken(place: Place) -> None:
    with umask(0):
        os.mkdir(place / "new", 0o6755)
    assert mode(place / "new") == 0o755


@pytest.mark.parametrize("name", ["file", "empty", "full", "link", "dangling", "fifo"])
@given(TREE)
def test_exists(place: Place, name: str) -> None:
    with fails(EEXIST):
        os.mkdir(place / name)


def test_trailing_slash(place: Place) -> None:
    os.mkdir(place / "new/")
    os.rmdir(place / "new///")


def test_dots_exist(place: Place) -> None:
    for name in (".", "..", "./"):
        with fails(EEXIST):
            os.mkdir(place / name)


def test_link_count_of_the_parent(place: Place) -> None:
    start = os.stat(place.path).st_nlink
    os.mkdir(place / "a")
    os.mkdir(place / "b")
    assert os.stat(place.path).st_nlink == start + 2
    os.rename(place / "a", place / "b/a")
    assert os.stat(place.path).st_nlink == start + 1
    assert os.stat(place / "b").st_nlink == 3
    os.rmdir(place / "b/a")
    os.rmdir(place / "b")
    assert os.stat(place.path).st_nlink == start


@given({"dir": Dir(children={"one": Dir(), "two": Dir(), "file": File()})})
def test_given_link_counts(place: Place) -> None:
    assert os.stat(place / "dir").st_nlink == 4
    os.rmdir(place / "dir/one")
    assert os.stat(place / "dir").st_nlink == 3


@given(TREE)
def test_times(place: Place) -> None:
    with stamped({place.path: "?", place / "empty": "mc"}):
        os.mkdir(place / "empty/new")
    with stamped({place.path: "?", place / "empty": "mc"}):
        os.rmdir(place / "empty/new")


@pytest.mark.needs("users")
@given({"closed": Dir()})
def test_without_the_right(place: Place) -> None:
    assert place.as_user(raised, os.mkdir, place / "closed/new") == EACCES


@pytest.mark.needs("users")
def test_belongs_to_its_maker(place: Place) -> None:
    place.as_user(os.mkdir, place / "new")
    st = os.stat(place / "new")
    assert (st.st_uid, st.st_gid) == (USER, GROUP)


@given(TREE)
def test_removes(place: Place) -> None:
    os.rmdir(place / "empty")
    assert "empty" not in names(place.path)
    with fails(ENOENT):
        os.rmdir(place / "empty")
    with fails(ENOENT):
        os.stat(place / "empty")


@given(TREE)
def test_not_empty(place: Place) -> None:
    with fails(ENOTEMPTY):
        os.rmdir(place / "full")
    assert read(place / "full/child") == b"c"


@pytest.mark.parametrize("name", ["file", "link", "dangling", "fifo"])
@given(TREE)
def test_not_a_directory(place: Place, name: str) -> None:
    with fails(ENOTDIR):
        os.rmdir(place / name)


@given(TREE)
def test_remove_dots(place: Place) -> None:
    with fails(EINVAL):
        os.rmdir(place / "empty/.")
    with fails(ENOTEMPTY):
        os.rmdir(place / "empty/..")


@pytest.mark.needs("users")
@given({"closed": Dir(children={"empty": Dir(uid=USER)})})
def test_remove_without_the_right(place: Place) -> None:
    assert place.as_user(raised, os.rmdir, place / "closed/empty") == EACCES


@given(TREE)
def test_emptied_then_removed_then_made_again(place: Place) -> None:
    os.unlink(place / "full/child")
    os.unlink(place / "full/sub/deep")
    os.rmdir(place / "full/sub")
    assert names(place / "full") == set()
    os.rmdir(place / "full")
    os.mkdir(place / "full")
    assert names(place / "full") == set()
    for hidden in ("child", "sub", "sub/deep"):
        with fails(ENOENT):
            os.lstat(place / "full" + "/" + hidden)
    write(place / "full/child", b"new")
    os.mkdir(place / "full/sub")
    assert names(place / "full/sub") == set()
    assert read(place / "full/child") == b"new"


@given(TREE)
def test_made_again_as_something_else(place: Place) -> None:
    os.rmdir(place / "empty")
    write(place / "empty", b"a file")
    assert read(place / "empty") == b"a file"
    os.unlink(place / "empty")
    os.mkdir(place / "empty")
    assert stat.S_ISDIR(os.stat(place / "empty").st_mode)


@given(TREE)
def test_removed_directory_still_open(place: Place) -> None:
    with opened(place / "empty", os.O_DIRECTORY) as fd:
        os.rmdir(place / "empty")
        assert os.fstat(fd).st_nlink == 0
        assert os.listdir(fd) == []
        with fails(ENOENT):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        with fails(ENOENT):
            os.mkdir("new", dir_fd=fd)
        with fails(ENOENT):
            os.stat("..name", dir_fd=fd)


@given(TREE)
def test_removed_working_directory(place: Place) -> None:
    os.chdir(place / "empty")
    os.rmdir(place / "empty")
    with fails(ENOENT):
        os.getcwd()
    with fails(ENOENT):
        write("new", b"")
    assert os.listdir(".") == []
    os.mkdir(place / "empty")
    with fails(ENOENT):
        write("new", b"")
    assert names(place / "empty") == set()


@given(TREE)
def test_working_directory_follows_a_rename(place: Place) -> None:
    os.chdir(place / "empty")
    os.rename(place / "empty", place / "moved")
    write("new", b"n")
    assert os.getcwd() == place / "moved"
    assert read(place / "moved/new") == b"n"


def test_deep(place: Place) -> None:
    path = place.path
    for level in range(100):
        path += f"/{level}"
        os.mkdir(path)
    write(path + "/leaf", b"deep")
    assert sum(len(files) for _, _, files in os.walk(place.path)) == 1
    os.unlink(path + "/leaf")
    while path != place.path:
        os.rmdir(path)
        path = os.path.dirname(path)


@given({"full": Dir(children={str(n): File() for n in range(30)})})
def test_directory_is_never_half_empty(place: Place) -> None:
    for number in range(30):
        with fails(ENOTEMPTY):
            os.rmdir(place / "full")
        os.unlink(place / f"full/{number}")
    os.rmdir(place / "full")
