"""System calls that the module os does not have: those of mounting, and a few.

Each that may wait releases the GIL: unmounting waits for answers of the very mount that goes.
Each raises OSError.
"""

from typing import Final

#: Attributes of a mount; ATTR_ATIME is the field that the next three are values of.
ATTR_RDONLY: Final = 0x1
ATTR_ATIME: Final = 0x70
ATTR_RELATIME: Final = 0x0
ATTR_NOATIME: Final = 0x10
ATTR_STRICTATIME: Final = 0x20
ATTR_NODIRATIME: Final = 0x80
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """mount(2)."""

def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""

def syncfs(fd: int) -> None:
    """syncfs(2)."""

def filesystem(fd: int) -> int:
    """fstatfs(2): the magic number of the filesystem's type."""

def clone(fd: int) -> int:
    """open_tree(2): a private copy of the mount a directory is on, from that directory down.

    It is without what is mounted below.  Returns a descriptor (O_PATH) of the directory in it.
    """

def set_attributes(fd: int, wanted: int, cleared: int) -> None:
    """mount_setattr(2) on what `clone` returned; both are sums of ATTR_*."""

def setns(fd: int, kind: int) -> None:
    """setns(2): enter the namespace of a descriptor; `kind` is one of CLONE_NEW*."""

def madvise(start: int, length: int, advice: int) -> None:
    """madvise(2), by address."""

def reset_io_priority() -> None:
    """ioprio_set(2): back to the priority for disks that every thread begins with."""
