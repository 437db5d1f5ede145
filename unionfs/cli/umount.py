"""umount.fuse.unionfs-mount: unmount a union, and wait for the process that served it.

umount(8) runs it, where it is in a directory that umount(8) looks in.  The kernel ends a mount of
this kind without waiting for its server, which then writes the upper out; so the filesystems below
could not be unmounted at once.
"""

import json
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from getopt import GetoptError, gnu_getopt
from typing import Final

from unionfs import kernel, mounttable
from unionfs.cli import printable, run
from unionfs.cli.attributes import read
from unionfs.errors import UnionfsError, UnmountFailed, UsageError
from unionfs.xattrs import STATUS

PROGRAM = "umount.fuse.unionfs-mount"
# How often to look whether another mount namespace is what keeps the server. In milliseconds.
_LOOK: Final = 500

HELP = """\
usage: umount.fuse.unionfs-mount [-l] [-f] MOUNTPOINT

Unmount a union, and wait until everything is written out and its branches are free.

  -l              out of sight at once, gone when nobody uses it any more; do not wait
  -f              do not wait for answers of the process that serves it
  -h, --help      print this
  -n -r -v -t TYPE
                  accepted from umount(8), without a meaning here
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run(PROGRAM, command, argv)


def command(argv: Sequence[str]) -> int:
    try:
        flags, points = gnu_getopt(list(argv), "flnrvhN:t:", ["help"])
    except GetoptError as error:
        raise UsageError(problem=str(error)) from None
    given = {name for name, _ in flags}
    if given & {"-h", "--help"}:
        print(HELP, end="")
        return 0
    if "-N" in given:
        raise UsageError(problem="-N is not supported: run this command inside the namespace")
    if len(points) != 1:
        raise UsageError(problem="one mount point is needed")
    unmount(points[0], lazily="-l" in given, forced="-f" in given)
    return 0


def unmount(point: str, *, lazily: bool, forced: bool) -> None:
    """Unmount; returns when the process that served the mount has ended, if not `lazily`.

    Raises `UnmountFailed`.
    """
    point = os.path.realpath(point)
    mount = mounttable.mounted_at(point)
    if mount is None:
        raise UnmountFailed(path=point, reason="nothing is mounted there")
    server = None if lazily or forced else _server(point)
    try:
        kernel.unmount(point, lazily=lazily, forced=forced)
    except OSError as error:
        raise UnmountFailed(path=point, reason=error.strerror) from None
    if server is None:
        return
    try:
        poll = select.poll()
        poll.register(server, select.POLLIN)
        while not poll.poll(_LOOK):
            other = mounttable.elsewhere(mount.device)
            if other is not None:
                text = (
                    f"{PROGRAM}: {printable(point)} is unmounted here, and still mounted in the "
                    f"mount namespace of process {other}: its branches stay in use"
                )
                print(text, file=sys.stderr)
                return
    finally:
        os.close(server)


def _server(point: str) -> int | None:
    """A descriptor of the process that serves a mount; None if it is gone, or not ours to know."""
    with suppress(UnionfsError, OSError, ValueError):
        status = json.loads(read(point, STATUS))
        if "pid" in status:
            return os.pidfd_open(status["pid"])
    return None
