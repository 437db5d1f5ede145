"""The records of origins that a file cannot carry itself (unionfs/_identity.pyx)."""

import os
import re
from functools import partial
from typing import Final, NamedTuple

from unionfs._tree import birth
from unionfs.check.findings import Report

_NAME: Final = re.compile(r"[0-9a-f]{16}")
_VALUE: Final = re.compile(r"([1-9][0-9]{0,19}) (-?[0-9]+\.[0-9]{9})")
#: The largest st_ino.
LAST_NUMBER: Final = 2**64 - 1


class _Record(NamedTuple):
    origin: int
    born: str


class Origins:
    """What the directory behind the descriptor holds; `None` where there is none."""

    def __init__(self, report: Report, fd: int | None, path: str) -> None:
        self._report = report
        self._fd = -1 if fd is None else fd
        self._path = path
        self._records: dict[int, _Record] = {}  # by the inode of the copy
        self._used: set[int] = set()
        for name in [] if fd is None else sorted(os.listdir(fd)):
            self._take(name)

    def _take(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            self._report.add("record-unknown", f"{self._path}/{name}")
            return
        try:
            match = _VALUE.fullmatch(os.readlink(name, dir_fd=self._fd))
        except OSError:
            self._report.add("record-unknown", f"{self._path}/{name}")
            return
        if match is None or int(match[1]) > LAST_NUMBER:
            self._report.add("record-malformed", f"{self._path}/{name}", repair=self._remove(name))
        else:
            self._records[int(name, 16)] = _Record(int(match[1]), match[2])

    def of(self, fd: int, name: str, inode: int) -> int:
        """The number that is recorded about an entry of the directory `fd`; 0: none."""
        record = self._records.get(inode)
        if record is None or birth(fd, os.fsencode(name)) != record.born:
            return 0
        self._used.add(inode)
        return record.origin

    def finish(self) -> None:
        """Find the records of nothing; call it after all entries."""
        if not self._report.complete:
            return  # they may be of what cannot be looked at
        for inode in sorted(self._records.keys() - self._used):
            name = f"{inode:016x}"
            self._report.add("record-stale", f"{self._path}/{name}", repair=self._remove(name))

    def _remove(self, name: str) -> partial[None]:
        return partial(os.unlink, name, dir_fd=self._fd)
