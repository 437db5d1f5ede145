"""The run's own mount namespace: what tests mount is seen by nobody else on the machine.

In it /dev/fuse is open to everybody, whatever udev or a container makes of the machine's, and
FUSE connections can be aborted.
"""

import os
import sys
import tempfile
from pathlib import Path

from tests import mounts
from tests.posix import calls

DEVICE = "/dev/fuse"


def enter() -> bool:
    """Move this process, and all that it starts from now on, into such a namespace.

    False where it may not: it is no root, or root of a container that lets nobody mount. What
    mounts fails or is skipped there. Mounts that come to the machine or go from it are followed
    where it shares them.
    """
    if os.geteuid() != 0:
        return False
    try:
        calls.unshare(calls.CLONE_NEWNS)
    except PermissionError:
        return False
    calls.mount("none", "/", "none", calls.MS_REC | calls.MS_SLAVE)
    _let_go()
    if os.path.exists(DEVICE):
        mounts.show_connections()
        _own_device()
    return True


def _let_go() -> None:
    """Take away the copies of other people's unions: their daemons could not end before we do."""
    needed = [Path(path) for path in (sys.prefix, sys.base_prefix, __file__, os.getcwd())]
    needed.append(Path(tempfile.gettempdir()))
    for mount in reversed(mounts.mounts_below("/")):
        if mount.kind.startswith("fuse.") and not any(
            path.is_relative_to(mount.point) for path in needed
        ):
            mounts.detach(mount.point)


def _own_device() -> None:
    """A node of our own over the machine's, whose mode somebody else may have changed or change."""
    number = os.stat(DEVICE).st_rdev
    with tempfile.TemporaryDirectory() as scratch:
        calls.mount("dev", scratch, "tmpfs")
        node = os.path.join(scratch, "fuse")
        os.mknod(node, 0o20666, number)
        os.chmod(node, 0o666)
        calls.mount(node, DEVICE, "none", calls.MS_BIND)
        calls.umount(scratch, calls.MNT_DETACH)  # the bind mount keeps it alive
