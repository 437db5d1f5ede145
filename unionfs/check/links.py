"""The copies of files with several names, and the counts of those (unionfs/_links.pyx)."""

import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from typing import Final

from unionfs.check.attributes import OWN, Numbers, can_have_origin, read_origin, read_private
from unionfs.check.findings import Report

_COPY: Final = re.compile(r"[0-9a-f]{16}")
_COUNT: Final = re.compile(r"[0-9a-f]{16}\.n")
#: As _links.pyx reads it: digits, no more than fit into 15 bytes, and 32 bits.
_VALUE: Final = re.compile(r"[1-9][0-9]{0,9}")


class Links:
    """What the directory behind the descriptor holds; `None` where there is none."""

    def __init__(self, report: Report, fd: int | None, path: str) -> None:
        self._report = report
        self._fd = -1 if fd is None else fd
        self._path = path
        self._copies: dict[int, os.stat_result] = {}  # by st_ino in the union
        self._counts: dict[int, int] = {}  # 0: malformed
        self._numbers: dict[int, int] = {}  # by the inode of the copy
        self._in_upper: Counter[int] = Counter()
        for name in [] if fd is None else sorted(os.listdir(fd)):
            self._take(name)

    def _take(self, name: str) -> None:
        path = f"{self._path}/{name}"
        status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        number = int(name[:16], 16) if _COPY.match(name) else 0
        if not number or not (_COPY.fullmatch(name) or _COUNT.fullmatch(name)):
            self._report.add("link-unknown", path)
        elif _COUNT.fullmatch(name):
            value = os.readlink(name, dir_fd=self._fd) if stat.S_ISLNK(status.st_mode) else ""
            valid = _VALUE.fullmatch(value) and int(value) < 2**32
            self._counts[number] = int(value) if valid else 0
        elif stat.S_ISDIR(status.st_mode):
            self._report.add("link-type", path)
        else:
            self._copies[number] = status
            self._numbers[status.st_ino] = number

    @property
    def numbers(self) -> Mapping[int, int]:
        """By the inode of each copy the number that it, and every name of it, shows."""
        return self._numbers

    @property
    def empty(self) -> bool:
        return not self._copies and not self._counts

    def seen_in_upper(self, inode: int) -> None:
        """The walk has met a name."""
        if inode in self._numbers:
            self._in_upper[self._numbers[inode]] += 1

    def finish(self, numbers: Numbers, visible: Mapping[int, int] | None) -> None:
        """Judge, after the walk.  `visible`: how many names the union shows, by number."""
        for number in self._copies:
            self._check_origin(number, numbers)
        for number in sorted(self._copies.keys() | self._counts.keys()):
            self._check_count(number, visible)

    def _check_origin(self, number: int, numbers: Numbers) -> None:
        name = f"{number:016x}"
        path = f"{self._path}/{name}"
        try:
            attributes = read_private(self._fd, name)
        except OSError as error:
            self._report.unreadable(path, error)
            return
        values = [
            attributes[f"{prefix}origin"] for prefix in OWN if f"{prefix}origin" in attributes
        ]
        recorded = numbers.recorded(self._fd, name, self._copies[number].st_ino)
        origin = read_origin(values[0]) if values else recorded
        if values or recorded:
            if origin != number:
                self._report.add("link-origin", path, f"{origin} instead of {number}")
        elif stat.S_ISREG(self._copies[number].st_mode) and can_have_origin(self._fd, name):
            self._report.add("link-origin", path, "none")
        if origin:
            numbers.take(self._copies[number].st_ino, origin, path)

    def _check_count(self, number: int, visible: Mapping[int, int] | None) -> None:
        path = f"{self._path}/{number:016x}"
        names = self._in_upper[number] if visible is None else visible.get(number, 0)
        count = self._counts.get(number)
        code, detail = None, ""
        if count is None:
            code = "link-uncounted"
        elif count == 0:
            code, path = "link-count-malformed", f"{path}.n"
        elif count < names:
            code, path, detail = "link-count-low", f"{path}.n", f"{count} of {names}"
        if code is not None:
            # Too small a number would have the copy removed while names still lead to it; so
            # it is not guessed without the lowers.
            repair = None if visible is None else lambda: self._write_count(number, max(names, 1))
            self._report.add(code, path, detail, repair)
        if visible is not None and not names and number in self._copies:
            self._report.add("link-unreachable", f"{self._path}/{number:016x}")

    def _write_count(self, number: int, count: int) -> None:
        name = f"{number:016x}.n"
        aside = f"{name}.new"
        os.symlink(str(count), aside, dir_fd=self._fd)
        try:
            os.rename(aside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:
            os.unlink(aside, dir_fd=self._fd)
            raise
