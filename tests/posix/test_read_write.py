"""read(2), write(2) and their kin, lseek(2)."""

import ctypes
import fcntl
import os
import resource
import signal
from errno import EBADF, EFBIG, EINVAL, EISDIR, ENOTTY, ENXIO, EOVERFLOW

import pytest

from tests.posix.asserts import fails, opened, read, write
from tests.posix.places import Place
from tests.posix.trees import Dir, File, given

BIG = bytes(range(256)) * 1024  # 256 KiB
TREE = {
    "file": File(content=b"0123456789"),
    "big": File(content=BIG),
    "empty": File(),
    "dir": Dir(),
}


@given(TREE)
def test_read_to_the_end(place: Place) -> None:
    with opened(place / "file") as fd:
        assert os.read(fd, 4) == b"0123"
        assert os.read(fd, 100) == b"456789"
        assert os.read(fd, 100) == b""
        assert os.read(fd, 0) == b""


@given(TREE)
def test_read_beyond_the_end(place: Place) -> None:
    with opened(place / "file") as fd:
        assert os.pread(fd, 10, 10) == b""
        assert os.pread(fd, 10, 1 << 40) == b""
        assert os.pread(fd, 10, 9) == b"9"


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 4097, 131071, 131072, 262143])
@given(TREE)
def test_write_inside(place: Place, offset: int) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        assert os.pwrite(fd, b"!", offset) == 1
    assert read(place / "big") == BIG[:offset] + b"!" + BIG[offset + 1 :]


