"""umount.fuse.unionfs-mount: unmount a union, and wait for the process that served it.

umount(8) runs it, where it is in a directory that umount(8) looks in.  The kernel ends a mount of
this kind without waiting for its server, which then writes the upper out; so the filesystems below
could not be unmounted at once.
"""

import os
import select
import sys
from collections.abc import Sequence
from getopt import GetoptError, gnu_getopt
from typing import Final

from unionfs import daemons, kernel, mounttable
from unionfs.cli import printable, run
from unionfs.errors import UnmountFailed, UsageError

PROGRAM = "umount.fuse.unionfs-mount"
# How often to look whether another mount namespace is what keeps the server. In milliseconds.
_LOOK: Final = 500
# After so many looks the process that is waited for is named, and not waited for any longer if it
# is another user's: that user could stop it to hold up whoever unmounts everything.
_SILENT_LOOKS: Final = 20

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
    mount = mounttable.mounted_for(point)
    if mount is None:
        raise UnmountFailed(path=os.path.abspath(point), reason="nothing is mounted there")
    point = mount.point
    ours = mount.kind == kernel.KIND  # the server of another may live on, for other mounts
    server = daemons.server_of(mount.device) if ours and not (lazily or forced) else None
    try:
        kernel.unmount(point, lazily=lazily, forced=forced)
    except OSError as error:
        raise UnmountFailed(path=point, reason=error.strerror) from None
    if server is None:
        return
    try:
        _wait(server, mount.device, printable(point))
    finally:
        os.close(server)


def _wait(server: int, device: int, point: str) -> None:
    """Return when the process has ended, or will not end by this unmounting."""
    poll = select.poll()
    poll.register(server, select.POLLIN)
    looks = 0
    while not poll.poll(_LOOK):
        other = mounttable.elsewhere(device)
        if other is not None:
            _say(
                f"{point} is unmounted here, and still mounted in the mount namespace of process "
                f"{other}: its branches stay in use"
            )
            return
        looks += 1
        if looks == _SILENT_LOOKS:
            pid, ours = daemons.behind(server)
            if pid:
                _say(f"{point} is unmounted, and process {pid} has not written everything out yet")
                if not ours:
                    return


def _say(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr)
