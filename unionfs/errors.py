"""Every error a person meets: one line that says what to do, and an exit status of its own.

The statuses are listed in docs/errors.md.  A status is never given to another error, not even
when its error disappears: scripts depend on them.  0 is success, 1 is what Python itself
ends with after a traceback (a bug in unionfs), 2 is what every Unix tool uses for a wrong
command line.
"""

import os
from errno import EACCES, EIO, ELOOP, ENAMETOOLONG, ENOENT, ENOTCONN, EPERM, errorcode
from typing import Final

#: Paths longer than this many characters are shortened in messages.
_MOST: Final = 120
_PATHS: Final = ("path", "other", "upper", "mountpoint")

#: What to do about an error of the system, for which nothing more particular is known.
_ADVICE: Final = {
    ENOENT: "correct the path or create it",
    ENOTCONN: "the daemon of a mount there has died; unmount it (fusermount3 -u, or umount)",
    EACCES: "change its permissions, or those of a directory above",
    EPERM: "change its permissions, or do this as root",
    ELOOP: "correct the symbolic links of the path",
    ENAMETOOLONG: "correct the path",
    EIO: "see the kernel's log (dmesg)",
}


def explained(error: OSError, **particular: str) -> dict[str, str]:
    """The details `reason` and `advice` for an error of the system.

    `particular` advice, by the name of an errno, comes before the general one.
    """
    number = error.errno or 0
    advice = particular.get(errorcode.get(number, ""))
    return {
        "reason": os.strerror(number) if number else str(error),
        "advice": advice or _ADVICE.get(number, "correct the path or choose another"),
    }


def shortened(text: str) -> str:
    """A path as messages show it: of a very long one both ends."""
    if len(text) <= _MOST:
        return text
    return f"{text[: _MOST // 2 - 10]}[...]{text[-_MOST // 2 :]}"


class UnionfsError(Exception):
    """Base of all errors below.

    The keyword arguments fill in the class's `message`, very long paths shortened; they stay
    readable, and whole, in `details`.
    """

    message = "{problem}"
    exit_code = 1

    def __init__(self, **details: object) -> None:
        shown = {
            key: shortened(str(value)) if key in _PATHS else value for key, value in details.items()
        }
        super().__init__(self.message.format_map(shown))
        self.details = details


# --- the command line ---


class UsageError(UnionfsError):
    """The command line or an option's value cannot be understood."""

    message = "{problem}"
    exit_code = 2


class UnsupportedOption(UnionfsError):
    """An option asks for what this filesystem does not do."""

    message = "option {option} is not supported: {reason}"
    exit_code = 3


# --- branches ---


class BranchMissing(UnionfsError):
    """A branch's path leads nowhere."""

    message = "branch {path} does not exist: create the directory or correct the path"
    exit_code = 10


class BranchUnreadable(UnionfsError):
    """A branch cannot be opened, listed or searched, or an upper not written, by this user."""

    message = "branch {path} cannot be used by this user ({reason}): {advice}"
    exit_code = 11


class NotADirectory(UnionfsError):
    """A branch, work directory or mount point is something else than a directory."""

    message = "{path} is not a directory: give a directory"
    exit_code = 12


class BranchTwice(UnionfsError):
    """The same directory is named as two branches."""

    message = "{path} and {other} are the same directory: name each branch once"
    exit_code = 13


class UpperInsideLower(UnionfsError):
    """The upper is inside a lower branch, which must not change."""

    message = "upper {path} is inside lower branch {other}: choose an upper elsewhere"
    exit_code = 14


class LowerInsideUpper(UnionfsError):
    """A lower branch, which must not change, is inside the upper."""

    message = "lower branch {path} is inside upper {other}: choose an upper elsewhere"
    exit_code = 15


class UpperReadOnly(UnionfsError):
    """The upper's filesystem is mounted read-only."""

    message = (
        "upper {path} is on {what} that is mounted read-only: {advice}, "
        "or mount this union with -o ro"
    )
    exit_code = 16


class WorkdirElsewhere(UnionfsError):
    """The work directory and the upper are on different filesystems or mounts."""

    message = (
        "work directory {path} and upper {upper} are on different filesystems or mounts: "
        "choose a workdir= beside the upper, or leave the option out"
    )
    exit_code = 17


class WorkdirUnusable(UnionfsError):
    """The work directory overlaps a branch, or cannot be made, read or cleared."""

    message = (
        "work directory {path} cannot be used ({reason}): name by workdir= a directory of its own "
        "that this user may write, beside the upper, or leave the option out"
    )
    exit_code = 18


class FilesystemLacks(UnionfsError):
    """A filesystem cannot store what the chosen options need."""

    message = "the filesystem of {path} lacks {feature}: {advice}"
    exit_code = 19


