"""stat(2) and statx(2), statfs(2), access(2): what they say, and that it stays so."""

import os
import stat
from collections.abc import Callable
from errno import EBADF, EINVAL

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, opened, same, write
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, Hardlink, Special, Symlink, given

TREE = {
    "file": File(content=b"0123456789", mode=0o640, time=1_234_567_890),
    "sparse": File(content=b"x", size=1 << 20),
    "pair": File(),
    "twin": Hardlink(to="pair"),
    "dir": Dir(mode=0o750, children={"sub": Dir(), "child": File()}),
    "link": Symlink(target="file"),
    "fifo": Special(type=stat.S_IFIFO),
    "socket": Special(type=stat.S_IFSOCK),
}
TYPES = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "link": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}

each = pytest.mark.parametrize("name", TYPES)


@each
@given(TREE)
def test_type(place: Place, name: str) -> None:
    assert stat.S_IFMT(os.lstat(place / name).st_mode) == TYPES[name]


@pytest.mark.needs("devices")
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
@given(
    {
        "null": Special(type=stat.S_IFCHR, device=os.makedev(1, 3)),
        "loop": Special(type=stat.S_IFBLK, device=os.makedev(7, 200)),
    }
)
def test_device(place: Place, kind: int) -> None:
    name, number = ("null", (1, 3)) if kind == stat.S_IFCHR else ("loop", (7, 200))
    os.chmod(place / name, 0o600)
    st = os.stat(place / name)
    assert stat.S_IFMT(st.st_mode) == kind
    assert (os.major(st.st_rdev), os.minor(st.st_rdev)) == number


@given(TREE)
def test_file(place: Place) -> None:
    st = os.stat(place / "file")
    assert (st.st_size, st.st_nlink, st.st_mode) == (10, 1, stat.S_IFREG | 0o640)
    assert st.st_mtime == 1_234_567_890
    assert st.st_blksize >= 512
    assert os.stat(place / "sparse").st_blocks * 512 < 1 << 20


@each
@given(TREE)
def test_inode_number_outlives_every_change(place: Place, name: str) -> None:
    path = place / name
    before = os.lstat(path).st_ino

    def there_and_back() -> None:
        os.rename(path, path + "2")
        os.rename(path + "2", path)

    changes: list[Callable[[], object]] = [
        lambda: os.utime(path, (1, 2), follow_symlinks=False),
        lambda: os.lchown(path, -1, os.getegid()),
        there_and_back,
    ]
    if name != "link":
        changes.append(lambda: os.chmod(path, 0o700))
    if name == "file":
        changes += [
            lambda: write(path, b"new"),
            lambda: os.truncate(path, 0),
            lambda: os.setxattr(path, "user.a", b"1"),
            lambda: os.link(path, path + "3"),
        ]
    if name == "dir":
        changes += [
            lambda: os.unlink(path + "/child"),
            lambda: write(path + "/new", b""),
            lambda: os.rmdir(path + "/sub"),
        ]
    for number, change in enumerate(changes):
        change()
        assert os.lstat(path).st_ino == before, f"after change {number}"


@given(TREE)
def test_inode_numbers_are_unique(place: Place) -> None:
    found = {name: os.lstat(place / name).st_ino for name in os.listdir(place.path)}
    assert found["pair"] == found["twin"]
    del found["twin"]
    assert len(set(found.values())) == len(found)


@each
@given(TREE)
def test_inode_number_of_the_listing(place: Place, name: str) -> None:
    with os.scandir(place.path) as entries:
        inos = {entry.name: entry.inode() for entry in entries}
    assert inos[name] == os.lstat(place / name).st_ino
    os.chmod(place / "file", 0o600)
    os.rename(place / "dir", place / "dir2")
    with os.scandir(place.path) as entries:
        for entry in entries:
            assert entry.inode() == os.lstat(entry.path).st_ino, entry.name


@given(TREE)
def test_one_device_number(place: Place) -> None:
    devices = {os.lstat(place / name).st_dev for name in [*TYPES, "dir/child", "."]}
    write(place / "file", b"copied up")
    write(place / "new", b"")
    devices |= {os.lstat(place / name).st_dev for name in ("file", "new")}
    assert len(devices) == 1


