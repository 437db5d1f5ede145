"""Branches without what is mounted inside them.

A clone of a branch's mount (open_tree(2)) is nobody else's, and without the mounts below it, the
union's own included: a daemon that met that one would wait for itself.  Kernel overlayfs does the
same with its layers (fs/overlayfs/super.c, clone_private_mount).  An ordinary user may not clone,
and nobody what a user namespace has locked mounts onto: then OSError is raised, the branch is used
as it is, and what is mounted inside it is EXDEV.
"""

import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from errno import ESTALE

from unionfs import _mount

#: What a directory is, under whichever path: st_dev and st_ino.
Identity = tuple[int, int]

_TIMES_OF_ACCESS = _mount.ATTR_ATIME | _mount.ATTR_NODIRATIME
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def read_only(fd: int) -> int:
    """A descriptor (O_PATH) of the same directory in a clone that nothing is written through.

    Read-only a branch keeps its symbolic links' times of access, for which readlink(2) has no
    O_NOATIME.
    """
    clone = _mount.clone(fd)
    with suppress(OSError):
        _mount.set_attributes(clone, _mount.ATTR_RDONLY, 0)
    return clone


def together(directories: Sequence[tuple[str, Identity]], flags: Collection[str]) -> list[int]:
    """Descriptors (O_RDONLY) of directories in one clone: rename(2) does not cross two.

    They are given by their paths, absolute and without links, and by what is expected there.
    Of `flags`, keys of KERNEL_FLAGS, those about times of access hold for what is read through
    the clone, where it may have others than the mount that it was made of: a user namespace
    cannot change those that it was given (mount_namespaces(7)).
    """
    above = os.path.commonpath([path for path, _ in directories])
    with ExitStack() as undo:
        fd = os.open(above, os.O_PATH | _DIRECTORY)
        undo.callback(os.close, fd)
        clone = _mount.clone(fd)
        # It lasts as long as a descriptor of something in it.
        undo.callback(os.close, clone)
        with suppress(OSError):
            _mount.set_attributes(clone, _times_of_access(flags), _TIMES_OF_ACCESS)
        with ExitStack() as keep:
            opened = []
            for path, identity in directories:
                fd = os.open(os.path.relpath(path, above), os.O_RDONLY | _DIRECTORY, dir_fd=clone)
                keep.callback(os.close, fd)
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) != identity:
                    # It is on another mount than what is above it.
                    raise OSError(ESTALE, os.strerror(ESTALE), path)
                opened.append(fd)
            keep.pop_all()
    return opened


def _times_of_access(flags: Collection[str]) -> int:
    """The attributes of a mount with these flags; without one it has relatime (mount(8))."""
    if "noatime" in flags:
        wanted = _mount.ATTR_NOATIME
    elif "strictatime" in flags:
        wanted = _mount.ATTR_STRICTATIME
    else:
        wanted = _mount.ATTR_RELATIME
    return wanted | (_mount.ATTR_NODIRATIME if "nodiratime" in flags else 0)