class UpperBusy(UnionfsError):
    """Another mount uses the same upper, and did not end in time."""

    message = "upper {path} is in use by process {pid}, {state}"
    exit_code = 20


class OverridesElsewhere(UnionfsError):
    """The upper keeps owners and modes in another attribute than xattr_permissions= asks for."""

    message = (
        "upper {path} keeps owners and modes in {attribute}, which xattr_permissions={level} "
        "does not use: leave the option out, or give the other number"
    )
    exit_code = 22


class TooManyBranches(UnionfsError):
    """The process may not hold as many descriptors as there are branches."""

    message = "no descriptor is left for branch {path}: raise the limit (ulimit -n)"
    exit_code = 21


# --- the mount point ---


class MountpointBad(UnionfsError):
    """The mount point does not exist or cannot be reached."""

    message = "mount point {path} cannot be used ({reason}): {advice}"
    exit_code = 30


class MountpointInsideBranch(UnionfsError):
    """The mount point is a branch or inside one: the union would contain itself."""

    message = (
        "mount point {path} is, or is inside, branch {other}: "
        "the union would contain itself; choose a mount point outside the branches"
    )
    exit_code = 31


class MountpointNotEmpty(UnionfsError):
    """No upper is named, and the mount point holds files: one of the two may be forgotten."""

    message = (
        "{path} is not empty, and would be the mount point of a read-only union: give "
        "LOWER UPPER MOUNTPOINT for a writable one, or -o ro if {path} is meant"
    )
    exit_code = 32


# --- the kernel's side ---


class DeviceMissing(UnionfsError):
    """There is no FUSE device: a kernel without FUSE, or a container that was not given it."""

    message = (
        "{path} does not exist: load the kernel module (modprobe fuse), "
        "or give the container the device (--device /dev/fuse)"
    )
    exit_code = 40


class DeviceRefused(UnionfsError):
    """This user may not open the FUSE device."""

    message = (
        "{path} may not be opened by this user ({reason}): "
        "make it accessible (chmod 0666 {path}), or mount as root"
    )
    exit_code = 41


class FusermountMissing(UnionfsError):
    """An ordinary user mounts through fusermount3, which is not installed."""

    message = "fusermount3 was not found: install the package fuse3, or mount as root"
    exit_code = 42


class MountFailed(UnionfsError):
    """The kernel or fusermount3 refused the mount."""

    message = "mounting at {path} failed: {reason}"
    exit_code = 43


class StartFailed(UnionfsError):
    """The daemon ended before the mount answered."""

    message = "the mount at {path} did not come up: {reason}"
    exit_code = 44


class ProcMissing(UnionfsError):
    """There is no /proc, by which descriptors get paths and nameless files names."""

    message = "/proc is not mounted: mount it (mount -t proc proc /proc)"
    exit_code = 45


class NotWrittenOut(UnionfsError):
    """At the end of a mount the upper's filesystem or disk failed to store all that was written."""

    message = "not all of {path} may be on the disk ({reason}): see the kernel's log (dmesg)"
    exit_code = 46


class InterpreterMissing(UnionfsError):
    """What programs/command.c says, which starts Python: there is none that it could start."""

    message = (
        "no {name} was found beside it, as {path}, nor in /usr/bin: "
        "install unionfs again with the Python that is to run it"
    )
    exit_code = 47


class UnmountFailed(UnionfsError):
    """The kernel or fusermount3 did not unmount."""

    message = "unmounting {path} failed: {reason}"
    exit_code = 48


# --- talking to a mount ---


class NotAMount(UnionfsError):
    """The path that a command was given does not belong to a mounted union."""

    message = "{path} is not on a mounted union: give a path below a unionfs mount point"
    exit_code = 50


class PathUnusable(UnionfsError):
    """A path that a command was given cannot be looked at."""

    message = "{path} cannot be used ({reason}): {advice}"
    exit_code = 51


class MountdUnusable(UnionfsError):
    """unionfs-mountd cannot be where unionfs-quickmount looks for it."""

    message = (
        "unionfs-mountd cannot listen at {path} ({reason}): end what listens there, or give both "
        "commands another place in a directory of this user's (UNIONFS_MOUNTD=PATH)"
    )
    exit_code = 52


# --- checking an upper ---


class InconsistenciesRemain(UnionfsError):
    """A check has found errors, and not repaired all of them."""

    message = "{path} has {count} error(s), named above: --repair repairs what is marked so"
    exit_code = 60


class InconsistenciesRepaired(UnionfsError):
    """A check has found errors and repaired all of them."""

    message = "{path} had {count} error(s), all repaired: it can be mounted"
    exit_code = 61
