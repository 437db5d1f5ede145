"""copy_file_range(2), splice(2), sendfile(2)."""

import fcntl
import os
import socket
from errno import EBADF, EINVAL, EISDIR, EXDEV

import pytest

from tests.posix.asserts import extents, fails, opened, read
from tests.posix.places import Place
from tests.posix.trees import Dir, File, given

DATA = bytes(range(256)) * 1000
TREE = {
    "source": File(content=DATA),
    "target": File(content=b"t" * 1000),
    "sparse": File(content=b"head", size=1 << 22),
    "empty": File(),
    "dir": Dir(),
}

ranges = pytest.mark.parametrize(
    ("offset", "length", "to"),
    [(0, 256_000, 0), (1, 100, 999), (4096, 8192, 8192), (5000, 9999, 0), (255_999, 10, 5000)],
)


@ranges
@given(TREE)
def test_copies(place: Place, offset: int, length: int, to: int) -> None:
    with opened(place / "source") as source, opened(place / "target", os.O_RDWR) as target:
        done = 0
        while done < length:
            count = os.copy_file_range(source, target, length - done, offset + done, to + done)
            if count == 0:
                break
            done += count
    piece = DATA[offset : offset + length]
    expected = b"t" * 1000
    expected = expected[:to].ljust(to, b"\0") + piece + expected[to + len(piece) :]
    assert done == len(piece)
    assert read(place / "target") == expected
    assert read(place / "source") == DATA


@given(TREE)
def test_uses_and_moves_offsets(place: Place) -> None:
    with opened(place / "source") as source, opened(place / "target", os.O_RDWR) as target:
        os.lseek(source, 10, os.SEEK_SET)
        os.lseek(target, 20, os.SEEK_SET)
        assert os.copy_file_range(source, target, 30) == 30
        assert os.lseek(source, 0, os.SEEK_CUR) == 40
        assert os.lseek(target, 0, os.SEEK_CUR) == 50
        assert os.pread(target, 30, 20) == DATA[10:40]


@given(TREE)
def test_end_of_the_source(place: Place) -> None:
    with opened(place / "source") as source, opened(place / "target", os.O_RDWR) as target:
        assert os.copy_file_range(source, target, 100, len(DATA), 0) == 0
        assert os.copy_file_range(source, target, 100, len(DATA) - 7, 0) == 7
        assert os.copy_file_range(source, target, 100, 1 << 40, 0) == 0


@given(TREE)
def test_within_one_file(place: Place) -> None:
    with opened(place / "source", os.O_RDWR) as fd:
        assert os.copy_file_range(fd, fd, 1000, 0, 5000) == 1000
        with fails(EINVAL):
            os.copy_file_range(fd, fd, 1000, 0, 500)
    assert read(place / "source")[5000:6000] == DATA[:1000]


@given(TREE)
def test_new_file_from_a_given_one(place: Place) -> None:
    with opened(place / "source") as source:
        with opened(place / "new", os.O_CREAT | os.O_WRONLY) as target:
            done = 0
            while count := os.copy_file_range(source, target, len(DATA)):
                done += count
    assert done == len(DATA) and read(place / "new") == DATA


@given(TREE)
def test_unwritten_pages_of_the_source(place: Place) -> None:
    """What was written a moment ago, by write or by mapping, is what is copied."""
    with opened(place / "source", os.O_RDWR) as source:
        os.pwrite(source, b"fresh", 100)
        with opened(place / "target", os.O_RDWR) as target:
            os.pwrite(target, b"zzzzz", 0)
            assert os.copy_file_range(source, target, 5, 100, 10) == 5
            assert os.pread(target, 15, 0) == b"zzzzz" + b"t" * 5 + b"fresh"


@given(TREE)
def test_large_sparse_copy(place: Place) -> None:
    with opened(place / "sparse") as source:
        with opened(place / "new", os.O_CREAT | os.O_RDWR) as target:
            done = 0
            while count := os.copy_file_range(source, target, 1 << 22):
                done += count
            assert done == 1 << 22
            assert os.pread(target, 10, 0) == b"head" + b"\0" * 6
            assert extents(target)[0][0] == 0


