"""unlink(2), and files that live on without a name."""

import fcntl
import os
import stat
from errno import EACCES, EISDIR, ENOENT, ENOTDIR

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, names, opened, raised, read, same, stamped, write
from tests.posix.places import USER, Place
from tests.posix.trees import Dir, File, Hardlink, Special, Symlink, given

TREE = {
    "file": File(content=b"content"),
    "other": File(content=b"other"),
    "link": Symlink(target="file"),
    "dangling": Symlink(target="nowhere"),
    "to-dir": Symlink(target="dir"),
    "fifo": Special(type=stat.S_IFIFO),
    "socket": Special(type=stat.S_IFSOCK),
    "dir": Dir(children={"child": File(content=b"child"), "twin": Hardlink(to="other")}),
}


@pytest.mark.parametrize("name", ["file", "link", "dangling", "to-dir", "fifo", "socket"])
@given(TREE)
def test_removes(place: Place, name: str) -> None:
    before = names(place.path)
    os.unlink(place / name)
    assert names(place.path) == before - {name}
    with fails(ENOENT):
        os.lstat(place / name)
    with fails(ENOENT):
        os.unlink(place / name)
    assert read(place / "other") == b"other"
    assert names(place / "dir") == {"child", "twin"}


@pytest.mark.needs("devices")
@given({"device": Special(type=stat.S_IFCHR, device=os.makedev(1, 3))})
def test_removes_a_device(place: Place) -> None:
    os.unlink(place / "device")
    assert names(place.path) == set()


@given(TREE)
def test_directory(place: Place) -> None:
    with fails(EISDIR):
        os.unlink(place / "dir")


@given(TREE)
def test_trailing_slash(place: Place) -> None:
    with fails(ENOTDIR):
        os.unlink(place / "file/")
    with fails(ENOTDIR, EISDIR):
        os.unlink(place / "to-dir/")


@given(TREE)
def test_name_can_be_used_again(place: Place) -> None:
    old = os.stat(place / "file").st_ino
    with opened(place / "file"):
        os.unlink(place / "file")
        write(place / "file", b"new")
        assert os.stat(place / "file").st_ino != old
    assert read(place / "file") == b"new"
    os.unlink(place / "file")
    os.mkdir(place / "file")
    assert names(place / "file") == set()
    os.rmdir(place / "file")
    os.symlink("dir", place / "file")
    assert os.readlink(place / "file") == "dir"


@given(TREE)
def test_times(place: Place) -> None:
    with opened(place / "file") as fd, stamped({fd: "c", place / "dir": "", place.path: "mc"}):
        os.unlink(place / "file")


@given(TREE)
def test_times_of_a_link_that_stays(place: Place) -> None:
    with stamped({place / "other": "c", place / "dir": "mc", place.path: "?"}):
        os.unlink(place / "dir/twin")


@pytest.mark.needs("users")
@given({"dir": Dir(children={"file": File(uid=USER)})})
def test_own_file_in_a_foreign_directory(place: Place) -> None:
    assert place.as_user(raised, os.unlink, place / "dir/file") == EACCES


@pytest.mark.needs("users")
@given({"dir": Dir(uid=USER, children={"file": File(uid=0, mode=0o600)})})
def test_foreign_file_in_his_own_directory(place: Place) -> None:
    place.as_user(os.unlink, place / "dir/file")
    assert names(place / "dir") == set()


@pytest.mark.needs("users")
@given({"dir": Dir(mode=0o777, children={"file": File(mode=0o000)})})
def test_unreadable_file_in_an_open_directory(place: Place) -> None:
    place.as_user(os.unlink, place / "dir/file")
    assert names(place / "dir") == set()


@given(TREE)
def test_open_file_lives_on(place: Place) -> None:
    ino = os.stat(place / "file").st_ino
    with opened(place / "file", os.O_RDWR) as fd:
        os.unlink(place / "file")
        st = os.fstat(fd)
        assert (st.st_nlink, st.st_size, st.st_ino) == (0, 7, ino)
        assert os.pread(fd, 100, 0) == b"content"
        assert os.pwrite(fd, b"CON", 0) == 3
        assert os.pread(fd, 100, 0) == b"CONtent"
        os.ftruncate(fd, 3)
        assert os.fstat(fd).st_size == 3
        os.fchmod(fd, 0o600)
        assert os.fstat(fd).st_mode & 0o777 == 0o600
        os.utime(fd, (1, 2))
        assert os.fstat(fd).st_mtime == 2
        os.fsync(fd)