@pytest.mark.parametrize("length", [1, 4096, 5000, 131072, 1 << 20, (1 << 20) + 1])
@given(TREE)
def test_write_of_length(place: Place, length: int) -> None:
    data = (b"abcdefg" * (length // 7 + 1))[:length]
    with opened(place / "file", os.O_RDWR) as fd:
        assert os.pwrite(fd, data, 5) == length
        assert os.fstat(fd).st_size == max(10, length + 5)
    assert read(place / "file") == b"01234" + data + b"56789"[length:]


@given(TREE)
def test_write_beyond_the_end_leaves_a_hole(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 100_000)
        assert os.pread(fd, 20, 5) == b"56789" + b"\0" * 15
        assert os.fstat(fd).st_size == 100_003
    assert read(place / "file") == b"0123456789" + b"\0" * 99_990 + b"end"


@given(TREE)
def test_write_of_nothing_changes_nothing(place: Place) -> None:
    before = os.stat(place / "file")
    with opened(place / "file", os.O_WRONLY) as fd:
        assert os.write(fd, b"") == 0
        assert os.pwrite(fd, b"", 100) == 0
    after = os.stat(place / "file")
    assert (after.st_size, after.st_mtime_ns) == (10, before.st_mtime_ns)


@given(TREE)
def test_vectors(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        assert os.writev(fd, [b"ab", b"", b"cde"]) == 5
        assert os.pwritev(fd, [b"X", b"YZ"], 7) == 3
        buffers = [bytearray(3), bytearray(4), bytearray(10)]
        assert os.preadv(fd, buffers, 0) == 10
    assert b"".join(buffers).rstrip(b"\0") == b"abcde56XYZ"


@given(TREE)
def test_pwrite_leaves_the_offset(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        os.lseek(fd, 3, os.SEEK_SET)
        os.pwrite(fd, b"x", 8)
        assert os.read(fd, 2) == b"34"


@given(TREE)
def test_pwrite_to_an_appending_descriptor_appends(place: Place) -> None:
    """A bug that Linux documents in pwrite(2)."""
    with opened(place / "file", os.O_WRONLY | os.O_APPEND) as fd:
        os.pwrite(fd, b"x", 0)
    assert read(place / "file") == b"0123456789x"


@given(TREE)
def test_rwf_append(place: Place) -> None:
    with opened(place / "file", os.O_WRONLY) as fd:
        os.pwritev(fd, [b"x"], 0, os.RWF_APPEND)
    assert read(place / "file") == b"0123456789x"


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
@given(TREE)
def test_synchronous_write(place: Place, flag: int) -> None:
    with opened(place / "file", os.O_WRONLY | flag) as fd:
        os.write(fd, b"abc")
    assert read(place / "file") == b"abc3456789"


@given(TREE)
def test_rwf_sync_flags(place: Place) -> None:
    with opened(place / "file", os.O_WRONLY) as fd:
        os.pwritev(fd, [b"s"], 0, os.RWF_SYNC)
        os.pwritev(fd, [b"d"], 1, os.RWF_DSYNC)
    assert read(place / "file")[:3] == b"sd2"


@given(TREE)
def test_fsync_and_fdatasync(place: Place) -> None:
    for flags in (os.O_RDONLY, os.O_RDWR):
        with opened(place / "file", flags) as fd:
            os.fsync(fd)
            os.fdatasync(fd)
    with opened(place / "dir") as fd:
        os.fsync(fd)
        os.fdatasync(fd)


@given(TREE)
def test_syncfs_and_sync_file_range(place: Place) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with opened(place / "file", os.O_RDWR) as fd:
        os.write(fd, b"new")
        assert libc.syncfs(fd) == 0
        assert libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), 7) == 0


@given(TREE)
def test_directory_cannot_be_read(place: Place) -> None:
    with opened(place / "dir") as fd:
        with fails(EISDIR):
            os.read(fd, 10)
        with fails(EBADF):
            os.write(fd, b"x")


@pytest.mark.parametrize("offset", [-1, -(1 << 62)])
@given(TREE)
def test_negative_offset(place: Place, offset: int) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        for operation in (
            lambda: os.pread(fd, 1, offset),
            lambda: os.pwrite(fd, b"x", offset),
            lambda: os.lseek(fd, offset, os.SEEK_SET),
        ):
            with fails(EINVAL):
                operation()


@given(TREE)
def test_lseek(place: Place) -> None:
    with opened(place / "file") as fd:
        assert os.lseek(fd, 4, os.SEEK_SET) == 4
        assert os.lseek(fd, -2, os.SEEK_CUR) == 2
        assert os.lseek(fd, -1, os.SEEK_END) == 9
        assert os.lseek(fd, 100, os.SEEK_END) == 110
        assert os.read(fd, 1) == b""
        with fails(EINVAL):
            os.lseek(fd, -11, os.SEEK_END)
        with fails(EINVAL):
            os.lseek(fd, 0, 99)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 110


@given(TREE)
def test_seek_end_after_another_wrote(place: Place) -> None:
    with opened(place / "file") as reader, opened(place / "file", os.O_WRONLY) as writer:
        assert os.lseek(reader, 0, os.SEEK_END) == 10
        os.pwrite(writer, b"more", 10)
        assert os.lseek(reader, 0, os.SEEK_END) == 14
        os.ftruncate(writer, 1)
        assert os.lseek(reader, 0, os.SEEK_END) == 1


def _limit(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@given(TREE)
def test_file_size_limit_cuts_a_write(place: Place) -> None:
    _limit(12)
    with opened(place / "file", os.O_WRONLY | os.O_APPEND) as fd:
        assert os.write(fd, b"abcdef") == 2
        with fails(EFBIG):
            os.write(fd, b"g")
    assert read(place / "file") == b"0123456789ab"


@given(TREE)
def test_file_size_limit_on_truncate(place: Place) -> None:
    _limit(12)
    os.truncate(place / "file", 12)
    with fails(EFBIG):
        os.truncate(place / "file", 13)
    assert os.stat(place / "file").st_size == 12


@given(TREE)
def test_offset_without_room(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        with fails(EFBIG, EINVAL, EOVERFLOW):
            os.pwrite(fd, b"xx", (1 << 63) - 1)
        assert os.fstat(fd).st_size == 10


@given(TREE)
def test_more_than_four_gigabytes(place: Place) -> None:
    far = (5 << 30) + 123
    with opened(place / "file", os.O_RDWR) as fd:
        os.pwrite(fd, b"far", far)
        assert os.fstat(fd).st_size == far + 3
        assert os.pread(fd, 10, far) == b"far"
        assert os.pread(fd, 4, (4 << 30) - 2) == b"\0" * 4
        assert os.pread(fd, 3, 0) == b"012"
        assert os.lseek(fd, 4096, os.SEEK_DATA) > 4 << 30
        assert os.fstat(fd).st_blocks < 1000


@given({"sparse": File(content=b"head", size=(4 << 30) + 5)})
def test_given_file_of_more_than_four_gigabytes(place: Place) -> None:
    with opened(place / "sparse", os.O_RDWR) as fd:
        size = os.fstat(fd).st_size
        assert size == (4 << 30) + 5
        assert os.pread(fd, 100, size - 3) == b"\0" * 3
        os.pwrite(fd, b"tail", size)
        assert os.pread(fd, 100, size - 2) == b"\0\0tail"
        assert os.pread(fd, 4, 0) == b"head"
        assert os.fstat(fd).st_blocks < 10_000, "the hole was filled"


@given(TREE)
def test_readers_share_the_offset_after_fork(place: Place) -> None:
    with opened(place / "file") as fd:
        pid = os.fork()
        if pid == 0:
            os.read(fd, 4)
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(fd, 2) == b"45"


@given(TREE)
def test_duplicated_descriptors_share_the_offset(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        other = os.dup(fd)
        os.write(fd, b"ab")
        os.write(other, b"cd")
    assert read(place / "file") == b"abcd456789"


@given(TREE)
def test_written_and_read_in_two_processes(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        pid = os.fork()
        if pid == 0:
            write(place / "file", b"child")
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.pread(fd, 100, 0) == b"child"


@given(TREE)
def test_fadvise_and_readahead(place: Place) -> None:
    with opened(place / "big") as fd:
        for advice in (
            os.POSIX_FADV_NORMAL,
            os.POSIX_FADV_SEQUENTIAL,
            os.POSIX_FADV_RANDOM,
            os.POSIX_FADV_WILLNEED,
            os.POSIX_FADV_DONTNEED,
            os.POSIX_FADV_NOREUSE,
        ):
            os.posix_fadvise(fd, 0, 0, advice)
        assert os.pread(fd, len(BIG), 0) == BIG


@given(TREE)
def test_unknown_ioctl(place: Place) -> None:
    with opened(place / "file") as fd, fails(ENOTTY):
        fcntl.ioctl(fd, 0x5401, bytes(64))  # TCGETS, as isatty(3) asks
    assert not os.isatty(os.open(place / "file", os.O_RDONLY))


@given(TREE)
def test_seek_data_beyond_the_end(place: Place) -> None:
    with opened(place / "file") as fd:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with fails(ENXIO):
                os.lseek(fd, 10, whence)
            with fails(ENXIO):
                os.lseek(fd, 1 << 40, whence)
