"""fallocate(2), holes, SEEK_DATA and SEEK_HOLE."""

import os
from errno import EBADF, EFBIG, EINVAL, EISDIR, ENODEV, ENXIO, EOPNOTSUPP, ESPIPE

import pytest

from tests.posix import calls
from tests.posix.asserts import extents, fails, opened, read
from tests.posix.calls import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
)
from tests.posix.places import Place
from tests.posix.trees import Dir, File, given

BLOCK = 4096
DATA = bytes(range(1, 251)) * 400  # 100000 bytes, none of them zero
TREE = {
    "file": File(content=b"0123456789"),
    "big": File(content=DATA),
    "sparse": File(content=b"head", size=1 << 24),
    "dir": Dir(),
}
PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
ZERO_KEEP = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE

ranges = pytest.mark.parametrize(
    ("start", "length"),
    [(0, BLOCK), (BLOCK, 2 * BLOCK), (1, 10), (5000, 10_000), (90_000, 20_000), (99_999, 1)],
)


def _zeroed(start: int, length: int) -> bytes:
    data = bytearray(DATA)
    end = min(len(data), start + length)
    data[start:end] = b"\0" * (end - start)
    return bytes(data)


@given(TREE)
def test_allocates_and_grows(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        calls.fallocate(fd, 0, 5, 100_000)
        st = os.fstat(fd)
        assert st.st_size == 100_005 and st.st_blocks * 512 >= 100_000
        assert os.pread(fd, 200_000, 0) == b"0123456789" + b"\0" * 99_995


@given(TREE)
def test_keeps_the_size(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        calls.fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 1 << 20)
        st = os.fstat(fd)
        assert st.st_size == 10 and st.st_blocks * 512 >= 1 << 20
        assert os.pread(fd, 100, 0) == b"0123456789"


@given(TREE)
def test_inside_changes_nothing(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        calls.fallocate(fd, 0, 10, 1000)
    assert read(place / "big") == DATA


@ranges
@given(TREE)
def test_punches(place: Place, start: int, length: int) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        assert os.pread(fd, 200_000, 0) == DATA
        calls.fallocate(fd, PUNCH, start, length)
        assert os.pread(fd, 200_000, 0) == _zeroed(start, length)
    assert read(place / "big") == _zeroed(start, length)


@ranges
@given(TREE)
def test_zeroes(place: Place, start: int, length: int) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        calls.fallocate(fd, ZERO_KEEP, start, length)
        assert os.fstat(fd).st_size == len(DATA)
        assert os.pread(fd, 200_000, 0) == _zeroed(start, length)
        calls.fallocate(fd, FALLOC_FL_ZERO_RANGE, start, length)
        assert os.fstat(fd).st_size == max(len(DATA), start + length)


@given(TREE)
def test_punched_blocks_are_given_back(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        os.fsync(fd)
        calls.fallocate(fd, PUNCH, 0, 20 * BLOCK)
        os.fsync(fd)
        assert os.fstat(fd).st_blocks * 512 < 10 * BLOCK
        assert extents(fd)[0][0] == 20 * BLOCK


@given(TREE)
def test_punching_beyond_the_end_does_nothing(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        calls.fallocate(fd, PUNCH, 100_000, 100)
        assert os.fstat(fd).st_size == 10


@given(TREE)
def test_write_into_a_punched_hole(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        calls.fallocate(fd, PUNCH, 0, len(DATA))
        os.pwrite(fd, b"new", 50_000)
    assert read(place / "big") == b"\0" * 50_000 + b"new" + b"\0" * 49_997


@given(TREE)
def test_collapses(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        calls.fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, BLOCK, 2 * BLOCK)
    assert read(place / "big") == DATA[:BLOCK] + DATA[3 * BLOCK :]


@given(TREE)
def test_inserts(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        calls.fallocate(fd, FALLOC_FL_INSERT_RANGE, BLOCK, 2 * BLOCK)
    assert read(place / "big") == DATA[:BLOCK] + b"\0" * (2 * BLOCK) + DATA[BLOCK:]


@pytest.mark.parametrize(
    ("mode", "offset", "length", "errno"),
    [
        (0, -1, 10, EINVAL),
        (0, 0, 0, EINVAL),
        (0, 0, -1, EINVAL),
        (0, (1 << 63) - 10, 100, EFBIG),
        (FALLOC_FL_PUNCH_HOLE, 0, 10, EOPNOTSUPP),
        (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 10, EOPNOTSUPP),
        (0x8000, 0, 10, EOPNOTSUPP),
    ],
)
@given(TREE)
def test_bad_arguments(place: Place, mode: int, offset: int, length: int, errno: int) -> None:
    with opened(place / "file", os.O_RDWR) as fd, fails(errno):
        calls.fallocate(fd, mode, offset, length)
    assert read(place / "file") == b"0123456789"


@given(TREE)
def test_bad_descriptors(place: Place) -> None:
    with opened(place / "file") as fd, fails(EBADF):
        calls.fallocate(fd, 0, 0, 10)
    with opened(place / "dir") as fd, fails(EBADF, EISDIR, ENODEV):
        calls.fallocate(fd, 0, 0, 10)
    os.mkfifo(place / "fifo")
    with opened(place / "fifo", os.O_RDWR) as fd, fails(ESPIPE):
        calls.fallocate(fd, 0, 0, 10)


@given(TREE)
def test_posix_fallocate(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        os.posix_fallocate(fd, 0, 50_000)
        assert os.fstat(fd).st_size == 50_000
        with fails(EINVAL):
            os.posix_fallocate(fd, 0, 0)


@given(TREE)
def test_more_than_four_gigabytes(place: Place) -> None:
    with opened(place / "sparse", os.O_RDWR) as fd:
        os.ftruncate(fd, 6 << 30)
        os.pwrite(fd, b"x" * 2 * BLOCK, 5 << 30)
        calls.fallocate(fd, PUNCH, 5 << 30, BLOCK)
        assert os.pread(fd, 1, 5 << 30) == b"\0"
        assert os.pread(fd, 1, (5 << 30) + BLOCK) == b"x"


# -- SEEK_DATA and SEEK_HOLE ----------------------------------------------------------------------


@given(TREE)
def test_given_holes(place: Place) -> None:
    with opened(place / "sparse") as fd:
        assert extents(fd) == [(0, BLOCK)]
        assert os.lseek(fd, 0, os.SEEK_HOLE) == BLOCK
        with fails(ENXIO):
            os.lseek(fd, BLOCK, os.SEEK_DATA)
        assert os.lseek(fd, 1 << 20, os.SEEK_HOLE) == 1 << 20


@given(TREE)
def test_holes_survive_change(place: Place) -> None:
    with opened(place / "sparse", os.O_RDWR) as fd:
        os.pwrite(fd, b"tail", (1 << 24) - 4)
        os.fsync(fd)
        assert extents(fd) == [(0, BLOCK), ((1 << 24) - BLOCK, 1 << 24)]
        assert os.fstat(fd).st_blocks * 512 <= 8 * BLOCK
    data = read(place / "sparse")
    assert data[:4] == b"head" and data[-4:] == b"tail" and not any(data[4:-4])


@given(TREE)
def test_data_without_holes(place: Place) -> None:
    with opened(place / "big") as fd:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 777, os.SEEK_DATA) == 777
        assert os.lseek(fd, 0, os.SEEK_HOLE) == len(DATA)
        assert os.lseek(fd, len(DATA) - 1, os.SEEK_HOLE) == len(DATA)


def test_written_extents(place: Place) -> None:
    with opened(place / "new", os.O_CREAT | os.O_RDWR) as fd:
        for index in (3, 4, 9):
            os.pwrite(fd, b"d" * BLOCK, index * BLOCK)
        os.ftruncate(fd, 20 * BLOCK)
        os.fsync(fd)
        assert extents(fd) == [(3 * BLOCK, 5 * BLOCK), (9 * BLOCK, 10 * BLOCK)]
        assert os.lseek(fd, 4 * BLOCK, os.SEEK_HOLE) == 5 * BLOCK
        assert os.lseek(fd, 5 * BLOCK, os.SEEK_DATA) == 9 * BLOCK


def test_unflushed_data_is_data(place: Place) -> None:
    with opened(place / "new", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 1 << 20)
        os.pwrite(fd, b"d", 10 * BLOCK)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 10 * BLOCK


@given(TREE)
def test_empty_file(place: Place) -> None:
    os.truncate(place / "file", 0)
    with opened(place / "file") as fd:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with fails(ENXIO):
                os.lseek(fd, 0, whence)


@given(TREE)
def test_negative_offsets(place: Place) -> None:
    with opened(place / "big") as fd:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with fails(ENXIO, EINVAL):
                os.lseek(fd, -1, whence)
