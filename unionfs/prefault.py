"""Page faults taken in advance, by a process that waits.

A forked child shares its parent's memory until one of them writes to it: then the kernel copies
the page, in a fault each.  To start a mount writes to some 800 pages, which took a third of the
time that it takes in a forked child.  What one child has written to its brothers will write to:
the first makes a list for those after it.
"""

import mmap
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from unionfs import _mount

_RUN: Final = struct.Struct("QQ")  # first and last address; zeros follow the last run
_ROOM: Final = 1 << 16
# /proc/self/pagemap has an entry for each page (Documentation/admin-guide/mm/pagemap.rst): this
# one is in memory, and nobody else has it mapped.
_ENTRY: Final = struct.Struct("Q")
_OURS: Final = 1 << 63 | 1 << 56


class Range(NamedTuple):
    """Addresses, up to but not including `end`."""

    start: int
    end: int


class Prefault:
    """What the children of the process that makes it will reach for in memory."""

    def __init__(self) -> None:
        self._written = mmap.mmap(-1, _ROOM)  # shared by all of them
        self._code = list(_mappings(b"r-xp"))
        self._map_code()  # what only a child has mapped would count as its own

    def take(self) -> None:
        """In a child: map all code, and copy what a child before it has written to.

        What cannot be had is left out: all of it before Linux 5.14, and pages that are not there.
        """
        self._map_code()
        for start, end in _RUN.iter_unpack(self._written):
            if not end:
                break
            _populate(Range(start, end), _mount.MADV_POPULATE_WRITE)

    def _map_code(self) -> None:
        for code in self._code:
            _populate(code, _mount.MADV_POPULATE_READ)

    def learn(self) -> None:
        """In a child: list the pages that it shares with nobody, if there is no list yet."""
        if any(self._written[: _RUN.size]):
            return
        text = b"".join(_RUN.pack(*run) for run in _own_pages())[:_ROOM]
        # The first run says that the list is there.
        self._written[_RUN.size : len(text)] = text[_RUN.size :]
        self._written[: _RUN.size] = text[: _RUN.size]


def _populate(what: Range, advice: int) -> None:
    with suppress(OSError):
        _mount.madvise(what.start, what.end - what.start, advice)


def _own_pages() -> Iterator[Range]:
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for start, end in _mappings(b"rw-p"):
            pagemap.seek(start // mmap.PAGESIZE * _ENTRY.size)
            entries = pagemap.read((end - start) // mmap.PAGESIZE * _ENTRY.size)
            pages = range(start, end, mmap.PAGESIZE)
            yield from _runs(
                page
                for page, (entry,) in zip(pages, _ENTRY.iter_unpack(entries), strict=True)
                if entry & _OURS == _OURS
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
