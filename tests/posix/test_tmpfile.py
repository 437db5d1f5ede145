"""O_TMPFILE, and giving such a file a name."""

import os
import stat
from errno import EACCES, EEXIST, EINVAL, ENOENT, ENOTDIR

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, names, opened, raised, read, stamped, umask
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, given

TREE = {"dir": Dir(mode=0o777), "closed": Dir(), "file": File(content=b"old")}
RW = os.O_TMPFILE | os.O_RDWR


@given(TREE)
def test_has_no_name(place: Place) -> None:
    with opened(place / "dir", RW, 0o640) as fd, stamped({place / "dir": ""}):
        st = os.fstat(fd)
        assert stat.S_ISREG(st.st_mode) and st.st_nlink == 0 and st.st_size == 0
        os.write(fd, b"data" * 1000)
        assert os.pread(fd, 4, 3996) == b"data"
        os.ftruncate(fd, 10)
        assert os.fstat(fd).st_size == 10
    assert names(place / "dir") == set()
    assert names(place.path) == set(TREE)


@pytest.mark.parametrize("mask", [0, 0o027])
@given(TREE)
def test_mode(place: Place, mask: int) -> None:
    with umask(mask), opened(place / "dir", RW, 0o666) as fd:
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o666 & ~mask


@given(TREE)
def test_gets_a_name(place: Place) -> None:
    with opened(place / "dir", RW, 0o644) as fd:
        os.write(fd, b"content")
        ino = os.fstat(fd).st_ino
        calls.link_proc(fd, place / "named")
        assert os.fstat(fd).st_nlink == 1
        assert os.stat(place / "named").st_ino == ino
        os.write(fd, b" and more")
    assert read(place / "named") == b"content and more"


@given(TREE)
def test_gets_a_name_by_descriptor(place: Place) -> None:
    """AT_EMPTY_PATH: since Linux 6.10 the opener may do it without a capability."""
    with opened(place / "dir", RW, 0o644) as fd:
        os.write(fd, b"content")
        calls.link_descriptor(fd, place / "dir/named")
    assert read(place / "dir/named") == b"content"


@given(TREE)
def test_gets_two_names(place: Place) -> None:
    with opened(place.path, RW, 0o644) as fd:
        calls.link_proc(fd, place / "one")
        calls.link_proc(fd, place / "dir/two")
        assert os.fstat(fd).st_nlink == 2
        os.unlink(place / "one")
        assert os.fstat(fd).st_nlink == 1


@given(TREE)
def test_name_is_taken(place: Place) -> None:
    with opened(place.path, RW, 0o644) as fd, fails(EEXIST):
        calls.link_proc(fd, place / "file")
    assert read(place / "file") == b"old"


@given(TREE)
def test_name_that_was_removed(place: Place) -> None:
    os.unlink(place / "file")
    with opened(place.path, RW, 0o644) as fd:
        os.write(fd, b"new")
        calls.link_proc(fd, place / "file")
    assert read(place / "file") == b"new"


@given(TREE)
def test_name_in_another_directory(place: Place) -> None:
    with opened(place / "dir", RW, 0o644) as fd:
        calls.link_proc(fd, place / "closed/named")
    assert names(place / "closed") == {"named"}


@given(TREE)
def test_exclusive_never_gets_a_name(place: Place) -> None:
    with opened(place.path, RW | os.O_EXCL, 0o644) as fd, fails(ENOENT):
        calls.link_proc(fd, place / "named")


@given(TREE)
def test_needs_writing(place: Place) -> None:
    with fails(EINVAL):
        os.open(place.path, os.O_TMPFILE | os.O_RDONLY)


@given(TREE)
def test_of_a_file(place: Place) -> None:
    with fails(ENOTDIR):
        os.open(place / "file", RW)


@pytest.mark.needs("users")
@given(TREE)
def test_without_the_right(place: Place) -> None:
    assert place.as_user(raised, os.open, place / "closed", RW) == EACCES


@pytest.mark.needs("users")
@given(TREE)
def test_belongs_to_its_maker(place: Place) -> None:
    def act() -> None:
        fd = os.open(place / "dir", RW, 0o400)
        os.write(fd, b"mine")
        calls.link_proc(fd, place / "dir/named")

    place.as_user(act)
    st = os.stat(place / "dir/named")
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode), st.st_size) == (USER, GROUP, 0o400, 4)


@given(TREE)
def test_attributes_before_the_name(place: Place) -> None:
    with opened(place.path, RW, 0o600) as fd:
        os.fchmod(fd, 0o751)
        os.setxattr(fd, "user.a", b"1")
        os.utime(fd, (1, 2))
        calls.link_proc(fd, place / "named")
    st = os.stat(place / "named")
    assert (stat.S_IMODE(st.st_mode), st.st_mtime) == (0o751, 2)
    assert os.getxattr(place / "named", "user.a") == b"1"


@given(TREE)
def test_many(place: Place) -> None:
    fds = [os.open(place / "dir", RW, 0o600) for _ in range(100)]
    for number, fd in enumerate(fds):
        os.write(fd, str(number).encode())
    assert [os.pread(fd, 10, 0) for fd in fds] == [str(n).encode() for n in range(100)]
    assert len({os.fstat(fd).st_ino for fd in fds}) == 100
    assert names(place / "dir") == set()