@given(TREE)
def test_bad_descriptors(place: Place) -> None:
    with opened(place / "source") as source, opened(place / "target") as target, fails(EBADF):
        os.copy_file_range(source, target, 10)
    with opened(place / "source", os.O_WRONLY) as source:
        with opened(place / "target", os.O_RDWR) as target, fails(EBADF):
            os.copy_file_range(source, target, 10)
    with opened(place / "source") as source:
        with opened(place / "target", os.O_WRONLY | os.O_APPEND) as target, fails(EBADF):
            os.copy_file_range(source, target, 10)
    with opened(place / "dir") as source:
        with opened(place / "target", os.O_RDWR) as target, fails(EISDIR):
            os.copy_file_range(source, target, 10)


@given(TREE)
def test_not_a_regular_file(place: Place) -> None:
    reader, _ = os.pipe()
    with opened(place / "target", os.O_RDWR) as target, fails(EINVAL):
        os.copy_file_range(reader, target, 10)


@given(TREE)
def test_from_another_filesystem(place: Place) -> None:
    """Linux since 5.19 refuses unless the filesystem type is the same."""
    with opened("/dev/shm", os.O_TMPFILE | os.O_RDWR) as other:
        os.write(other, b"other")
        with opened(place / "target", os.O_RDWR) as target, fails(EXDEV):
            os.copy_file_range(other, target, 5, 0, 0)


@given(TREE)
def test_clone_is_refused_or_right(place: Place) -> None:
    """FICLONE where the filesystem has no shared extents, as ext4: EOPNOTSUPP."""
    with opened(place / "source") as source, opened(place / "target", os.O_RDWR) as target:
        with fails(95):  # EOPNOTSUPP
            fcntl.ioctl(target, 0x40049409, source)  # FICLONE of linux/fs.h
    assert read(place / "target") == b"t" * 1000


@pytest.mark.parametrize("count", [1, 4096, 65536, 256_000])
@given(TREE)
def test_sendfile(place: Place, count: int) -> None:
    with opened(place / "source") as source, opened(place / "target", os.O_RDWR) as target:
        os.ftruncate(target, 0)
        done = 0
        while done < count:
            done += os.sendfile(target, source, done, count - done)
    assert read(place / "target") == DATA[:count]


@given(TREE)
def test_sendfile_to_a_socket(place: Place) -> None:
    here, there = socket.socketpair()
    with opened(place / "source") as source:
        assert os.sendfile(here.fileno(), source, 256, 1000) == 1000
    assert there.recv(2000) == DATA[256:1256]


@pytest.mark.parametrize("count", [1, 4096, 65536])
@given(TREE)
def test_splice_to_and_from_a_pipe(place: Place, count: int) -> None:
    reader, writer = os.pipe()
    with opened(place / "source") as source, opened(place / "target", os.O_RDWR) as target:
        done = 0
        while done < count:
            inside = os.splice(source, writer, count - done, offset_src=done)
            out = 0
            while out < inside:
                out += os.splice(reader, target, inside - out, offset_dst=done + out)
            done += inside
    assert read(place / "target")[:count] == DATA[:count]


@given(TREE)
def test_splice_keeps_what_was_taken(place: Place) -> None:
    """The pipe holds pages of the cache; a later write may show, a truncation may not crash."""
    reader, writer = os.pipe()
    with opened(place / "source", os.O_RDWR) as source:
        assert os.splice(source, writer, 4096, offset_src=0) == 4096
        os.ftruncate(source, 0)
        assert len(os.read(reader, 4096)) == 4096


@given(TREE)
def test_splice_to_append_is_refused(place: Place) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    with opened(place / "target", os.O_WRONLY | os.O_APPEND) as target, fails(EINVAL):
        os.splice(reader, target, 1)
