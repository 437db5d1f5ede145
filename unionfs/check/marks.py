"""Whiteouts, opaque marks and other reserved names of one directory."""

import ctypes
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unionfs.check.findings import Report
from unionfs.check.redirects import redirect_of
from unionfs.check.walk import open_directory, times_kept
from unionfs.whiteout import OPAQUE_NAME, is_reserved, is_whiteout_device
from unionfs.workdir import DEFAULT_NAME
from unionfs.xattrs import OPAQUE

#: What a replacement is called before it takes its place: reserved, so never shown.
_NEW = ".wh..wh.check"
_RENAME_EXCHANGE = 2  # <linux/fs.h>


@dataclass
class Directory:
    """A directory of the upper while it is looked at."""

    fd: int
    path: str  #: relative to the upper, "" for the upper itself
    attributes: Mapping[str, bytes]  #: its own private ones
    entries: Mapping[str, os.stat_result]
    inside: Mapping[str, Mapping[str, bytes]]  #: the private attributes of the entries shown
    below: str  #: where in the union of the lowers its lower content is
    closed: bool  #: nothing from below shows through, because of something above or beside it

    def path_of(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


def check_opaque(report: Report, directory: Directory) -> bool:
    """Look at the marks; returns whether the directory is opaque."""
    marks = [name for name in OPAQUE if directory.attributes.get(name) == b"y"]
    status = directory.entries.get(OPAQUE_NAME)
    if status is not None:
        marks.append(OPAQUE_NAME)
        if not stat.S_ISREG(status.st_mode):
            report.add(
                "opaque-type",
                directory.path_of(OPAQUE_NAME),
                repair=lambda: _replace_by_file(directory.fd, OPAQUE_NAME, status),
            )
    if len(marks) > 1:
        report.add("opaque-twice", directory.path, ", ".join(marks))
    for name in OPAQUE:
        # Kernel overlayfs writes x where whiteouts may be attributes (foreign-whiteout).
        if directory.attributes.get(name, b"y") not in (b"y", b"x"):
            value = os.fsdecode(directory.attributes[name])
            report.add("opaque-value", directory.path, f"{name}={value!r}")
    return bool(marks)


def check_names(
    report: Report,
    directory: Directory,
    opaque: bool,
    shown_below: Callable[[str], frozenset[str] | None] | None,
) -> set[str]:
    """Look at whiteouts and reserved names; returns the subdirectories that a whiteout closes.

    `shown_below` tells which names the lowers show in the directory of a path, if it is one.
    """
    beside: set[str] = set()
    lonely: list[str] = []
    for name, status in directory.entries.items():
        hidden = name.removeprefix(".wh.")
        if not is_reserved(name):
            if is_whiteout_device(status):
                lonely.append(name)
        elif name == OPAQUE_NAME or (name == DEFAULT_NAME and not directory.path):
            pass
        elif hidden in ("", ".", "..") or is_reserved(hidden):
            _check_unknown(report, directory, name, status)
        else:
            _check_whiteout(report, directory, name, status)
            if hidden in directory.entries:
                _check_beside(report, directory, name, hidden, opaque)
                beside.add(hidden)
            else:
                lonely.append(name)
    if opaque or directory.closed:
        for name in lonely:
            report.add(
                "whiteout-in-opaque",
                directory.path_of(name),
                repair=_remover(directory, name),
            )
    elif lonely and shown_below is not None:
        try:
            shown = shown_below(directory.below) or frozenset()
        except PermissionError as error:
            report.unreadable(f"lowers:{directory.below}", error)
            return beside
        for name in lonely:
            if name.removeprefix(".wh.") not in shown:
                report.add("whiteout-useless", directory.path_of(name))
    return beside


def _check_unknown(report: Report, directory: Directory, name: str, status: os.stat_result) -> None:
    path = directory.path_of(name)
    # In the root of the upper aufs has directories of its own, and nobody removes the root.
    if stat.S_ISDIR(status.st_mode) and directory.path:
        report.add("reserved-directory", path, repair=lambda: _rmdir(directory.fd, name))
    else:
        report.add("reserved-unknown", path)


def _check_whiteout(
    report: Report, directory: Directory, name: str, status: os.stat_result
) -> None:
    path = directory.path_of(name)
    if stat.S_ISDIR(status.st_mode):
        report.add(
            "reserved-directory",
            path,
            repair=lambda: _replace_by_file(directory.fd, name, status),
        )
    elif is_whiteout_device(status):
        report.add("whiteout-reserved", path)
    elif not _is_plain(status):
        report.add("whiteout-content", path)


def _check_beside(
    report: Report, directory: Directory, name: str, hidden: str, opaque: bool
) -> None:
    """A whiteout and what it hides in one directory."""
    status = directory.entries[hidden]
    remove = _remover(directory, name)
    if is_whiteout_device(status):
        report.add("whiteout-twice", directory.path_of(name), repair=remove)
        return

    def close_and_remove() -> None:
        assert remove is not None
        if stat.S_ISDIR(status.st_mode) and not (opaque or directory.closed):
            _mark_opaque(directory.fd, hidden)
        remove()

    # A redirect outranks the whiteout, but an opaque mark would outrank the redirect.
    keep = remove is None or redirect_of(directory.inside.get(hidden, {})) is not None
    report.add(
        "whiteout-beside", directory.path_of(name), repair=None if keep else close_and_remove
    )


# --- repairing ---


def _is_plain(status: os.stat_result) -> bool:
    """Whether nothing is lost with this whiteout."""
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def _remover(directory: Directory, name: str) -> Callable[[], None] | None:
    """Removes a whiteout; None where it may be more than one."""
    status = directory.entries[name]
    device = is_whiteout_device(status) and not is_reserved(name)
    if not _is_plain(status) and not device:
        return None

    def remove() -> None:
        with times_kept(directory.fd):
            os.unlink(name, dir_fd=directory.fd)

    return remove


def _rmdir(fd: int, name: str) -> None:
    with times_kept(fd):
        os.rmdir(name, dir_fd=fd)


def _mark_opaque(fd: int, name: str) -> None:
    child = open_directory(fd, name)
    try:
        with times_kept(child):
            _make_file(child, OPAQUE_NAME, 0)
    finally:
        os.close(child)


def _replace_by_file(fd: int, name: str, status: os.stat_result) -> None:
    """An empty file takes the place of a mark of another type, in one step: it hides all the time.

    Raises OSError (ENOTEMPTY) for a directory that holds something, which then stays.
    """
    with times_kept(fd):
        _make_file(fd, _NEW, os.O_EXCL)
        try:
            if stat.S_ISDIR(status.st_mode):
                _exchange(fd, _NEW, name)
                try:
                    os.rmdir(_NEW, dir_fd=fd)
                except OSError:
                    _exchange(fd, _NEW, name)
                    raise
            else:
                os.rename(_NEW, name, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            os.unlink(_NEW, dir_fd=fd)
            raise


def _make_file(fd: int, name: str, flags: int) -> None:
    flags |= os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o444, dir_fd=fd))


def _exchange(fd: int, one: str, other: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(fd, os.fsencode(one), fd, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
