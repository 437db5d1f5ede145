"""The mounts of a mount namespace as the kernel lists them, and how to end them.

Names are bytes: a mount of anybody on the machine can have a name that is no text.
"""

import errno
import os
import re
from pathlib import Path
from typing import NamedTuple

from tests.posix import calls

#: Where a connection of FUSE can be aborted, once fusectl is mounted here.
CONNECTIONS = Path("/sys/fs/fuse/connections")


class Mount(NamedTuple):
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    point: Path
    kind: str  #: the filesystem's type
    device: int
    source: str
    flags: list[str]  #: of the mount, not of its filesystem


def parse(line: bytes) -> Mount:
    """Read one line; what is no UTF-8 in it stays as surrogates, as in any name `os` gives."""
    fields, _, rest = line.partition(b" - ")
    _, _, device, _, point, flags, *_ = fields.split(b" ")
    kind, source, *_ = rest.split(b" ")
    major, minor = map(int, device.split(b":"))
    return Mount(
        Path(_text(point)),
        os.fsdecode(kind),
        os.makedev(major, minor),
        _text(source),
        flags.decode().split(","),
    )


def _text(field: bytes) -> str:
    """Undo the kernel's escapes: a space, tab, newline, backslash or # as three octal digits."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), field))


def mounts_below(directory: Path | str) -> list[Mount]:
    """Each mount at or below `directory`, innermost last."""
    # Not splitlines: a name may hold a carriage return, which the kernel does not escape.
    lines = Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]
    return [mount for mount in map(parse, lines) if mount.point.is_relative_to(directory)]


def detach(mountpoint: Path) -> None:
    """umount2(2) with MNT_DETACH; no error when nothing is mounted there."""
    try:
        calls.umount(mountpoint, calls.MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def show_connections() -> None:
    """Have fusectl mounted at CONNECTIONS, in this mount namespace; root only."""
    try:
        calls.mount("fusectl", CONNECTIONS, "fusectl")
    except OSError as error:
        if error.errno != errno.EBUSY:  # it is mounted there, as systemd does
            raise


def abort(device: int) -> None:
    """End the FUSE connection of a mount: what waits for its daemon gets ECONNABORTED."""
    # The directory of a connection is named by the mount's minor device number.
    control = CONNECTIONS / str(os.minor(device)) / "abort"
    if control.exists():
        control.write_text("1")
