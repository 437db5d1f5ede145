"""open(2) and creat(2)."""

import fcntl
import os
import stat
from errno import (
    EACCES,
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    ENODEV,
    ENOENT,
    ENOTDIR,
    ENXIO,
    EPERM,
)

import pytest

from tests.posix.asserts import fails, mode, names, opened, raised, read, umask, write
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, Special, Symlink, given

TREE = {
    "file": File(content=b"content"),
    "dir": Dir(children={"child": File()}),
    "link": Symlink(target="file"),
    "dangling": Symlink(target="created"),
    "to-dir": Symlink(target="dir"),
    "fifo": Special(type=stat.S_IFIFO),
    "socket": Special(type=stat.S_IFSOCK),
    "private": File(content=b"secret", mode=0o600),
    "readonly": File(content=b"r", mode=0o444),
    "writeonly": File(content=b"w", mode=0o222),
    "none": File(mode=0o000),
}


def _open(path: str, flags: int, mode: int = 0o666) -> None:
    os.close(os.open(path, flags, mode))


@given(TREE)
def test_creates(place: Place) -> None:
    with umask(0), opened(place / "new", os.O_CREAT | os.O_WRONLY, 0o640):
        pass
    st = os.stat(place / "new")
    assert stat.S_ISREG(st.st_mode) and mode(place / "new") == 0o640
    assert (st.st_size, st.st_nlink) == (0, 1)
    assert (st.st_uid, st.st_gid) == (os.geteuid(), os.getegid())
    assert "new" in names(place.path)


@pytest.mark.parametrize("bits", [0o000, 0o111, 0o444, 0o555, 0o644, 0o777])
def test_creates_with_mode(place: Place, bits: int) -> None:
    with umask(0):
        fd = os.open(place / "new", os.O_CREAT | os.O_RDWR | os.O_EXCL, bits)
    assert mode(place / "new") == bits
    # The descriptor is writable whatever the mode forbids to the next one.
    assert os.write(fd, b"data") == 4
    assert os.pread(fd, 4, 0) == b"data"


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077, 0o777])
def test_umask(place: Place, mask: int) -> None:
    with umask(mask), opened(place / "new", os.O_CREAT | os.O_WRONLY, 0o777):
        assert mode(place / "new") == 0o777 & ~mask


@pytest.mark.parametrize("bits", [0o4755, 0o2755, 0o1644, 0o6777])
def test_creates_with_set_id_bits(place: Place, bits: int) -> None:
    with umask(0), opened(place / "new", os.O_CREAT | os.O_WRONLY, bits):
        assert mode(place / "new") == bits


@given(TREE)
def test_excl_of_a_file(place: Place) -> None:
    with fails(EEXIST):
        _open(place / "file", os.O_CREAT | os.O_EXCL)


