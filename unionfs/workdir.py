"""The work directory: where files are built before a rename shows them.

It holds `work/`, the scratch space, whose content is of no use to a later mount, and what a
later mount needs (identities), which is never touched here.  A work directory given with
`workdir=` may have served kernel overlayfs, which keeps its scratch space under the same name
and clears it at mount too (fs/overlayfs/super.c, ovl_workdir_create).
"""

import os
import stat
from contextlib import ExitStack, suppress
from errno import (
    EDQUOT,
    EEXIST,
    ELOOP,
    ENODATA,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    ENOTEMPTY,
    ENOTSUP,
    EPERM,
)
from typing import Final

from unionfs.errors import FilesystemLacks, WorkdirUnusable
from unionfs.values import Whiteout
from unionfs.xattrs import OVERLAY_OPAQUE

#: Inside the upper.  The prefix `.wh.` is reserved: layer tools skip it.
DEFAULT_NAME: Final = ".wh..wh.work"
SCRATCH: Final = "work"
#: Copies of lower files that have several names (unionfs/_links.pyx); empty when none is left.
LINKS: Final = "links"
#: Origins that files cannot carry themselves (unionfs/_identity.pyx); empty when none is left.
ORIGINS: Final = "origins"

#: What the records of modes begin with, in the scratch space (unionfs/_closed.pyx).
_MODE: Final = "mode-"

_OPEN_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_EXCHANGE, _RENAME_WHITEOUT = 2, 4  # <linux/fs.h>

#: Nothing can be made now.  What is there can be removed, which is what a mount is then wanted for.
FULL: Final = (ENOSPC, EDQUOT)


def make(parent: int, name: str, path: str) -> int:
    """Open directory `name` in `parent`, made if it is missing; returns a descriptor.

    A link in its place is not followed.  Raises `WorkdirUnusable`, which names `path`.
    """
    try:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    except OSError as error:
        advice = "; make room there first" if error.errno in FULL else ""
        raise WorkdirUnusable(path=path, reason=f"{error.strerror}{advice}") from None


def check(state: int, path: str) -> None:
    """Whether what a later mount needs can be in the work directory: it is not made before that.

    Raises `WorkdirUnusable`.
    """
    for name in (LINKS, ORIGINS):
        with suppress(FileNotFoundError):
            if not _is_directory(state, name):
                raise WorkdirUnusable(
                    path=f"{path}/{name}", reason="it is not a directory; move it away"
                )


def clear(scratch: int, path: str) -> None:
    """Remove everything in the scratch space.

    Links are not followed and mounts not entered.  Directories found on the way are first
    moved up into the scratch space itself: however deep a tree is, three descriptors do.
    Raises `WorkdirUnusable` for what cannot be removed.
    """
    moved = 0
    try:
        while names := os.listdir(scratch):
            for name in names:
                if not _is_directory(scratch, name):
                    os.unlink(name, dir_fd=scratch)
                elif not _rmdir_empty(scratch, name):
                    moved = _empty(scratch, name, moved)
                    os.rmdir(name, dir_fd=scratch)
    except OSError as error:
        raise WorkdirUnusable(
            path=path, reason=f"{error.filename or 'its content'}: {error.strerror}"
        ) from None


def restore(upper: int, scratch: int) -> None:
    """Give directories of the upper the modes back that a dead daemon had not given back yet.

    The records are those of unionfs/_closed.pyx.  One that does not fit what is there, a
    directory of the same owner that its owner has been let into, says nothing.
    """
    found = []
    for name in os.listdir(scratch):
        if name.startswith(_MODE):
            owner = os.stat(name, dir_fd=scratch, follow_symlinks=False).st_uid
            with suppress(OSError, ValueError):  # not a link, or not one of ours
                octal, number, path = os.readlink(name, dir_fd=scratch).split(" ", 2)
                found.append((path, int(octal, 8), int(number), owner))
    # The deepest first: above them may be directories that cannot be searched afterwards.
    for path, mode, inode, owner in sorted(found, key=lambda one: -one[0].count("/")):
        with suppress(FileNotFoundError, NotADirectoryError), ExitStack() as opened:
            directory = upper
            for name in filter(None, path.split("/")):
                directory = os.open(name, _OPEN_PATH, dir_fd=directory)
                opened.callback(os.close, directory)
            there = os.stat(directory)
            as_noted = (inode, owner, mode | 0o700)
            if (there.st_ino, there.st_uid, stat.S_IMODE(there.st_mode)) == as_noted:
                os.chmod(f"/proc/self/fd/{directory}", mode)


def remove(upper: int, name: str) -> None:
    """Remove work directory `name` from the upper if it holds no more than empty scratch space."""
    try:
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=upper)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR, ELOOP):  # gone, or something else in its place
            return
        raise
    try:
        os.rmdir(SCRATCH, dir_fd=fd)
        for kept in (LINKS, ORIGINS):
            with suppress(FileNotFoundError):
                os.rmdir(kept, dir_fd=fd)
        os.rmdir(name, dir_fd=upper)
    except OSError as error:
        # ENOTDIR: what is in a directory's place is not ours to remove.
        if error.errno not in (ENOTEMPTY, EEXIST, ENOENT, ENOTDIR):
            raise
    finally:
        os.close(fd)


