"""Private attributes: origins, impure marks, and what other union filesystems keep in theirs."""

import os
import re
from collections.abc import Mapping
from errno import ENODATA, ENOTSUP
from functools import partial
from typing import Final

from unionfs.check.findings import Report
from unionfs.check.marks import Directory
from unionfs.check.origins import LAST_NUMBER, Origins
from unionfs.check.redirects import REDIRECT
from unionfs.overrides import NAMES as OVERRIDES
from unionfs.workdir import may_be_trusted
from unionfs.xattrs import OPAQUE, PRIVATE, shown_name

#: Where unionfs keeps its own: as root, and as anybody else.
OWN: Final = ("trusted.unionfs.", "user.unionfs.")
#: Readers (unionfs/_identity.pyx) take no longer value.
_LONGEST_ORIGIN: Final = 23

#: Attributes of overlayfs (fs/overlayfs/overlayfs.h) and fuse-overlayfs (main.c) that change what
#: a file is, by the part after the prefix.
_FOREIGN: Final = {
    "metacopy": "foreign-metacopy",
    "redirect": "foreign-redirect",
    "whiteout": "foreign-whiteout",
}
#: A record as unionfs/_override.pyx reads it.
_OVERRIDE: Final = re.compile(rb"[0-9]+:[0-9]+:[0-7]+(:[a-z]+(-[0-9]+-[0-9]+)?)?")
#: Their bookkeeping, which says nothing about what is visible.
_HARMLESS: Final = {"opaque", "origin", "impure", "nlink", "upper", "uuid"}


def read_private(fd: int, name: str) -> dict[str, bytes]:
    """The private attributes of an entry of the directory `fd`, of a link itself.

    Raises OSError.
    """
    # There is no listxattr relative to a directory: this path is one, and follows no other link.
    path = f"/proc/self/fd/{fd}/{name}"
    found: dict[str, bytes] = {}
    try:
        for attribute in os.listxattr(path, follow_symlinks=False):
            if shown_name(attribute) is None:
                found[attribute] = os.getxattr(path, attribute, follow_symlinks=False)
    except OSError as error:
        if error.errno != ENOTSUP:
            raise
    return found


def can_have_origin(fd: int, name: str) -> bool:
    """Whether the filesystem would keep an origin for this regular file."""
    try:
        os.getxattr(f"/proc/self/fd/{fd}/{name}", f"{OWN[1]}origin", follow_symlinks=False)
    except OSError as error:
        return error.errno == ENODATA
    return True


def check_foreign(
    report: Report,
    path: str,
    attributes: Mapping[str, bytes],
    *,
    directory: bool,
    override: str | None,
) -> None:
    """Look at the attributes that are not unionfs' own, and at names that nobody knows.

    `override` is the attribute in which this upper keeps owners and modes.
    """
    for attribute, value in attributes.items():
        prefix = next(prefix for prefix in PRIVATE if attribute.startswith(prefix))
        key = attribute.removeprefix(prefix)
        if prefix in OWN:
            if key not in ("origin", "impure"):
                report.add("private-unknown", path, attribute)
        elif attribute in REDIRECT and directory:
            pass
        elif attribute in OVERRIDES:
            if attribute != override:
                report.add("foreign-override", path, attribute)
            elif not _OVERRIDE.fullmatch(value):
                report.add("override-malformed", path, repr(value))
        elif key in _FOREIGN:
            report.add(_FOREIGN[key], path, attribute)
        elif key not in _HARMLESS and attribute not in OPAQUE:
            report.add("private-unknown", path, attribute)


class Numbers:
    """Who shows which st_ino."""

    def __init__(self, report: Report, recorded: Origins) -> None:
        self._report = report
        self._recorded = recorded
        self._origins: dict[int, tuple[int, str]] = {}  # the number: who shows it
        self._plain: set[int] = set()  # inodes that show their own

    def check_impure(self, directory: Directory) -> set[str]:
        """Look at a directory's marks; returns the prefixes under which origins are read there."""
        read = set()
        for prefix in OWN:
            attribute = f"{prefix}impure"
            value = directory.attributes.get(attribute)
            if value is None:
                continue
            impure = 1 <= len(value) <= 4  # as is_impure() of unionfs/_identity.pyx
            if value != b"y":
                impure |= self._report.add(
                    "impure-malformed",
                    directory.path,
                    f"{attribute}={os.fsdecode(value)!r}",
                    partial(os.setxattr, directory.fd, attribute, b"y"),
                )
            if impure:
                read.add(prefix)
        return read

    def check_entry(
        self, directory: Directory, impure: set[str], name: str, attributes: Mapping[str, bytes]
    ) -> None:
        """Look at one entry's origin; `impure` gains the prefixes for which a mark is reported."""
        inode = directory.entries[name].st_ino
        shown = 0
        for prefix in OWN:
            value = attributes.get(f"{prefix}origin")
            if value is None:
                continue
            number = self._number(directory, name, f"{prefix}origin", value)
            if number and prefix not in impure:
                self._unread(directory, impure, name, prefix)
            shown = shown or number
        # Asked in any case: a record of a file is not stale, needed or not.
        recorded = self._recorded.of(directory.fd, name, inode)
        if recorded and not shown and not impure:
            self._unread(directory, impure, name, OWN[0 if may_be_trusted() else 1])
        self.take(inode, shown or recorded, directory.path_of(name))

    def _unread(self, directory: Directory, impure: set[str], name: str, prefix: str) -> None:
        self._report.add(
            "origin-unread",
            directory.path,
            f"first of them: {name}",
            partial(os.setxattr, directory.fd, f"{prefix}impure", b"y"),
        )
        impure.add(prefix)

    def recorded(self, fd: int, name: str, inode: int) -> int:
        """The number recorded about an entry that is outside of the upper's tree; 0: none."""
        return self._recorded.of(fd, name, inode)

    def take(self, inode: int, origin: int, path: str) -> None:
        """One more name of an inode that shows `origin`, or its own number where that is 0."""
        if not origin:
            self._plain.add(inode)
            return
        other, other_path = self._origins.setdefault(origin, (inode, path))
        if other != inode:
            self._report.add("origin-twice", path, f"{origin}, as {other_path}")

    def finish(self) -> None:
        """Find the origins that are also another file's own number; call it after all entries."""
        for origin in self._origins.keys() & self._plain:
            _, path = self._origins[origin]
            self._report.add("origin-twice", path, f"{origin}, another file's own number")

    def _number(self, directory: Directory, name: str, attribute: str, value: bytes) -> int:
        number = read_origin(value)
        if value != b"%d" % number or not number:
            path = f"/proc/self/fd/{directory.fd}/{name}"

            def rewrite() -> None:
                if number:
                    os.setxattr(path, attribute, b"%d" % number, follow_symlinks=False)
                else:
                    os.removexattr(path, attribute, follow_symlinks=False)

            self._report.add(
                "origin-malformed",
                directory.path_of(name),
                f"{attribute}={os.fsdecode(value)!r}",
                rewrite,
            )
        return number


def read_origin(value: bytes) -> int:
    """The number that find_ino() of unionfs/_identity.pyx reads, by strtoull(3); 0: none."""
    match = re.match(rb"[ \t\n\v\f\r]*([+-]?)(\d+)", value)
    if match is None or len(value) > _LONGEST_ORIGIN:
        return 0
    number = int(match[2])
    if number > LAST_NUMBER:
        return LAST_NUMBER
    return (LAST_NUMBER + 1 - number) % (LAST_NUMBER + 1) if match[1] == b"-" else number
