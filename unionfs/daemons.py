"""The daemons that serve unions, and where what they serve is mounted: what /proc tells.

A daemon holds the channel, /dev/fuse; the kernel says in its fdinfo which connection that is, and a
connection has the device number of its mount (fs/fuse/dev.c, fuse_dev_show_fdinfo; Linux 5.19).
So a daemon is found whatever it is called, and its mount wherever it is: in another mount
namespace too, where nobody outside of it sees the mount.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from unionfs import mounttable
from unionfs.kernel import DEVICE, KIND


class Daemon(NamedTuple):
    """A process that serves a union, or one of its copies after a fork."""

    pid: int
    device: int  #: st_dev of what is on the mount
    #: Where it is mounted, in the namespace of this process or else in its own.  None: nowhere
    #: any more, and the process writes out what is left.
    mountpoint: str | None
    here: bool  #: this process sees the mount
    alone: bool  #: nobody else that this user may look at is in the daemon's mount namespace


def union_on(device: int) -> str | None:
    """Where the union with this st_dev is mounted, None if it is none or nowhere here."""
    return _unions("self").get(device)


def daemons() -> list[Daemon]:
    """Every daemon that serves a union and that this user may look at, by process id."""
    namespaces: dict[int, list[int]] = {}  # who is where
    channels: dict[int, set[int]] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        # Gone meanwhile, or another user's.
        with suppress(OSError):
            namespaces.setdefault(_namespace(pid), []).append(pid)
            held = set(_connections(pid))
            if held:
                channels[pid] = held
    here = _unions("self")
    found = []
    for pid, held in sorted(channels.items()):
        with suppress(OSError):
            inside = _unions(pid)
            others = set(namespaces[_namespace(pid)]) - channels.keys()
            for device in sorted(held):
                point = here.get(device, inside.get(device))
                if point is not None or _name(pid) == "unionfs-mount":
                    found.append(Daemon(pid, device, point, device in here, not others))
    return found


def daemon_of(pid: int) -> Daemon | None:
    """The daemon with this process id, None if it is none or not to be looked at."""
    return next((daemon for daemon in daemons() if daemon.pid == pid), None)


def server_of(device: int) -> int | None:
    """A pidfd of a process that serves the mount with this st_dev; None if none is found.

    The mount itself is not asked: a server that hangs would not answer, and one that means harm,
    or is in another namespace of processes, would name a process that is no server of it.
    """
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):  # gone meanwhile, or another user's
            if device in _connections(pid):
                fd = os.pidfd_open(pid)
                with suppress(OSError):
                    if device in _connections(pid):  # still, so the descriptor is of this one
                        return fd
                os.close(fd)
    return None


def behind(pidfd: int) -> tuple[int, bool]:
    """The process id, 0 or -1 for one that has ended, and whether the process is this user's."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        pid = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
    with suppress(OSError):
        return pid, os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    return -1, False


def _unions(process: int | str) -> dict[int, str]:
    """The mount point of each union that a process sees, by st_dev."""
    found = {}
    for mount in mounttable.mounts(process):
        if mount.kind == KIND:
            found[mount.device] = mount.point
    return found


def _namespace(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/mnt").st_ino


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return file.read().rstrip("\n")


def _connections(pid: int) -> Iterator[int]:
    """The st_dev of each FUSE mount that a process serves."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{fd}") == DEVICE:
            with open(f"/proc/{pid}/fdinfo/{fd}") as file:
                for line in file:
                    if line.startswith("fuse_connection:"):
                        yield os.makedev(0, int(line.split()[1]))
