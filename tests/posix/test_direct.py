"""O_DIRECT, with and without kernel AIO."""

import fcntl
import mmap
import os
from errno import EINVAL

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, opened, read
from tests.posix.places import Place
from tests.posix.trees import File, given

BLOCK = 4096
DATA = bytes(range(256)) * (16 * BLOCK // 256)
TREE = {"file": File(content=DATA), "odd": File(content=DATA[:10_000])}
DIRECT = os.O_RDWR | os.O_DIRECT


def _buffer(data: bytes) -> mmap.mmap:
    """Memory that is aligned as O_DIRECT wants it."""
    memory = mmap.mmap(-1, max(len(data), 1))
    memory[: len(data)] = data
    return memory


@pytest.mark.parametrize(("offset", "blocks"), [(0, 1), (0, 16), (3, 5), (15, 1)])
@given(TREE)
def test_reads(place: Place, offset: int, blocks: int) -> None:
    memory = _buffer(bytes(blocks * BLOCK))
    with opened(place / "file", DIRECT) as fd:
        assert os.preadv(fd, [memory], offset * BLOCK) == blocks * BLOCK
    assert memory[:] == DATA[offset * BLOCK : (offset + blocks) * BLOCK]


@pytest.mark.parametrize(("offset", "blocks"), [(0, 1), (0, 16), (3, 5), (15, 1), (20, 2)])
@given(TREE)
def test_writes(place: Place, offset: int, blocks: int) -> None:
    memory = _buffer(b"d" * (blocks * BLOCK))
    with opened(place / "file", DIRECT) as fd:
        assert os.pwritev(fd, [memory], offset * BLOCK) == blocks * BLOCK
    expected = bytearray(DATA.ljust((offset + blocks) * BLOCK, b"\0"))
    expected[offset * BLOCK : (offset + blocks) * BLOCK] = b"d" * (blocks * BLOCK)
    assert read(place / "file") == bytes(expected)


@given(TREE)
def test_end_of_a_file_of_odd_size(place: Place) -> None:
    memory = _buffer(bytes(4 * BLOCK))
    with opened(place / "odd", DIRECT) as fd:
        assert os.preadv(fd, [memory], 0) == 10_000
        assert memory[:10_000] == DATA[:10_000]
        assert os.preadv(fd, [memory], 8192) == 10_000 - 8192
        assert os.preadv(fd, [memory], 3 * BLOCK) == 0


@given(TREE)
def test_meets_the_page_cache(place: Place) -> None:
    memory = _buffer(b"direct" + bytes(BLOCK - 6))
    with opened(place / "file", DIRECT) as direct, opened(place / "file", os.O_RDWR) as cached:
        assert os.pread(cached, 6, 0) == DATA[:6]
        os.pwritev(direct, [memory], 0)
        assert os.pread(cached, 6, 0) == b"direct"
        os.pwrite(cached, b"cached", BLOCK)
        os.preadv(direct, [memory], BLOCK)
        assert memory[:6] == b"cached"


@given(TREE)
def test_meets_a_mapping(place: Place) -> None:
    memory = _buffer(bytes(BLOCK))
    with opened(place / "file", DIRECT) as direct:
        with mmap.mmap(direct, 16 * BLOCK) as mapping:
            mapping[2 * BLOCK : 2 * BLOCK + 4] = b"dirt"
            os.preadv(direct, [memory], 2 * BLOCK)
            assert memory[:4] == b"dirt"
            os.pwritev(direct, [_buffer(b"X" * BLOCK)], 2 * BLOCK)
            assert mapping[2 * BLOCK : 2 * BLOCK + 4] == b"XXXX"


@given(TREE)
def test_aio_meets_the_page_cache(place: Place) -> None:
    """Who reads while an asynchronous write is under way must not keep what was there before."""
    ring = calls.Aio()
    offsets = range(0, len(DATA), BLOCK)
    with opened(place / "file", DIRECT) as direct, opened(place / "file") as cached:
        for number in range(50):
            byte = bytes([number + 1])
            ring.submit(ring.WRITE, direct, _buffer(byte * len(DATA)), len(DATA), 0)
            for offset in offsets:
                os.pread(cached, 1, offset)
            assert ring.wait(1) == {number: len(DATA)}
            assert {os.pread(cached, 1, offset) for offset in offsets} == {byte}
    ring.close()


@given(TREE)
def test_misaligned(place: Place) -> None:
    """ext4 wants what the device wants: at least 512."""
    memory = _buffer(bytes(2 * BLOCK))
    with opened(place / "file", DIRECT) as fd:
        for offset, view in ((1, memoryview(memory)[:512]), (0, memoryview(memory)[:100])):
            with fails(EINVAL):
                os.preadv(fd, [view], offset)
            view.release()


@given(TREE)
def test_set_and_cleared_by_fcntl(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
        memory = _buffer(bytes(BLOCK))
        assert os.preadv(fd, [memory], 0) == BLOCK
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        assert os.pread(fd, 3, 1) == DATA[1:4]


@given(TREE)
def test_append(place: Place) -> None:
    with opened(place / "file", os.O_WRONLY | os.O_DIRECT | os.O_APPEND) as fd:
        os.writev(fd, [_buffer(b"a" * BLOCK)])
    assert read(place / "file") == DATA + b"a" * BLOCK


@pytest.mark.parametrize("flags", [os.O_RDWR, DIRECT])
@given(TREE)
def test_aio(place: Place, flags: int) -> None:
    ring = calls.Aio()
    blocks = [_buffer(bytes([number + 1]) * BLOCK) for number in range(4)]
    with opened(place / "file", flags) as fd:
        for number, block in enumerate(blocks):
            ring.submit(ring.WRITE, fd, block, BLOCK, (2 * number + 1) * BLOCK)
        assert ring.wait(4) == dict.fromkeys(range(4), BLOCK)
        back = [_buffer(bytes(BLOCK)) for _ in range(4)]
        for number, block in enumerate(back):
            ring.submit(ring.READ, fd, block, BLOCK, (2 * number + 1) * BLOCK)
        assert set(ring.wait(4).values()) == {BLOCK}
    ring.close()
    assert [block[:] for block in back] == [block[:] for block in blocks]
    data = read(place / "file")
    assert data[:BLOCK] == DATA[:BLOCK] and data[BLOCK : 2 * BLOCK] == b"\x01" * BLOCK


@given(TREE)
def test_aio_beyond_the_end(place: Place) -> None:
    ring = calls.Aio()
    with opened(place / "file", DIRECT) as fd:
        ring.submit(ring.WRITE, fd, _buffer(b"e" * BLOCK), BLOCK, 30 * BLOCK)
        assert ring.wait(1) == {0: BLOCK}
        assert os.fstat(fd).st_size == 31 * BLOCK
    ring.close()
