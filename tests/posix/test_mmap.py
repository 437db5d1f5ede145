"""mmap(2) of every kind."""

import mmap
import os
import signal
from collections.abc import Callable
from errno import EACCES, ENODEV

import pytest

from tests.posix.asserts import fails, mode, opened, read, stamped, write
from tests.posix.places import Place
from tests.posix.trees import Dir, File, given

PAGE = mmap.PAGESIZE
BIG = bytes(range(256)) * (20 * PAGE // 256)
TREE = {"big": File(content=BIG), "small": File(content=b"0123456789"), "dir": Dir()}


def _map(fd: int, length: int = 0, **options: int) -> mmap.mmap:
    return mmap.mmap(fd, length, **options)


@given(TREE)
def test_shared_reading(place: Place) -> None:
    with opened(place / "big") as fd, _map(fd, prot=mmap.PROT_READ) as mapping:
        assert mapping[:] == BIG


@given(TREE)
def test_shared_writing(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd, _map(fd) as mapping:
        mapping[3 * PAGE : 3 * PAGE + 4] = b"dirt"
        assert os.pread(fd, 4, 3 * PAGE) == b"dirt"
        mapping.flush()
    assert read(place / "big") == BIG[: 3 * PAGE] + b"dirt" + BIG[3 * PAGE + 4 :]


@given(TREE)
def test_written_without_msync(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        mapping = _map(fd)
    mapping[PAGE] = 0xEE
    mapping.close()
    assert read(place / "big")[PAGE] == 0xEE


@given(TREE)
def test_mapping_outlives_descriptor_and_name(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd:
        mapping = _map(fd)
        other = os.dup(fd)
    os.unlink(place / "big")
    mapping[0:4] = b"last"
    mapping.flush()
    assert mapping[PAGE : 2 * PAGE] == BIG[PAGE : 2 * PAGE]
    assert os.pread(other, 4, 0) == b"last"


@given(TREE)
def test_private_writing_stays_private(place: Place) -> None:
    with opened(place / "big") as fd, _map(fd, flags=mmap.MAP_PRIVATE) as mapping:
        mapping[0:4] = b"mine"
        assert mapping[0:4] == b"mine"
    assert read(place / "big") == BIG


@given(TREE)
def test_private_mapping_of_what_is_written_later(place: Place) -> None:
    with opened(place / "big") as fd, _map(fd, flags=mmap.MAP_PRIVATE) as mapping:
        with opened(place / "big", os.O_WRONLY) as writer:
            os.pwrite(writer, b"LATER", 5 * PAGE)
        assert mapping[5 * PAGE : 5 * PAGE + 5] == b"LATER"


@given(TREE)
def test_early_mapping_sees_later_write(place: Place) -> None:
    """Kernel overlayfs leaves a mapping on the lower file behind; the union must not."""
    with opened(place / "big") as fd, _map(fd, prot=mmap.PROT_READ) as mapping:
        assert mapping[0:4] == BIG[0:4]
        with opened(place / "big", os.O_WRONLY) as writer:
            os.write(writer, b"NEW!")
        assert mapping[0:4] == b"NEW!"


@given(TREE)
def test_two_mappings_are_one(place: Place) -> None:
    with (
        opened(place / "big", os.O_RDWR) as one,
        opened(place / "big", os.O_RDWR) as two,
        _map(one) as first,
        _map(two) as second,
    ):
        first[100:103] = b"abc"
        assert second[100:103] == b"abc"


@given(TREE)
def test_shared_between_processes(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd, _map(fd) as mapping:
        pid = os.fork()
        if pid == 0:
            mapping[0:5] = b"child"
            os._exit(0)
        os.waitpid(pid, 0)
        assert mapping[0:5] == b"child"
        assert os.pread(fd, 5, 0) == b"child"


@given(TREE)
def test_write_shows_in_mapping_and_back(place: Place) -> None:
    with opened(place / "small", os.O_RDWR) as fd, _map(fd) as mapping:
        os.pwrite(fd, b"AB", 2)
        assert mapping[:] == b"01AB456789"
        mapping[4:6] = b"CD"
        assert os.pread(fd, 10, 0) == b"01ABCD6789"


@given(TREE)
def test_beyond_the_end_is_zero_and_not_written(place: Place) -> None:
    with opened(place / "small", os.O_RDWR) as fd:
        mapping = _map(fd, 10)
        mapping[9] = ord("!")
        mapping.flush()
        os.ftruncate(fd, 20)
        assert os.pread(fd, 20, 0) == b"012345678!" + b"\0" * 10


def _touch(path: str, position: int) -> None:
    with opened(path, os.O_RDWR) as fd:
        mapping = mmap.mmap(fd, 2 * PAGE)
        os.ftruncate(fd, PAGE)
        mapping[position]


@given(TREE)
def test_bus_error_behind_the_last_page(place: Place) -> None:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        _touch(place / "big", PAGE)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] & 0x7F == signal.SIGBUS


@given(TREE)
def test_truncated_and_grown_again(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd, _map(fd) as mapping:
        assert mapping[2 * PAGE] == BIG[2 * PAGE]
        os.ftruncate(fd, PAGE)
        os.ftruncate(fd, 4 * PAGE)
        assert mapping[PAGE : 4 * PAGE] == b"\0" * (3 * PAGE)
        mapping[2 * PAGE] = 7
    assert read(place / "big") == BIG[:PAGE] + b"\0" * PAGE + b"\x07" + b"\0" * (2 * PAGE - 1)


@given(TREE)
def test_open_with_o_trunc_while_mapped(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd, _map(fd) as mapping:
        assert mapping[0] == BIG[0]
        write(place / "big", b"short")
        os.ftruncate(fd, PAGE)
        assert mapping[:PAGE] == b"short" + b"\0" * (PAGE - 5)


@given(TREE)
def test_write_from_its_own_mapping(place: Place) -> None:
    """The page that is read from is the page that is written: classic dead-lock."""
    with opened(place / "big", os.O_RDWR) as fd, _map(fd) as mapping:
        view = memoryview(mapping)
        assert os.pwrite(fd, view[PAGE : 3 * PAGE], 0) == 2 * PAGE
        assert os.preadv(fd, [view[4 * PAGE : 6 * PAGE]], 0) == 2 * PAGE
        view.release()
    expected = bytearray(BIG)
    expected[0 : 2 * PAGE] = BIG[PAGE : 3 * PAGE]
    expected[4 * PAGE : 6 * PAGE] = expected[0 : 2 * PAGE]
    assert read(place / "big") == bytes(expected)


@given(TREE)
def test_rights(place: Place) -> None:
    with opened(place / "small") as fd:
        with fails(EACCES):
            _map(fd)
        _map(fd, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE).close()
    with opened(place / "small", os.O_WRONLY) as fd, fails(EACCES):
        _map(fd, 10, prot=mmap.PROT_READ)
    with opened(place / "dir") as fd, fails(ENODEV):
        _map(fd, PAGE, prot=mmap.PROT_READ)


@given(TREE)
def test_times(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd, _map(fd) as mapping:
        mapping[0] = 1
        mapping.flush()
        with stamped({place / "big": "mc"}):
            mapping[1] = 1
            mapping.flush()


#: In 2001, and not at a full second.
STAMP = 10**18 + 123456789
CAPABILITY = b"\x01\x00\x00\x02" + b"\x00\x04\x00\x00" + bytes(12)  # cap_net_bind_service+ep


def _drop(fd: int, mapping: mmap.mmap) -> None:
    """What memory pressure does: the pages are written out and go."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.fsync(fd)


def _end_of_process(fd: int, mapping: mmap.mmap) -> None:
    """A process that has the same file mapped, and a descriptor of it, ends."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


#: How the kernel comes to write out what a mapping has changed.
WRITE_OUT = {
    "msync": lambda fd, mapping: mapping.flush(),
    "fsync": lambda fd, mapping: os.fsync(fd),
    "munmap": lambda fd, mapping: mapping.close(),
    "close": lambda fd, mapping: os.close(os.dup(fd)),
    "exit": _end_of_process,
    "drop": _drop,
}
each_write_out = pytest.mark.parametrize("how", WRITE_OUT)


def _store_then(
    place: Place, how: str, change: Callable[[int], object], start: bytes = b"dirt"
) -> None:
    """Change a file's attributes between a store through a mapping and its being written out."""
    with opened(place / "big", os.O_RDWR) as fd, _map(fd) as mapping:
        mapping[PAGE : PAGE + len(start)] = start
        change(fd)
        WRITE_OUT[how](fd, mapping)
    assert read(place / "big") == BIG[:PAGE] + start + BIG[PAGE + len(start) :]


@each_write_out
@given(TREE)
def test_times_set_after_a_store(place: Place, how: str) -> None:
    _store_then(place, how, lambda fd: os.utime(place / "big", ns=(STAMP, STAMP)))
    assert os.stat(place / "big").st_mtime_ns == STAMP


@given(TREE)
def test_times_set_between_stores(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd, _map(fd) as mapping:
        mapping[0] = 1
        os.utime(fd, ns=(STAMP, STAMP))
        mapping.flush()  # only a page that is written out is noticed when it changes again
        assert os.fstat(fd).st_mtime_ns == STAMP
        mapping[0] = 2
        mapping.flush()
        assert os.fstat(fd).st_mtime_ns > STAMP
        os.utime(fd, ns=(STAMP, STAMP))
    assert os.stat(place / "big").st_mtime_ns == STAMP


@given(TREE)
def test_times_set_after_a_store_into_what_was_written(place: Place) -> None:
    """The page is mapped without having been read."""
    with opened(place / "new", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, BIG, 0)
        with _map(fd) as mapping:
            mapping[0:4] = b"dirt"
            os.utime(fd, ns=(STAMP, STAMP))
    assert os.stat(place / "new").st_mtime_ns == STAMP
    assert read(place / "new") == b"dirt" + BIG[4:]


@given(TREE)
def test_store_soon_after_times_were_set(place: Place) -> None:
    """What was set is not kept from a store that comes later, however soon."""
    write(place / "new", BIG)
    os.utime(place / "new", ns=(STAMP, STAMP))
    with opened(place / "new", os.O_RDWR) as fd, _map(fd) as mapping:
        mapping[0] = 1
    assert os.stat(place / "new").st_mtime_ns > STAMP


@each_write_out
@given(TREE)
def test_set_id_bits_set_after_a_store(place: Place, how: str) -> None:
    _store_then(place, how, lambda fd: os.fchmod(fd, 0o6755))
    assert mode(place / "big") == 0o6755


@given({"big": File(content=BIG, mode=0o6755)})
def test_store_keeps_set_id_bits(place: Place) -> None:
    """It is not write(2)."""
    _store_then(place, "msync", lambda fd: None)
    assert mode(place / "big") == 0o6755


@pytest.mark.needs("trusted")
@each_write_out
@given(TREE)
def test_capability_set_after_a_store(place: Place, how: str) -> None:
    _store_then(place, how, lambda fd: os.setxattr(fd, "security.capability", CAPABILITY))
    assert os.getxattr(place / "big", "security.capability") == CAPABILITY


@pytest.mark.needs("trusted")
@given({"big": File(content=BIG, xattrs={"security.capability": CAPABILITY})})
def test_store_keeps_a_capability(place: Place) -> None:
    _store_then(place, "msync", lambda fd: None)
    assert os.getxattr(place / "big", "security.capability") == CAPABILITY


@pytest.mark.needs("trusted")
@given({"big": File(content=BIG, xattrs={"security.capability": CAPABILITY})})
def test_capability_taken_after_a_store(place: Place) -> None:
    _store_then(place, "msync", lambda fd: os.removexattr(fd, "security.capability"))
    assert "security.capability" not in os.listxattr(place / "big")


@given(TREE)
def test_hole_in_a_mapping(place: Place) -> None:
    with opened(place / "new", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 1 << 20)
        with _map(fd) as mapping:
            assert mapping[500_000] == 0
            mapping[500_000] = 9
        assert os.pread(fd, 3, 499_999) == b"\0\x09\0"
        os.fsync(fd)
        assert os.fstat(fd).st_blocks * 512 < 1 << 19


def test_dirty_page_in_a_hole_is_data(place: Place) -> None:
    """`cp` skips what SEEK_DATA calls a hole."""
    with opened(place / "new", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 100 * PAGE)
        with _map(fd) as mapping:
            mapping[50 * PAGE] = 1
            assert os.lseek(fd, 0, os.SEEK_DATA) <= 50 * PAGE


@pytest.mark.parametrize("advice", [mmap.MADV_DONTNEED, mmap.MADV_WILLNEED, mmap.MADV_REMOVE])
@given(TREE)
def test_advice(place: Place, advice: int) -> None:
    with opened(place / "big", os.O_RDWR) as fd, _map(fd) as mapping:
        mapping[PAGE : PAGE + 4] = b"dirt"
        mapping.madvise(advice, 0, 4 * PAGE)
        expected = b"\0\0\0\0" if advice == mmap.MADV_REMOVE else b"dirt"
        assert mapping[PAGE : PAGE + 4] == expected


@given(TREE)
def test_executable(place: Place) -> None:
    prot = mmap.PROT_READ | mmap.PROT_EXEC
    with opened(place / "big") as fd, _map(fd, prot=prot, flags=mmap.MAP_PRIVATE) as mapping:
        assert mapping[:10] == BIG[:10]


@given(TREE)
def test_rename_while_mapped(place: Place) -> None:
    with opened(place / "big", os.O_RDWR) as fd, _map(fd) as mapping:
        mapping[0] = 1
        os.rename(place / "big", place / "dir/moved")
        mapping[1] = 2
        mapping.flush()
    assert read(place / "dir/moved")[:2] == b"\x01\x02"
