"""The work directory itself: where it is, who may enter it, what is left in it."""

import os
import stat
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from unionfs import workdir
from unionfs.check.findings import Report
from unionfs.check.walk import open_directory
from unionfs.errors import WorkdirUnusable


class Kept(NamedTuple):
    """A directory for what a later mount needs."""

    fd: int | None  #: None where there is none
    path: str


def check_workdir(
    report: Report, opened: ExitStack, upper: int, given: int | None
) -> dict[str, Kept]:
    """Look at a work directory and its scratch space.

    `given` is the descriptor of one that is not the default.  Returns by name the directories
    of what is kept, whose descriptors `opened` closes.
    """
    place = "workdir:" if given is not None else f"{workdir.DEFAULT_NAME}/"
    above = (
        _open_default(report, opened, upper)
        if given is None
        else _open_given(report, opened, upper, given)
    )
    found = {name: Kept(None, f"{place}{name}") for name in (workdir.LINKS, workdir.ORIGINS)}
    if above is None:
        return found
    for name in sorted(os.listdir(above)):
        path = f"{place}{name}"
        if name != workdir.SCRATCH and name not in found:
            report.add("workdir-unknown", path)
            continue
        fd = _open_inside(report, opened, above, name, path)
        if fd is not None:
            _check_access(report, upper, fd, path)
            if name in found:
                found[name] = Kept(fd, path)
            elif left := os.listdir(fd):
                report.add(
                    "scratch-left",
                    path,
                    f"{len(left)} entries",
                    partial(_clear, upper, fd, path),
                )
    return found


def _open_default(report: Report, opened: ExitStack, upper: int) -> int | None:
    try:
        os.stat(workdir.DEFAULT_NAME, dir_fd=upper, follow_symlinks=False)
    except FileNotFoundError:
        return None
    fd = _open_inside(report, opened, upper, workdir.DEFAULT_NAME, workdir.DEFAULT_NAME)
    if fd is None or _is_elsewhere(report, upper, fd, workdir.DEFAULT_NAME):
        return None
    _check_access(report, upper, fd, workdir.DEFAULT_NAME)
    return fd


def _open_given(report: Report, opened: ExitStack, upper: int, given: int) -> int | None:
    """Whom else a directory serves, and who may enter it, is the business of who made it."""
    fd = open_directory(given, ".")
    opened.callback(os.close, fd)
    return None if _is_elsewhere(report, upper, fd, "workdir:.") else fd


def _open_inside(
    report: Report, opened: ExitStack, parent: int, name: str, path: str
) -> int | None:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        report.add("workdir-type", path)
        return None
    try:
        fd = open_directory(parent, name)
    except OSError as error:
        report.unreadable(path, error)
        return None
    opened.callback(os.close, fd)
    return fd


def _is_elsewhere(report: Report, upper: int, fd: int, path: str) -> bool:
    elsewhere = os.fstat(fd).st_dev != os.fstat(upper).st_dev
    if elsewhere:
        report.add("workdir-elsewhere", path)
    return elsewhere


def _check_access(report: Report, upper: int, fd: int, path: str) -> None:
    status = os.fstat(fd)
    # Root may have mounted what belongs to somebody else.
    if status.st_uid not in (0, os.geteuid(), os.fstat(upper).st_uid):
        report.add("workdir-owner", path, f"uid {status.st_uid}")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        report.add("workdir-mode", path, f"{mode:04o}", lambda: os.chmod(fd, 0o700))


def _clear(upper: int, fd: int, path: str) -> None:
    workdir.restore(upper, fd)
    try:
        workdir.clear(fd, path)
    except WorkdirUnusable as error:
        raise OSError(None, str(error)) from None
