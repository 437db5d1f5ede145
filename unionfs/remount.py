"""`remount`: other kernel flags for a mount that is there.

mount(8) hands over all options that the mount has or fstab(5) has for it, and the changes last;
a person names the changes.  Both are read in the same way: from the flags in effect, option by
option.  The options of the union itself are those of the process that serves it, and stay.
"""

import os
from collections.abc import Sequence
from errno import EBUSY, EPERM
from typing import Final, NamedTuple

from unionfs import _mount, kernel
from unionfs.errors import MountFailed, MountpointBad, NotAMount, UsageError
from unionfs.mounttable import mounted_at
from unionfs.options import ATIME_FLAGS, CLEARS, FOR_MOUNT_8, KERNEL_FLAGS, OPTIONS, change_flag
from unionfs.values import absolute, split_options

_MS_REMOUNT: Final = 32
#: What mount(8) finds in the mount table, and the kernel's FUSE writes there.
_FUSE: Final = {
    *("fd", "rootmode", "user_id", "group_id", "default_permissions", "allow_other"),
    *("max_read", "blksize", "seclabel"),
}
#: These the daemon obeys, for the upper too, or the kernel does not change.
_DECIDED_AT_MOUNT: Final = {"dirsync", "nodiratime", *ATIME_FLAGS}


class Remount(NamedTuple):
    """What a remount was asked for."""

    mountpoint: str
    changes: tuple[str, ...]  #: kernel flags, and what takes them back, in order
    kept: tuple[str, ...]  #: the union's own options that were named: they stay as they are


def read(options: Sequence[str], positionals: Sequence[str]) -> Remount | None:
    """The remount that a command line asks for; None if it asks for a mount.

    Raises `UsageError`.
    """
    names = [name for text in options for name, _ in split_options(text)]
    if "remount" not in names:
        return None
    changes = []
    kept: dict[str, None] = {}
    for name in names:
        if name in KERNEL_FLAGS or name in CLEARS:
            changes.append(name)
        elif name in OPTIONS and name not in _FUSE:
            kept[name] = None
        elif not (
            name == "remount"
            or name in _FUSE
            or name in FOR_MOUNT_8
            or name[0].isdigit()  # of a mapping with commas
            or name.startswith(("x-", "X-"))
        ):
            raise UsageError(problem=f"option {name} cannot be changed by remount")
    if not positionals:
        raise UsageError(problem="no mount point is given")
    if len(positionals) > 2:
        raise UsageError(problem="remount takes a mount point, and no branches")
    return Remount(absolute("mount point", positionals[-1]), tuple(changes), tuple(kept))


def remount(asked: Remount) -> None:
    """Change the flags of a mount.

    Raises `MountpointBad`, `NotAMount`, and `MountFailed` with the reason.
    """
    point = os.path.realpath(asked.mountpoint)
    try:
        mount = mounted_at(point)
        status = os.getxattr(point, "user.unionfs.where")
    except OSError as error:
        if not os.path.isdir(point):
            raise MountpointBad(
                path=point,
                reason=os.strerror(error.errno or 0),
                advice="give the mount point of a mounted union",
            ) from None
        raise NotAMount(path=point) from None
    if mount is None or mount.kind != kernel.KIND:
        raise NotAMount(path=point)
    before = [name for name in KERNEL_FLAGS if name in mount.flags]
    after = dict.fromkeys(before)
    for name in asked.changes:
        change_flag(after, name)
    for name in sorted(_DECIDED_AT_MOUNT & (set(before) ^ after.keys())):
        reason = f"{name} is decided when the union is mounted: unmount it and mount it again"
        raise MountFailed(path=point, reason=reason)
    # The root is in the upper wherever there is one that is written to.
    if "ro" not in after and "ro" in before and b'"branch":0' not in status:
        reason = "it was mounted read-only, without an upper to write to: unmount it and mount it "
        raise MountFailed(path=point, reason=reason + "again with an upper and without ro")
    bits = _MS_REMOUNT
    for name in after:
        bits |= KERNEL_FLAGS[name]
    try:
        _mount.mount(mount.source, point, kernel.KIND, bits, "")
    except OSError as error:
        reason = str(error.strerror)
        if error.errno == EBUSY:
            reason += "; a file on it is open for writing"
        if error.errno == EPERM:
            reason += "; only root may remount, and in a user namespace not take back what is set"
        raise MountFailed(path=point, reason=reason) from None
