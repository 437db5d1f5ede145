"""Page faults taken in advance, by a process that waits.

A forked child shares its parent's memory until one of them writes to it: then the kernel copies
the page, in a fault each.  To start a mount writes to some 800 pages, which took a third of the
time that it takes in a forked child.  What one child has written to, its siblings will: the first
makes a list for those after it.
"""

import mmap
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from unionfs import _mount

_RUN: Final = struct.Struct("QQ")  # first and last address; zeros follow the last run
_ROOM: Final = 1 << 16
_LARGEST: Final = 1 << 30  # what is larger is address space that is kept free
# /proc/self/pagemap has an entry for each page (Documentation/admin-guide/mm/pagemap.rst).
_ENTRY: Final = struct.Struct("Q")
_PRESENT: Final = 1 << 63
_FILE: Final = 1 << 61  # or shared memory: nobody has copied it
_EXCLUSIVE: Final = 1 << 56  # nobody else has it mapped


class Range(NamedTuple):
    """Addresses, up to but not including `end`."""

    start: int
    end: int


class Prefault:
    """What the children of the process that makes it will reach for in memory."""

    def __init__(self) -> None:
        self._written = mmap.mmap(-1, _ROOM)  # shared by all of them
        # Only what is there before the fork: a child may map gigabytes later.
        self._data = [run for run in _mappings(b"rw-p") if run.end - run.start <= _LARGEST]
        self._code = list(_mappings(b"r-xp"))
        self._map_code()  # else it is private memory of the child, by the kernel's count

    def take(self) -> None:
        """In a child: map all code, and copy what a child before it has written to.

        What cannot be had is left out: all of it before Linux 5.14, and pages that are not there.
        """
        self._map_code()
        for start, end in _RUN.iter_unpack(self._written):
            if end <= start:
                break
            _populate(Range(start, end), _mount.MADV_POPULATE_WRITE)

    def _map_code(self) -> None:
        for code in self._code:
            _populate(code, _mount.MADV_POPULATE_READ)

    def learn(self) -> None:
        """In a child, once: list the pages it has copied, if there is no list yet.

        There is none where /proc/self/pagemap cannot be read.
        """
        with self._written as written, suppress(OSError):
            if any(written[: _RUN.size]):
                return
            text = b"".join(_RUN.pack(*run) for run in _copied(self._data))[:_ROOM]
            first, others = text[: _RUN.size], text[_RUN.size :]
            # The first run says that the list is there.
            written[_RUN.size : _RUN.size + len(others)] = others
            written[: len(first)] = first


def _populate(what: Range, advice: int) -> None:
    with suppress(OSError):
        _mount.madvise(what.start, what.end - what.start, advice)


def _copied(ranges: Iterable[Range]) -> Iterator[Range]:
    """The pages that this process has copied from its parent."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for start, end in ranges:
            pagemap.seek(start // mmap.PAGESIZE * _ENTRY.size)
            entries = pagemap.read((end - start) // mmap.PAGESIZE * _ENTRY.size)
            pages = range(start, end, mmap.PAGESIZE)
            yield from _runs(
                page
                for page, (entry,) in zip(pages, _ENTRY.iter_unpack(entries), strict=False)
                if entry & (_PRESENT | _FILE | _EXCLUSIVE) == _PRESENT | _EXCLUSIVE
            )


def _runs(pages: Iterator[int]) -> Iterator[Range]:
    """Pages that follow each other, together."""
    run = Range(0, 0)
    for page in pages:
        if page != run.end:
            if run.end:
                yield run
            run = Range(page, page)
        run = Range(run.start, page + mmap.PAGESIZE)
    if run.end:
        yield run


def _mappings(permissions: bytes) -> Iterator[Range]:
    """What is mapped with these permissions, as /proc/self/maps has them."""
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            addresses, found, _ = line.split(b" ", 2)
            if found == permissions:
                yield Range(*(int(address, 16) for address in addresses.split(b"-")))
