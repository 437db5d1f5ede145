"""What a child of a process has written to, the next one has copied before it writes."""

import ctypes
import mmap
from collections.abc import Callable, Iterator

import pytest

from tests.posix.process import Running
from unionfs import prefault
from unionfs.prefault import Prefault

PAGES = 16
PAGE = mmap.PAGESIZE


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """Pages that children share until somebody writes to them."""
    memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)  # each page is copied by itself
    memory.write(b"x" * PAGES * PAGE)
    yield memory
    memory.close()


def in_a_child(work: Callable[[], bytes]) -> bytes:
    answer = Running(work).result()
    assert isinstance(answer, bytes)
    return answer


def address(memory: mmap.mmap) -> int:
    """Where the mapping begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def copied(start: int) -> bytes:
    """For each page whether this process, a child, has a copy of its own."""
    runs = list(prefault._copied([prefault.Range(start, start + PAGES * PAGE)]))
    return bytes(
        any(run.start <= page < run.end for run in runs)
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
        return copied(start)

    def second() -> bytes:
        before = copied(start)
        shared.take()
        return before + copied(start)

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
            return b"done"

        return write

    def taker() -> bytes:
        shared.take()
        return copied(start)

    assert in_a_child(writer(1)) == b"done"
    assert in_a_child(writer(2)) == b"done"
    assert in_a_child(taker) == bytes(page == 1 for page in range(PAGES))


def test_a_list_of_what_is_not_there_any_more_does_nothing(memory: mmap.mmap) -> None:
    shared = Prefault()

    def first() -> bytes:
        write_to(memory, 1)
        shared.learn()
        return b"learnt"

    def second() -> bytes:
        memory.close()
        shared.take()
        return b"taken"

    assert in_a_child(first) == b"learnt"
    assert in_a_child(second) == b"taken"


def test_without_a_pagemap_there_is_no_list(
    memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = address(memory)
    shared = Prefault()

    def first() -> bytes:
        def refuse(*arguments: object, **how: object) -> None:
            raise PermissionError

        write_to(memory, 1)
        monkeypatch.setattr(prefault, "open", refuse, raising=False)
        shared.learn()
        return b"nothing learnt"

    def second() -> bytes:
        shared.take()
        return copied(start)

    assert in_a_child(first) == b"nothing learnt"
    assert in_a_child(second) == bytes(PAGES)


def test_address_space_that_is_kept_free_is_not_looked_at() -> None:
    """Of the terabytes that a sanitizer maps, the list of pages alone would have gigabytes."""
    size = 2 << 30
    noreserve = 0x4000  # <asm-generic/mman.h>; mmap has it from Python 3.13 on
    reserved = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | noreserve)
    reserved.madvise(mmap.MADV_NOHUGEPAGE)
    write_to(reserved, 0)
    start = address(reserved)
    shared = Prefault()

    def first() -> bytes:
        write_to(reserved, 0)
        shared.learn()
        return copied(start)

    def second() -> bytes:
        shared.take()
        return copied(start)

    assert in_a_child(first) == bytes(page == 0 for page in range(PAGES))
    assert in_a_child(second) == bytes(PAGES)
    reserved.close()


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