@each
@given(TREE)
def test_statx_agrees(place: Place, name: str) -> None:
    st = os.lstat(place / name)
    for sync in (0, calls.AT_STATX_FORCE_SYNC, calls.AT_STATX_DONT_SYNC):
        found = calls.statx(place / name, calls.AT_SYMLINK_NOFOLLOW | sync)
        assert found.mask & calls.STATX_BASIC_STATS == calls.STATX_BASIC_STATS
        assert (found.mode, found.ino, found.size, found.nlink) == (
            st.st_mode,
            st.st_ino,
            st.st_size,
            st.st_nlink,
        )


@given(TREE)
def test_statx_bad_flags(place: Place) -> None:
    with fails(EINVAL):
        calls.statx(place / "file", calls.AT_STATX_FORCE_SYNC | calls.AT_STATX_DONT_SYNC)
    with fails(EINVAL):
        calls.statx(place / "file", 0, 0x80000000)


@given(TREE)
def test_birth_time(place: Place) -> None:
    found = calls.statx(place / "file")
    assert found.mask & calls.STATX_BTIME
    assert found.btime[0] > 1_234_567_890


@given(TREE)
def test_by_descriptor(place: Place) -> None:
    for name in ("file", "dir"):
        with opened(place / name) as fd:
            assert same(fd, place / name)
            os.rename(place / name, place / "moved")
            assert same(fd, place / "moved")
            os.rename(place / "moved", place / name)
    with fails(EBADF):
        os.fstat(12345)


@given(TREE)
def test_size_follows_writes(place: Place) -> None:
    with opened(place / "file", os.O_WRONLY | os.O_APPEND) as fd:
        for count in range(1, 20):
            os.write(fd, b"x" * 1000)
            assert os.stat(place / "file").st_size == 10 + 1000 * count
            assert os.fstat(fd).st_size == 10 + 1000 * count


def test_blocks_follow_data(place: Place) -> None:
    with opened(place / "new", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x" * 100_000)
        os.fsync(fd)
        assert 100_000 <= os.fstat(fd).st_blocks * 512 < 300_000


@given(TREE)
def test_statfs(place: Place) -> None:
    st = os.statvfs(place.path)
    assert 0 < st.f_bavail <= st.f_bfree <= st.f_blocks
    assert 0 < st.f_ffree <= st.f_files
    assert st.f_namemax == 255
    assert st.f_bsize >= 512 and st.f_frsize >= 512
    with opened(place / "file") as fd:
        assert os.fstatvfs(fd).f_blocks == st.f_blocks


@given(TREE)
def test_pathconf(place: Place) -> None:
    assert os.pathconf(place.path, "PC_NAME_MAX") == 255
    assert os.pathconf(place.path, "PC_PATH_MAX") == 4096
    assert os.pathconf(place / "file", "PC_LINK_MAX") >= 8


@given(TREE)
def test_access(place: Place) -> None:
    assert os.access(place / "file", os.F_OK | os.R_OK | os.W_OK)
    assert not os.access(place / "file", os.X_OK)
    assert os.access(place / "dir", os.X_OK)
    assert not os.access(place / "missing", os.F_OK)


@pytest.mark.needs("users")
@pytest.mark.parametrize("bits", [0o700, 0o070, 0o007, 0o640, 0o104])
@pytest.mark.parametrize("who", ["owner", "group", "other", "supplementary"])
def test_access_of_users(place: Place, bits: int, who: str) -> None:
    write(place / "file", b"")
    os.chown(place / "file", USER if who == "owner" else 9, GROUP if who == "group" else 777)
    os.chmod(place / "file", bits)
    groups = [777] if who == "supplementary" else []
    shift = {"owner": 6, "group": 3, "supplementary": 3, "other": 0}[who]
    expected = [bool(bits >> shift & bit) for bit in (4, 2, 1)]

    def act() -> list[bool]:
        return [os.access(place / "file", bit) for bit in (os.R_OK, os.W_OK, os.X_OK)]

    assert place.as_user(act, groups=groups) == expected