@pytest.mark.parametrize("name", ["dir", "link", "dangling", "to-dir", "fifo", "socket"])
@given(TREE)
def test_excl_of_anything(place: Place, name: str) -> None:
    with fails(EEXIST):
        _open(place / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert "created" not in names(place.path)


@given(TREE)
def test_create_follows_a_dangling_link(place: Place) -> None:
    _open(place / "dangling", os.O_CREAT | os.O_WRONLY)
    assert stat.S_ISREG(os.lstat(place / "created").st_mode)


@given(TREE)
def test_create_of_what_exists_keeps_it(place: Place) -> None:
    before = os.stat(place / "file")
    _open(place / "file", os.O_CREAT | os.O_WRONLY, 0o600)
    after = os.stat(place / "file")
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert read(place / "file") == b"content"


@given(TREE)
def test_missing(place: Place) -> None:
    with fails(ENOENT):
        _open(place / "missing", os.O_RDONLY)


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
@given(TREE)
def test_directory_for_writing(place: Place, flags: int) -> None:
    with fails(EISDIR):
        _open(place / "dir", flags)


@given(TREE)
def test_directory_with_creat(place: Place) -> None:
    with fails(EISDIR):
        _open(place / "dir", os.O_CREAT | os.O_RDONLY)


@given(TREE)
def test_create_with_trailing_slash(place: Place) -> None:
    with fails(EISDIR):
        _open(place / "new/", os.O_CREAT | os.O_WRONLY)


@pytest.mark.parametrize("name", ["file", "fifo", "link"])
@given(TREE)
def test_o_directory_of_no_directory(place: Place, name: str) -> None:
    with fails(ENOTDIR):
        _open(place / name, os.O_DIRECTORY)


def test_o_directory_with_creat(place: Place) -> None:
    with fails(EINVAL):
        _open(place / "new", os.O_DIRECTORY | os.O_CREAT)
    assert names(place.path) == set()


@given(TREE)
def test_o_directory(place: Place) -> None:
    with opened(place / "to-dir", os.O_DIRECTORY) as fd:
        assert os.listdir(fd) == ["child"]


@pytest.mark.parametrize("name", ["link", "dangling", "to-dir"])
@given(TREE)
def test_nofollow(place: Place, name: str) -> None:
    with fails(ELOOP):
        _open(place / name, os.O_NOFOLLOW)


@given(TREE)
def test_nofollow_with_path_opens_the_link(place: Place) -> None:
    with opened(place / "link", os.O_NOFOLLOW | os.O_PATH) as fd:
        assert stat.S_ISLNK(os.fstat(fd).st_mode)
        assert os.readlink("", dir_fd=fd) == "file"


@given(TREE)
def test_socket_cannot_be_opened(place: Place) -> None:
    with fails(ENXIO):
        _open(place / "socket", os.O_RDWR)


@given(TREE)
def test_fifo_without_reader(place: Place) -> None:
    with fails(ENXIO):
        _open(place / "fifo", os.O_WRONLY | os.O_NONBLOCK)


@pytest.mark.needs("devices")
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_device_without_driver(place: Place, kind: int) -> None:
    os.mknod(place / "device", kind | 0o600, os.makedev(255, 255))
    with fails(ENXIO, ENODEV):
        _open(place / "device", os.O_RDONLY)


@pytest.mark.needs("devices")
@given({"null": Special(type=stat.S_IFCHR, device=os.makedev(1, 3))})
def test_device_works(place: Place) -> None:
    with opened(place / "null", os.O_RDWR) as fd:
        assert os.write(fd, b"gone") == 4
        assert os.read(fd, 4) == b""
    with opened(place / "null", os.O_WRONLY | os.O_TRUNC):
        pass


@given(TREE)
def test_truncates(place: Place) -> None:
    with opened(place / "file", os.O_WRONLY | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == 0
    assert read(place / "file") == b""


@given(TREE)
def test_truncate_and_shorter_rewrite(place: Place) -> None:
    with opened(place / "file", os.O_RDWR | os.O_TRUNC) as fd:
        os.write(fd, b"ab")
        assert os.fstat(fd).st_size == 2
        assert os.pread(fd, 100, 0) == b"ab"
    assert read(place / "file") == b"ab"


@given({"big": File(content=b"x" * 300_000)})
def test_truncate_after_reading_drops_cached_pages(place: Place) -> None:
    assert len(read(place / "big")) == 300_000
    with opened(place / "big", os.O_RDWR | os.O_TRUNC) as fd:
        os.pwrite(fd, b"y", 200_000)
        assert os.pread(fd, 300_000, 0) == b"\0" * 200_000 + b"y"


@given(TREE)
def test_readonly_truncate_empties_a_file(place: Place) -> None:
    """Unspecified by POSIX; Linux truncates."""
    _open(place / "file", os.O_RDONLY | os.O_TRUNC)
    assert read(place / "file") == b""


@given(TREE)
def test_creat(place: Place) -> None:
    with opened(place / "file", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600):
        pass
    assert os.stat(place / "file").st_size == 0
    assert mode(place / "file") == 0o644


@given(TREE)
def test_append(place: Place) -> None:
    with opened(place / "file", os.O_WRONLY | os.O_APPEND) as fd:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b" and more")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 16
    assert read(place / "file") == b"content and more"


@given(TREE)
def test_two_appending_descriptors(place: Place) -> None:
    flags = os.O_WRONLY | os.O_APPEND
    with opened(place / "file", flags) as one, opened(place / "file", flags) as two:
        for _ in range(50):
            os.write(one, b"1")
            os.write(two, b"22")
    assert read(place / "file") == b"content" + b"122" * 50


@given(TREE)
def test_append_after_others_truncated(place: Place) -> None:
    with opened(place / "file", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"1234")
        os.truncate(place / "file", 2)
        os.write(fd, b"end")
    assert read(place / "file") == b"coend"


@given(TREE)
def test_access_modes_bind_descriptors(place: Place) -> None:
    with opened(place / "file", os.O_RDONLY) as fd, fails(9):
        os.write(fd, b"x")
    with opened(place / "file", os.O_WRONLY) as fd, fails(9):
        os.read(fd, 1)
    with opened(place / "file", os.O_PATH) as fd:
        for operation in (
            lambda: os.read(fd, 1),
            lambda: os.fchmod(fd, 0),
            lambda: os.ftruncate(fd, 0),
        ):
            with fails(9):
                operation()


@given(TREE)
def test_path_descriptor(place: Place) -> None:
    with opened(place / "none", os.O_PATH) as fd:
        assert os.path.samestat(os.fstat(fd), os.stat(place / "none"))
    with opened(place / "dir", os.O_PATH) as fd:
        assert os.stat("child", dir_fd=fd).st_size == 0


@given(TREE)
def test_flags_are_kept(place: Place) -> None:
    with opened(place / "file", os.O_RDWR | os.O_APPEND | os.O_NONBLOCK) as fd:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        assert flags & (os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK) == (
            os.O_RDWR | os.O_APPEND | os.O_NONBLOCK
        )


@pytest.mark.needs("users")
@pytest.mark.parametrize(
    ("name", "flags", "errno"),
    [
        ("private", os.O_RDONLY, EACCES),
        ("private", os.O_WRONLY, EACCES),
        ("private", os.O_RDWR, EACCES),
        ("readonly", os.O_RDONLY, 0),
        ("readonly", os.O_WRONLY, EACCES),
        ("readonly", os.O_RDWR, EACCES),
        ("readonly", os.O_RDONLY | os.O_TRUNC, EACCES),
        ("writeonly", os.O_RDONLY, EACCES),
        ("writeonly", os.O_WRONLY, 0),
        ("writeonly", os.O_RDWR, EACCES),
        ("none", os.O_RDONLY, EACCES),
        ("none", os.O_PATH, 0),
        ("file", os.O_RDONLY | os.O_CREAT, 0),
        ("file", os.O_WRONLY | os.O_CREAT, EACCES),
        ("file", os.O_RDONLY | os.O_NOATIME, EPERM),
        ("dir", os.O_RDONLY, 0),
        ("dir/new", os.O_RDONLY | os.O_CREAT, EACCES),
        ("dir/child", os.O_RDONLY | os.O_CREAT | os.O_EXCL, EEXIST),
    ],
)
@given(TREE)
def test_rights_of_others(place: Place, name: str, flags: int, errno: int) -> None:
    assert place.as_user(raised, _open, place / name, flags) == errno


@given({"mine": File(content=b"m", mode=0o000)})
def test_own_file_without_rights(place: Place) -> None:
    """Root opens it; an owner without capabilities does not, though he can change that."""
    if os.geteuid() == 0:
        assert read(place / "mine") == b"m"
        write(place / "mine", b"new")
        assert read(place / "mine") == b"new"
    else:
        with fails(EACCES):
            _open(place / "mine", os.O_RDONLY)
        os.chmod(place / "mine", 0o600)
        assert read(place / "mine") == b"m"


@pytest.mark.needs("users")
def test_new_file_belongs_to_its_creator(place: Place) -> None:
    place.as_user(write, place / "new", b"mine")
    st = os.stat(place / "new")
    assert (st.st_uid, st.st_gid, st.st_size) == (USER, GROUP, 4)


@pytest.mark.needs("users")
def test_user_reads_back_what_he_made_unreadable(place: Place) -> None:
    def act() -> bytes:
        fd = os.open(place / "new", os.O_CREAT | os.O_RDWR, 0o000)
        os.write(fd, b"hidden")
        return os.pread(fd, 10, 0)

    assert place.as_user(act) == b"hidden"


def test_user_writes_through_a_readonly_new_file(place: Place) -> None:
    """`git add` creates its objects so."""
    with opened(place / "object", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444) as fd:
        os.write(fd, b"blob")
        os.fsync(fd)
    assert read(place / "object") == b"blob"
    assert mode(place / "object") == 0o444


@pytest.mark.needs("users")
@given({"theirs": File(uid=USER + 1, gid=GROUP, mode=0o640, content=b"group")})
def test_group_rights(place: Place) -> None:
    assert place.as_user(read, place / "theirs") == b"group"
    assert place.as_user(raised, _open, place / "theirs", os.O_WRONLY) == EACCES


@pytest.mark.needs("users")
@given({"theirs": File(uid=USER + 1, gid=777, mode=0o660, content=b"group")})
def test_supplementary_group_rights(place: Place) -> None:
    assert place.as_user(raised, _open, place / "theirs", os.O_RDWR) == EACCES
    assert place.as_user(raised, _open, place / "theirs", os.O_RDWR, groups=[5, 777, 9]) == 0


@pytest.mark.needs("users")
@given({"mine": File(uid=USER, gid=GROUP, mode=0o077)})
def test_owner_class_comes_first(place: Place) -> None:
    """The owner gets the owner's rights even where everybody else has more."""
    assert place.as_user(raised, _open, place / "mine", os.O_RDONLY) == EACCES


@pytest.mark.needs("users")
@given({"ours": File(uid=USER + 1, gid=GROUP, mode=0o707)})
def test_group_class_before_others(place: Place) -> None:
    assert place.as_user(raised, _open, place / "ours", os.O_RDONLY) == EACCES


@pytest.mark.needs("users")
@given({"locked": Dir(mode=0o666, children={"file": File(mode=0o666)})})
def test_directory_listed_but_not_searched(place: Place) -> None:
    assert place.as_user(os.listdir, place / "locked") == ["file"]
    assert place.as_user(raised, os.stat, place / "locked/file") == EACCES


@pytest.mark.needs("users")
@given({"dark": Dir(mode=0o711, children={"file": File(mode=0o666, content=b"f")})})
def test_directory_searched_but_not_listed(place: Place) -> None:
    assert place.as_user(raised, os.listdir, place / "dark") == EACCES
    assert place.as_user(read, place / "dark/file") == b"f"


@given(TREE)
def test_many_descriptors_of_one_file(place: Place) -> None:
    fds = [os.open(place / "file", os.O_RDWR) for _ in range(200)]
    os.pwrite(fds[0], b"C", 0)
    assert {os.pread(fd, 7, 0) for fd in fds} == {b"Content"}


@given(TREE)
def test_early_reader_sees_later_writes(place: Place) -> None:
    """Copy-up must not leave a descriptor with the old file."""
    with opened(place / "file", os.O_RDONLY) as early:
        assert os.read(early, 3) == b"con"
        with opened(place / "file", os.O_WRONLY) as late:
            os.pwrite(late, b"TENT", 3)
        assert os.read(early, 10) == b"TENT"
        assert os.path.samestat(os.fstat(early), os.stat(place / "file"))
