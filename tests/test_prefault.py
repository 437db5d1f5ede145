"""What a child of a process has written to, the next one has copied before it writes."""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator

import pytest

from unionfs import prefault
from unionfs.prefault import Prefault

PAGES = 16
PAGE = mmap.PAGESIZE


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """Pages that children share until somebody writes to them."""
    memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"x" * PAGES * PAGE)
    # A mapping of its own: no page of it belongs to a larger one.
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    yield memory
    memory.close()


def in_a_child(work: Callable[[], bytes]) -> bytes:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, work())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        answer = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return answer


def address(memory: mmap.mmap) -> int:
    """Where the mapping begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def own_pages(start: int) -> bytes:
    """For each page whether this process shares it with nobody."""
    own = list(prefault._own_pages())
    return bytes(
        any(run.start <= page < run.end for run in own)
        for page in range(start, start + PAGES * PAGE, PAGE)
    )


def write_to(memory: mmap.mmap, *pages: int) -> None:
    for page in pages:
        memory[page * PAGE] = 0


def test_the_next_child_has_what_the_first_wrote_to(memory: mmap.mmap) -> None:
    start = address(memory)
    shared = Prefault()

    def first() -> bytes:
        write_to(memory, 3, 4, 5, 10)
        shared.learn()
        return own_pages(start)

    def second() -> bytes:
        before = own_pages(start)
        shared.take()
        return before + own_pages(start)

    expected = bytes(page in (3, 4, 5, 10) for page in range(PAGES))
    assert in_a_child(first) == expected
    assert in_a_child(second) == bytes(PAGES) + expected


def test_the_first_list_stays(memory: mmap.mmap) -> None:
    start = address(memory)
    shared = Prefault()

    def writer(page: int) -> Callable[[], bytes]:
        def write() -> bytes:
            write_to(memory, page)
            shared.learn()
            return b""

        return write

    def taker() -> bytes:
        shared.take()
        return own_pages(start)

    in_a_child(writer(1))
    in_a_child(writer(2))
    assert in_a_child(taker) == bytes(page == 1 for page in range(PAGES))


def test_a_list_of_what_is_not_there_any_more_does_nothing(memory: mmap.mmap) -> None:
    shared = Prefault()

    def first() -> bytes:
        gone = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        gone.write(bytes(64 * PAGE))
        shared.learn()
        return b"learnt"

    def second() -> bytes:
        shared.take()
        return b"taken"

    assert in_a_child(first) == b"learnt"
    assert in_a_child(second) == b"taken"


@pytest.mark.parametrize(
    ("pages", "runs"),
    [
        ([], []),
        ([0], [(0, 1)]),
        ([1, 2, 3], [(1, 4)]),
        ([1, 3, 4, 9], [(1, 2), (3, 5), (9, 10)]),
    ],
)
def test_pages_that_follow_each_other_are_one_run(
    pages: list[int], runs: list[tuple[int, int]]
) -> None:
    found = prefault._runs(page * PAGE for page in pages)
    assert list(found) == [(start * PAGE, end * PAGE) for start, end in runs]
