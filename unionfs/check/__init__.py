"""What an upper and its work directory must satisfy, and the repair of what does not.

    findings = check(upper_fd)

The rules are those of docs/format.md; `findings.KINDS` has one entry for each way to break them.
Nobody may use the upper meanwhile (`unionfs-check` holds the lock that a mount takes).
"""

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

from unionfs import overrides
from unionfs.check.attributes import Numbers, check_foreign, read_private
from unionfs.check.findings import KINDS, Finding, Kind, Report
from unionfs.check.links import Links
from unionfs.check.lowers import Lowers
from unionfs.check.marks import Directory, check_names, check_opaque
from unionfs.check.origins import Origins
from unionfs.check.redirects import REDIRECT, is_redirect, place_below, redirect_of
from unionfs.check.walk import open_directory, walk
from unionfs.check.workdirs import check_workdir
from unionfs.whiteout import is_reserved, is_whiteout_device
from unionfs.workdir import LINKS, ORIGINS

__all__ = ["KINDS", "Finding", "Kind", "check", "is_marked"]


def is_marked(upper: int) -> bool:
    """Whether a directory holds anything that only a union leaves, from the first one on.

    Looks as far as it may; what a mount leaves that only created files is not distinguishable.
    """
    if read_private(upper, "."):
        return True
    for _, directories, files, fd in os.fwalk(".", dir_fd=upper):
        for name in (*directories, *files):
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if is_reserved(name) or is_whiteout_device(status) or read_private(fd, name):
                    return True
            except OSError:
                continue  # the check itself says what cannot be read
    return False


def check(
    upper: int, workdir: int | None = None, lowers: Sequence[int] = (), *, repair: bool = False
) -> list[Finding]:
    """Name every inconsistency of an upper.  Arguments are descriptors of directories.

    `workdir` is the work directory where it is not the default one inside the upper.  With
    the `lowers` (topmost first) more is found: what says something about names below.  With
    `repair` what can be put right is, if that neither loses data nor changes what the union shows.

    Raises OSError when the upper itself cannot be read, or changes meanwhile.
    """
    report = Report(repair=repair)
    with ExitStack() as opened:
        root = open_directory(upper, ".")
        opened.callback(os.close, root)
        below = opened.enter_context(closing(Lowers(root, lowers))) if lowers else None
        kept = check_workdir(report, opened, root, workdir)
        links = Links(report, *kept[LINKS])
        origins = Origins(report, *kept[ORIGINS])
        numbers = Numbers(report, origins)
        device, override = os.fstat(root).st_dev, overrides.name_of(root)
        visitor = _Visitor(report, numbers, links, below, device, override)
        first = _Above(read_private(root, "."), "", False)
        numbers.take(os.fstat(root).st_ino, 0, "")
        walk(root, visitor.visit, first, report.unreadable)
        visible = None
        if below is not None and not links.empty and report.complete:
            try:
                visible = below.count_names(links.numbers, trusted=not visitor.by_user)
            except PermissionError as error:
                report.unreadable("lowers:", error)
        links.finish(numbers, visible)
        numbers.finish()
        origins.finish()
    return report.findings


class _Above(NamedTuple):
    """What is known of a directory from the one above it."""

    attributes: Mapping[str, bytes]
    below: str
    closed: bool


class _Visitor:
    """Looks at one directory after the other."""

    def __init__(
        self,
        report: Report,
        numbers: Numbers,
        links: Links,
        below: Lowers | None,
        device: int,
        override: str | None,
    ) -> None:
        self._report = report
        self._numbers = numbers
        self._links = links
        self._below = below
        self._device = device
        self._override = override
        self.by_user = False  #: whether redirects are those of an ordinary user's mounts

    def visit(self, fd: int, path: str, above: _Above) -> list[tuple[str, _Above]]:
        directory = Directory(fd, path, above.attributes, {}, {}, above.below, above.closed)
        directory.entries = self._list(directory)
        directory.inside = self._read_inside(directory)
        opaque = check_opaque(self._report, directory)
        impure = self._numbers.check_impure(directory)
        self._check_redirect(directory, opaque)
        shown_below = None if self._below is None else self._below.names
        beside = check_names(self._report, directory, opaque, shown_below)
        subdirectories = []
        for name, attributes in directory.inside.items():
            status = directory.entries[name]
            is_dir = stat.S_ISDIR(status.st_mode)
            check_foreign(
                self._report,
                directory.path_of(name),
                attributes,
                directory=is_dir,
                override=self._override,
            )
            self._numbers.check_entry(directory, impure, name, attributes)
            if is_dir:
                redirect = redirect_of(attributes)
                closed = opaque or directory.closed or name in beside
                below = place_below(above.below, name, redirect)
                child = _Above(attributes, below, closed and redirect is None)
                subdirectories.append((name, child))
            else:
                self._links.seen_in_upper(status.st_ino)
        return subdirectories

    def _check_redirect(self, directory: Directory, opaque: bool) -> None:
        redirect = redirect_of(directory.attributes)
        if redirect is None or opaque:
            return
        self.by_user |= REDIRECT[0] not in directory.attributes
        if not is_redirect(redirect):
            self._report.add("redirect-malformed", directory.path, repr(redirect))
        elif self._below is not None:
            try:
                if self._below.names(directory.below) is None:
                    self._report.add("redirect-nowhere", directory.path, repr(redirect))
            except PermissionError as error:
                self._report.unreadable(f"lowers:{directory.below}", error)

    def _read_inside(self, directory: Directory) -> dict[str, dict[str, bytes]]:
        inside = {}
        for name, status in directory.entries.items():
            if is_reserved(name) or is_whiteout_device(status):
                continue
            if status.st_dev != self._device:
                self._report.add("other-filesystem", directory.path_of(name))
                continue
            try:
                inside[name] = read_private(directory.fd, name)
            except OSError as error:
                self._report.unreadable(directory.path_of(name), error)
        return inside

    def _list(self, directory: Directory) -> dict[str, os.stat_result]:
        """The entries in a fixed order, so that one upper gives the same findings each time."""
        entries: dict[str, os.stat_result] = {}
        try:
            names = sorted(os.listdir(directory.fd))
        except OSError as error:
            self._report.unreadable(directory.path, error)
            return entries
        for name in names:
            try:
                entries[name] = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            except OSError as error:
                self._report.unreadable(directory.path_of(name), error)
        return entries