def probe(scratch: int, upper: str, whiteout: Whiteout) -> bool:
    """Try what the whiteout format needs; returns whether trusted.* attributes may be written.

    The scratch space is empty, and is so again; to make and remove a directory in it for this
    takes ext4 longer than all the rest.  On a full disk nothing can be tried: then what the
    process may do counts.  Raises `FilesystemLacks`, which names the branch `upper`.
    """
    try:
        return _probe(scratch, upper, whiteout)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return may_be_trusted()
    finally:
        for name in os.listdir(scratch):
            os.unlink(name, dir_fd=scratch)


def _probe(scratch: int, upper: str, whiteout: Whiteout) -> bool:
    fd = _make_file(scratch, upper, whiteout)
    try:
        trusted = _can_set(fd, OVERLAY_OPAQUE[0])
        if whiteout == "overlay" and not trusted and not _can_set(fd, OVERLAY_OPAQUE[1]):
            raise FilesystemLacks(
                path=upper,
                feature="extended attributes, which mark opaque directories",
                advice="use whiteout=aufs or another filesystem",
            )
    finally:
        os.close(fd)
    if whiteout == "overlay":
        _probe_devices(scratch, upper)
    return trusted


def may_be_trusted() -> bool:
    """Whether this process may write trusted.* attributes at all, tried on memory of its own."""
    fd = os.memfd_create("unionfs-probe", os.MFD_CLOEXEC)
    try:
        os.setxattr(fd, OVERLAY_OPAQUE[0], b"y")
    except OSError as error:
        return error.errno != EPERM  # ENOTSUP: allowed, but this kernel's tmpfs has none
    else:
        return True
    finally:
        os.close(fd)


def _can_set(fd: int, attribute: str) -> bool:
    try:
        os.setxattr(fd, attribute, b"y")
        return os.getxattr(fd, attribute) == b"y"
    except OSError as error:
        if error.errno in (EPERM, ENOTSUP, ENODATA):
            return False
        raise


def _make_file(scratch: int, upper: str, whiteout: Whiteout) -> int:
    """A file of any name, or with the name of a whiteout where whiteouts have names."""
    name = ".wh.probe" if whiteout == "aufs" else "file"
    try:
        return os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=scratch)
    except PermissionError:
        if whiteout != "aufs":
            raise
        # A union as the upper's filesystem may keep such names to itself.
        raise FilesystemLacks(
            path=upper,
            feature="names that begin with .wh.",
            advice="mount the union it is on with whiteout=overlay, or use another filesystem",
        ) from None


def _probe_devices(fd: int, upper: str) -> None:
    """Whiteouts of kernel overlayfs are character devices 0/0, put in place by one rename.

    Here it is the place of `file`, which `_make_file` has made.
    """
    import ctypes  # only this format needs the one call that the module os does not have

    try:
        os.mknod("whiteout", stat.S_IFCHR | 0o600, 0, dir_fd=fd)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise FilesystemLacks(
            path=upper,
            feature=f"whiteout devices (mknod c 0 0: {error.strerror})",
            advice="use whiteout=aufs or another filesystem",
        ) from None
    libc = ctypes.CDLL(None, use_errno=True)
    for old, new, flag, name in (
        (b"whiteout", b"file", _RENAME_EXCHANGE, "RENAME_EXCHANGE"),
        (b"whiteout", b"moved", _RENAME_WHITEOUT, "RENAME_WHITEOUT"),
    ):
        if libc.renameat2(fd, old, fd, new, flag) != 0:
            number = ctypes.get_errno()
            if number in FULL:
                raise OSError(number, os.strerror(number))
            raise FilesystemLacks(
                path=upper,
                feature=f"{name} ({os.strerror(number)})",
                advice="use whiteout=aufs or another filesystem",
            )


def _is_directory(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _rmdir_empty(parent: int, name: str) -> bool:
    """Remove a directory; False if it is not empty.  EBUSY, for a mount, comes before that."""
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno not in (ENOTEMPTY, EEXIST):
            raise
        return False
    return True


def _empty(scratch: int, name: str, moved: int) -> int:
    """Unlink what is in a directory, or move it up; returns the next number for a moved one."""
    _permit(scratch, name)
    fd = os.open(name, _OPEN_DIRECTORY, dir_fd=scratch)
    try:
        for child in os.listdir(fd):
            if _is_directory(fd, child):
                moved = _move_up(fd, child, scratch, moved)
            else:
                os.unlink(child, dir_fd=fd)
    finally:
        os.close(fd)
    return moved


def _permit(parent: int, name: str) -> None:
    """Let a directory be emptied and moved: it may have been left with any mode."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _move_up(fd: int, child: str, scratch: int, moved: int) -> int:
    """Rename `child` into the scratch space under a name not taken; returns the next number."""
    permitted = False
    while True:
        try:
            os.rename(child, f"moved-{moved}", src_dir_fd=fd, dst_dir_fd=scratch)
            return moved + 1
        except PermissionError:
            if permitted:
                raise
            _permit(fd, child)  # moving a directory changes its `..`
            permitted = True
        except OSError as error:
            # An empty directory of that name would be replaced, which does no harm here.
            if error.errno not in (ENOTEMPTY, EEXIST, ENOTDIR):
                raise
            moved += 1