@given(TREE)
def test_readonly_descriptor_lives_on(place: Place) -> None:
    with opened(place / "file") as fd:
        os.unlink(place / "file")
        assert os.fstat(fd).st_nlink == 0
        assert os.read(fd, 100) == b"content"


@given(TREE)
def test_unlinked_file_by_proc(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        os.unlink(place / "file")
        assert os.readlink(f"/proc/self/fd/{fd}") == place / "file" + " (deleted)"
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            assert same(fd, again)
            os.pwrite(again, b"by proc", 0)
        assert os.pread(fd, 100, 0) == b"by proc"
        with opened(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC):
            assert os.fstat(fd).st_size == 0


@given(TREE)
def test_unlinked_file_has_xattrs(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        os.unlink(place / "file")
        os.setxattr(fd, "user.after", b"1")
        assert os.getxattr(fd, "user.after") == b"1"
        assert "user.after" in os.listxattr(fd)
        os.removexattr(fd, "user.after")


@pytest.mark.needs("users")
@given(TREE)
def test_unlinked_file_can_be_chowned(place: Place) -> None:
    with opened(place / "file") as fd:
        os.unlink(place / "file")
        os.fchown(fd, USER, 7)
        assert (os.fstat(fd).st_uid, os.fstat(fd).st_gid) == (USER, 7)


@given(TREE)
def test_unlinked_file_as_a_source_and_target_of_copying(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as gone, opened(place / "other", os.O_RDWR) as other:
        os.unlink(place / "file")
        assert os.copy_file_range(gone, other, 7, 0, 0) == 7
        assert os.pread(other, 100, 0) == b"content"
        assert os.copy_file_range(other, gone, 3, 4, 0) == 3
        assert os.pread(gone, 100, 0) == b"enttent"


@given(TREE)
def test_two_descriptors_of_an_unlinked_file(place: Place) -> None:
    with opened(place / "file") as reader, opened(place / "file", os.O_WRONLY) as writer:
        os.unlink(place / "file")
        os.write(writer, b"CONTENT")
        assert os.read(reader, 100) == b"CONTENT"


@given(TREE)
def test_unlinked_with_a_new_file_of_that_name(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as old:
        os.unlink(place / "file")
        write(place / "file", b"new")
        assert os.pread(old, 100, 0) == b"content"
        os.pwrite(old, b"OLD", 0)
        assert read(place / "file") == b"new"
        assert not same(old, place / "file")


@given(TREE)
def test_replaced_by_rename_lives_on(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as old:
        os.rename(place / "dir/child", place / "file")
        assert os.fstat(old).st_nlink == 0
        assert os.pread(old, 100, 0) == b"content"
        os.pwrite(old, b"X", 0)
        assert read(place / "file") == b"child"


@given(TREE)
def test_directory_of_an_open_file_goes(place: Place) -> None:
    with opened(place / "dir/child", os.O_RDWR) as fd:
        os.unlink(place / "dir/child")
        os.unlink(place / "dir/twin")
        os.rmdir(place / "dir")
        os.mkdir(place / "dir")
        os.pwrite(fd, b"alive", 0)
        assert os.pread(fd, 10, 0) == b"alive"
        assert os.fstat(fd).st_nlink == 0


@given(TREE)
def test_lock_and_allocate_without_a_name(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        os.unlink(place / "file")
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        os.posix_fallocate(fd, 0, 10_000)
        assert os.fstat(fd).st_size == 10_000
        calls.fallocate(fd, calls.FALLOC_FL_PUNCH_HOLE | calls.FALLOC_FL_KEEP_SIZE, 0, 4096)
        assert os.pread(fd, 4096, 0) == b"\0" * 4096


@given(TREE)
def test_dot(place: Place) -> None:
    with fails(EISDIR):
        os.unlink(place / "dir/.")


@given({str(number): File(content=str(number).encode()) for number in range(40)})
def test_removed_while_listed(place: Place) -> None:
    """Remove while listing, as `rm -r` does: every name is seen once, and gone afterwards."""
    seen = []
    with os.scandir(place.path) as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
    assert sorted(seen, key=int) == [str(number) for number in range(40)]
    assert names(place.path) == set()
