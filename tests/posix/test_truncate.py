"""truncate(2) and ftruncate(2)."""

import os
import stat
from errno import EACCES, EBADF, EFBIG, EINVAL, EISDIR, ENXIO

import pytest

from tests.posix.asserts import extents, fails, mode, opened, raised, read, stamped
from tests.posix.places import Place
from tests.posix.trees import Dir, File, Special, Symlink, given

TREE = {
    "file": File(content=b"0123456789"),
    "big": File(content=b"b" * 100_000),
    "empty": File(),
    "link": Symlink(target="file"),
    "dir": Dir(),
    "fifo": Special(type=stat.S_IFIFO),
    "socket": Special(type=stat.S_IFSOCK),
}

sizes = pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 4095, 4096, 4097, 1 << 20])


@sizes
@given(TREE)
def test_truncate(place: Place, size: int) -> None:
    os.truncate(place / "file", size)
    assert os.stat(place / "file").st_size == size
    assert read(place / "file") == (b"0123456789" + b"\0" * size)[:size]


@sizes
@given(TREE)
def test_ftruncate(place: Place, size: int) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        os.ftruncate(fd, size)
        assert os.fstat(fd).st_size == size
        assert os.pread(fd, 2 << 20, 0) == (b"0123456789" + b"\0" * size)[:size]


@pytest.mark.parametrize("cut", [0, 1, 100, 4096, 50_000])
@given(TREE)
def test_nothing_comes_back_after_shrinking(place: Place, cut: int) -> None:
    assert len(read(place / "big")) == 100_000
    os.truncate(place / "big", cut)
    os.truncate(place / "big", 100_000)
    assert read(place / "big") == b"b" * cut + b"\0" * (100_000 - cut)


@given(TREE)
def test_shrink_and_write_behind(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        os.ftruncate(fd, 10)
        os.pwrite(fd, b"end", 20_000)
        assert os.pread(fd, 30_000, 0) == b"b" * 10 + b"\0" * 19_990 + b"end"


@given(TREE)
def test_growth_is_a_hole(place: Place) -> None:
    os.truncate(place / "empty", 6 << 30)
    with opened(place / "empty") as fd:
        assert os.fstat(fd).st_size == 6 << 30
        assert os.fstat(fd).st_blocks == 0
        assert extents(fd) == []
        assert os.pread(fd, 5, (6 << 30) - 5) == b"\0" * 5


@given(TREE)
def test_follows_links(place: Place) -> None:
    os.truncate(place / "link", 3)
    assert read(place / "file") == b"012"


@given(TREE)
def test_directory(place: Place) -> None:
    with fails(EISDIR):
        os.truncate(place / "dir", 0)


@pytest.mark.parametrize("name", ["fifo", "socket"])
@given(TREE)
def test_special(place: Place, name: str) -> None:
    with fails(EINVAL, ENXIO):
        os.truncate(place / name, 0)


@given(TREE)
def test_negative(place: Place) -> None:
    with fails(EINVAL):
        os.truncate(place / "file", -1)


@given(TREE)
def test_too_large_for_the_filesystem(place: Place) -> None:
    with fails(EFBIG, EINVAL):
        os.truncate(place / "file", (1 << 63) - 1)
    assert os.stat(place / "file").st_size == 10


@given(TREE)
def test_readonly_descriptor(place: Place) -> None:
    with opened(place / "file") as fd, fails(EINVAL, EBADF):
        os.ftruncate(fd, 0)


@given(TREE)
def test_same_size_still_stamps(place: Place) -> None:
    """POSIX 2008 TC1: ftruncate marks mtime and ctime even where the size stays."""
    with opened(place / "file", os.O_RDWR) as fd, stamped({fd: "mc"}):
        os.ftruncate(fd, 10)


@pytest.mark.needs("users")
@given({"theirs": File(content=b"1234", mode=0o644)})
def test_without_the_right(place: Place) -> None:
    assert place.as_user(raised, os.truncate, place / "theirs", 0) == EACCES
    assert read(place / "theirs") == b"1234"


@given({"mine": File(content=b"1234", mode=0o444)})
def test_descriptor_outlives_the_right(place: Place) -> None:
    os.chmod(place / "mine", 0o600)
    with opened(place / "mine", os.O_RDWR) as fd:
        os.chmod(place / "mine", 0o000)
        os.ftruncate(fd, 2)
        assert os.pwrite(fd, b"x", 0) == 1
        assert os.pread(fd, 5, 0) == b"x2"
    assert mode(place / "mine") == 0


@given(TREE)
def test_open_descriptors_see_it(place: Place) -> None:
    with opened(place / "file") as reader:
        assert os.read(reader, 4) == b"0123"
        os.truncate(place / "file", 6)
        assert os.fstat(reader).st_size == 6
        assert os.read(reader, 10) == b"45"
        os.truncate(place / "file", 8)
        assert os.read(reader, 10) == b"\0\0"
