"""The mounts of this mount namespace, as the kernel lists them."""

import os
import re
from contextlib import suppress
from typing import NamedTuple


class Mounted(NamedTuple):
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    point: str
    kind: str  #: the filesystem's type
    source: str
    device: int  #: st_dev of what is on it
    flags: frozenset[str]  #: in effect: of the mount and of its filesystem


def mounts(process: int | str = "self") -> list[Mounted]:
    """What a process has mounted, later ones last.  Raises OSError."""
    with open(f"/proc/{process}/mountinfo", "rb") as table:
        # Not splitlines: a name may hold a carriage return, which the kernel does not escape.
        return [_parse(line) for line in table.read().split(b"\n")[:-1]]


def mounted_at(point: str) -> Mounted | None:
    """What is mounted at a directory, given by its absolute path without links; the topmost."""
    found = [mount for mount in mounts() if mount.point == point]
    return found[-1] if found else None


def mounted_for(point: str) -> Mounted | None:
    """What is mounted at a directory, whatever its path is.

    Its own path is looked for first: a file system that hangs would keep whoever resolves links.
    """
    found = None
    if ".." not in point.split("/"):  # what is above a link's target is not above the link
        found = mounted_at(os.path.abspath(point))
    return found or mounted_at(os.path.realpath(point))


def elsewhere(device: int) -> int | None:
    """A process that has a filesystem mounted which this one has not: in another namespace."""

    def has(process: int | str) -> bool:
        return any(mount.device == device for mount in mounts(process))

    if has("self"):
        return None
    seen = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended, or is another user's
            namespace = os.stat(f"/proc/{name}/ns/mnt").st_ino
            if namespace not in seen and has(name):
                return int(name)
            seen.add(namespace)
    return None


def _parse(line: bytes) -> Mounted:
    fields, _, rest = line.partition(b" - ")
    _, _, device, _, point, flags, *_ = fields.split(b" ")
    kind, source, filesystem = rest.split(b" ", 2)  # SELinux writes the spaces of a context as such
    major, minor = map(int, device.split(b":"))
    return Mounted(
        _text(point),
        os.fsdecode(kind),
        _text(source),
        os.makedev(major, minor),
        frozenset(os.fsdecode(flags + b"," + filesystem).split(",")),
    )


def _text(field: bytes) -> str:
    """Undo the kernel's escapes: a space, tab, newline, backslash or # as three octal digits."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), field))
