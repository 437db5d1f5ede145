"""The kernel's side of a mount: opening the channel, attaching it to a directory, detaching it.

Root, also of a user namespace, calls mount(2); everybody else asks fusermount3, which is
set-user-ID root, opens the device itself and hands the descriptor over (libfuse's
`fuse_mount_fusermount`, in its lib/mount.c).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from errno import EBUSY, EINVAL, ENODEV, ENOENT, ENXIO
from typing import TYPE_CHECKING

from unionfs import _mount
from unionfs.errors import DeviceMissing, DeviceRefused, FusermountMissing, MountFailed
from unionfs.options import KERNEL_FLAGS, MountOptions

if TYPE_CHECKING:
    import subprocess  # costs 1 MB of private memory, and root has no use for it

DEVICE = "/dev/fuse"
#: What is behind the dot is the program that mount(8) and umount(8) look for: our own, and not the
#: "unionfs" of Debian's unionfs-fuse.
KIND = "fuse.unionfs-mount"

# <linux/mount.h>: mount(2) with one of these flags changes how mounts travel, nothing else.
_PROPAGATION = {
    "unbindable": 1 << 17,
    "private": 1 << 18,
    "slave": 1 << 19,
    "shared": 1 << 20,
}
_RECURSIVE = 1 << 14

# <linux/magic.h>: overlayfs, eCryptfs, and FUSE, which may be.
_STACKED = (0x794C7630, 0xF15F, 0x65735546)

# One reply must go into one pipe, of which everybody may have 1 MiB (_splice.pyx).  Half of that
# costs a request more for each MiB, a fiftieth of what it saves.
_MAX_READ = 512 * 1024


def attach(options: MountOptions, mountpoint: str) -> int:
    """Mount at a directory, absolute and without links; returns the channel's descriptor.

    Raises `DeviceMissing`, `DeviceRefused`, `FusermountMissing` or `MountFailed`.
    """
    if os.geteuid() == 0:
        return _attach_by_mount(options, mountpoint)
    return _attach_by_fusermount(options, mountpoint)


def may_pass_through(branches: Sequence[int]) -> bool:
    """Whether the kernel would read and write files of all these branches by itself.

    It does so for root outside of user namespaces, and not on what is stacked on another
    filesystem (fuse_backing_open() in fs/fuse/backing.c).  Whether it can at all it says later.
    """
    with open("/proc/self/uid_map", "rb") as ids:
        everybody = ids.read().split() == [b"0", b"0", b"4294967295"]
    return (
        everybody
        and os.geteuid() == 0
        and not any(_mount.filesystem(fd) in _STACKED for fd in branches)
    )


def detach(mountpoint: str) -> None:
    """Unmount: at once, or where the file system is in use, out of sight at once.

    What was written through it has then reached the channel, and what is open on it goes on
    working as long as that is served.  A directory where nothing is mounted (any more) is left
    alone.  Raises OSError for anything else.
    """
    if os.geteuid() != 0:
        with suppress(OSError):
            _flush(mountpoint)
        with _fusermount(["-u", "-z", "--", mountpoint], {}, []) as helper:
            helper.communicate()
        return
    try:
        _mount.umount(mountpoint, _mount.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno == EBUSY:
            with suppress(OSError):  # somebody else has just unmounted it
                _flush(mountpoint)
                _mount.umount(mountpoint, _mount.UMOUNT_NOFOLLOW | _mount.MNT_DETACH)
        elif error.errno not in (EINVAL, ENOENT):
            raise


def unmount(mountpoint: str, *, lazily: bool, forced: bool) -> None:
    """umount2(2), or fusermount3 for an ordinary user.  Raises OSError."""
    if os.geteuid() == 0:
        flags = _mount.UMOUNT_NOFOLLOW
        flags |= _mount.MNT_DETACH if lazily else 0
        flags |= _mount.MNT_FORCE if forced else 0
        _mount.umount(mountpoint, flags)
        return
    words = ["-u", *(["-z"] if lazily or forced else []), "--", mountpoint]
    with _fusermount(words, {}, []) as helper:
        _, complaint = helper.communicate()
    if helper.returncode != 0:
        raise OSError(EBUSY, complaint.strip().removeprefix("fusermount3: "), mountpoint)


def _flush(mountpoint: str) -> None:
    """Have the kernel send what it holds back: unmounting does that too, but not lazily."""
    fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _mount.syncfs(fd)
    finally:
        os.close(fd)


def _attach_by_mount(options: MountOptions, mountpoint: str) -> int:
    fd = _open_device()
    words = [
        f"fd={fd}",
        "rootmode=40000",
        f"user_id={os.geteuid()}",
        f"group_id={os.getegid()}",
        "default_permissions",
        f"max_read={_MAX_READ}",
    ]
    if options.allow_other is not False:
        words.append("allow_other")
    words += [f'{name}="{value}"' for name, value in options.labels]
    flags = 0
    for name in options.flags:
        flags |= KERNEL_FLAGS[name]
    try:
        _mount.mount(options.fsname, mountpoint, KIND, flags, ",".join(words))
    except OSError as error:
        os.close(fd)
        reason = str(error.strerror)
        if error.errno == EINVAL and options.labels:
            # What mount(2) says of labels where no security module reads them.
            names = "=, ".join(name for name, _ in options.labels)
            reason += f"; the kernel may have no security module that knows {names}="
        raise MountFailed(path=mountpoint, reason=reason) from None
    try:
        if options.propagation is not None:
            _mount.mount("none", mountpoint, "none", _propagation(options.propagation), "")
    except OSError as error:
        os.close(fd)
        detach(mountpoint)
        raise MountFailed(
            path=mountpoint, reason=f"option {options.propagation}: {error.strerror}"
        ) from None
    return fd


def _propagation(name: str) -> int:
    if name in _PROPAGATION:
        return _PROPAGATION[name]
    return _PROPAGATION[name.removeprefix("r")] | _RECURSIVE


def _attach_by_fusermount(options: MountOptions, mountpoint: str) -> int:
    import socket

    if options.propagation is not None:
        raise MountFailed(path=mountpoint, reason=f"only root may use {options.propagation}")
    # fusermount3 opens the device with this user's rights too, but says less clearly what it is.
    os.close(_open_device())
    words = [
        "default_permissions",
        f"max_read={_MAX_READ}",
        f"fsname={_escape(options.fsname)}",
        f"subtype={KIND.partition('.')[2]}",
        *options.flags,
        *(f"{name}={_escape(value)}" for name, value in options.labels),
    ]
    if options.allow_other:
        words.append("allow_other")
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        _fusermount(
            ["-o", ",".join(words), "--", mountpoint],
            {"_FUSE_COMMFD": str(theirs.fileno())},
            [theirs.fileno()],
        ) as helper,
    ):
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        _, complaint = helper.communicate()
    if not fds:
        reason = complaint.strip() or f"fusermount3 ended with status {helper.returncode}"
        raise MountFailed(path=mountpoint, reason=reason.removeprefix("fusermount3: "))
    os.set_inheritable(fds[0], False)
    return fds[0]


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (ENOENT, ENODEV, ENXIO):
            raise DeviceMissing(path=DEVICE) from None
        raise DeviceRefused(path=DEVICE, reason=error.strerror) from None


def _fusermount(
    words: Sequence[str], environment: dict[str, str], fds: Sequence[int]
) -> subprocess.Popen[str]:
    import subprocess

    try:
        return subprocess.Popen(
            ["fusermount3", *words],
            env=os.environ | environment,
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        )
    except FileNotFoundError:
        raise FusermountMissing from None


def _escape(value: str) -> str:
    """As fusermount3 reads it back: a backslash protects a comma and a backslash."""
    return value.replace("\\", "\\\\").replace(",", "\\,")
