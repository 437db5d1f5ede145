"""The stack of branches as Python sees it: opened, checked and ready to be handed to `_tree`.

Everything is done with descriptors, so that the kernel resolves each path exactly once, before
the process goes to the background.  Nothing here looks a name up in the union.
"""

import os
from collections.abc import Iterator
from errno import EMFILE, ENFILE, ENOENT, ENOTDIR
from types import TracebackType
from typing import NamedTuple, Self

from unionfs import clones, workdir
from unionfs.clones import Identity
from unionfs.errors import (
    BranchMissing,
    BranchTwice,
    BranchUnreadable,
    LowerInsideUpper,
    MountpointBad,
    MountpointInsideBranch,
    MountpointNotEmpty,
    NotADirectory,
    ProcMissing,
    TooManyBranches,
    UpperInsideLower,
    UpperReadOnly,
    WorkdirElsewhere,
    WorkdirUnusable,
    explained,
)
from unionfs.options import MountOptions
from unionfs.values import Whiteout


class Branch(NamedTuple):
    """One opened branch."""

    path: str  #: absolute and without links, as the kernel names it
    fd: int
    identity: Identity


class BranchStack:
    """All branches of one mount, and the mount point.

    `open` changes nothing on disk.  The work directory is touched by `open_workdir`, which is
    to be called when nobody else uses the upper any more: clearing what a predecessor left
    would otherwise clear what it is working on.

    Use it as a context manager; closing it twice does no harm.
    """

    def __init__(self, options: MountOptions) -> None:
        self._options = options
        self._known: dict[str, Identity] = {}
        self.mountpoint = ""  #: absolute and without links
        self.covers_union = False  #: the mount point is one of a union already
        self.upper: Branch | None = None
        #: The upper without what is mounted inside it, where `open_workdir` could have that.
        self.upper_fd: int | None = None
        self.lowers: list[Branch] = []  #: topmost first
        self.whiteout: Whiteout = options.whiteout
        #: Whether trusted.* extended attributes may be written here.
        self.trusted = False
        self.workdir: str | None = None  #: the work directory's path
        self.work_fd: int | None = None  #: its scratch space, where files are built
        self.work_path: bytes | None = None  #: where the scratch space is
        self.state_fd: int | None = None  #: the directory itself: what a later mount needs

    @classmethod
    def open(cls, options: MountOptions) -> Self:
        """Open every branch and check that the stack can be what `options` ask for.

        A read-only mount takes the upper as its topmost lower.  Raises the errors of
        errors.py from `BranchMissing` to `WorkdirUnusable`, and those of the mount point.
        """
        stack = cls(options)
        try:
            stack._open_branches()
            stack._check_overlaps()
            stack._check_mountpoint()
            if stack.upper is not None and options.workdir is not None:
                # Before both are locked: an upper that is both would wait for itself.
                os.close(stack._open_asked_workdir(options.workdir, stack.upper).fd)
        except BaseException:
            stack.close()
            raise
        return stack

    @property
    def lower_fds(self) -> list[int]:
        return [branch.fd for branch in self.lowers]

    @property
    def branches(self) -> list[Branch]:
        """Topmost first: the upper, if there is one, and the lowers."""
        return self.lowers if self.upper is None else [self.upper, *self.lowers]

    @property
    def idmapped(self) -> bool:
        """Whether the mount of a branch shows other owners than its filesystem has."""
        with open("/proc/self/mountinfo", "rb") as file:
            mounts = file.read()
        if b"idmapped" not in mounts:
            return False
        fields = (line.split(b" ") for line in mounts.splitlines())
        found = {int(words[0]) for words in fields if b"idmapped" in words[5].split(b",")}
        return any(_mount_id(branch.fd) in found for branch in self.branches)

    def open_workdir(self) -> None:
        """Make, clear and try out the work directory of a writable stack; sets `work_fd`.

        Call it with the upper locked.  Raises `WorkdirUnusable`, `WorkdirElsewhere` or
        `FilesystemLacks`.
        """
        if self.upper is None:
            self.trusted = workdir.may_be_trusted()
            return
        asked = self._options.workdir
        if asked is None:
            self.upper_fd = self._without_submounts(self.upper)[0]
            self.workdir = f"{self.upper.path}/{workdir.DEFAULT_NAME}"
            self.state_fd = workdir.make(self.upper_fd, workdir.DEFAULT_NAME, self.workdir)
        else:
            work = self._open_asked_workdir(asked, self.upper)
            self.workdir = work.path
            try:
                self.upper_fd, self.state_fd = self._without_submounts(self.upper, work)
            finally:
                os.close(work.fd)
        workdir.check(self.state_fd, self.workdir)
        scratch = f"{self.workdir}/{workdir.SCRATCH}"
        self.work_path = os.fsencode(scratch)
        self.work_fd = workdir.make(self.state_fd, workdir.SCRATCH, scratch)
        workdir.restore(self.upper_fd, self.work_fd)
        workdir.clear(self.work_fd, self.workdir)
        self.trusted = workdir.probe(self.work_fd, self.upper.path, self.whiteout)

    def remove_workdir(self) -> None:
        """Take the default work directory away again, if nothing in it is needed.

        Call it with the upper still locked.  Where `workdir=` was asked for it stays.
        """
        if self.upper is not None and self._options.workdir is None:
            workdir.remove(self.upper.fd, workdir.DEFAULT_NAME)

    def close_lowers(self) -> None:
        """Close the lowers: their filesystems can be unmounted, as far as it is up to us."""
        for branch in self.lowers:
            os.close(branch.fd)
        self.lowers = []

    def close_all_but_upper(self) -> None:
        """Close every descriptor but the upper's, which can be written out by it."""
        self.close_lowers()
        for fd in (self.upper_fd, self.work_fd, self.state_fd):
            if fd is not None:
                os.close(fd)
        self.upper_fd = self.work_fd = self.state_fd = None

    def close(self) -> None:
        """Close every descriptor."""
        self.close_all_but_upper()
        if self.upper is not None:
            os.close(self.upper.fd)
        self.upper = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_branches(self) -> None:
        options = self._options
        if options.upper is not None:
            upper = _open_branch(options.upper)
            if options.read_only:
                self.lowers.append(upper)
            else:
                self.upper = upper
                _check_writable(upper)
        for path in options.lowers:
            self.lowers.append(_open_branch(path))

    def _check_overlaps(self) -> None:
        seen: dict[Identity, Branch] = {}
        for branch in self.branches:
            if branch.identity in seen:
                raise BranchTwice(path=branch.path, other=seen[branch.identity].path)
            seen[branch.identity] = branch
            self._known[branch.path] = branch.identity
        if self.upper is None:
            return
        for identity in self._ancestors(self.upper.path):
            if identity in seen:
                raise UpperInsideLower(path=self.upper.path, other=seen[identity].path)
        for lower in self.lowers:
            if self.upper.identity in self._ancestors(lower.path):
                raise LowerInsideUpper(path=lower.path, other=self.upper.path)

    def _check_mountpoint(self) -> None:
        path = self._options.mountpoint
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == ENOTDIR:
                raise NotADirectory(path=path) from None
            raise _mountpoint_bad(path, error) from None
        try:
            mountpoint = Branch(_path(fd), fd, _identity(fd))
            os.statvfs(path)  # ENOTCONN: a mount whose daemon died is still there
        except OSError as error:
            raise _mountpoint_bad(path, error) from None
        finally:
            os.close(fd)
        self.mountpoint = mountpoint.path
        around = {mountpoint.identity, *self._ancestors(mountpoint.path)}
        for branch in self.branches:
            if branch.identity in around:
                raise MountpointInsideBranch(path=mountpoint.path, other=branch.path)
        if self._options.only_empty and _holds_files(mountpoint.path):
            raise MountpointNotEmpty(path=mountpoint.path)
        above = next(self._ancestors(mountpoint.path), mountpoint.identity)
        if mountpoint.identity[0] != above[0]:  # something is mounted there
            from unionfs import daemons

            self.covers_union = daemons.union_on(mountpoint.identity[0]) is not None

    def _open_asked_workdir(self, asked: str, upper: Branch) -> Branch:
        try:
            fd = os.open(asked, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == ENOTDIR:
                raise NotADirectory(path=asked) from None
            raise WorkdirUnusable(path=asked, reason=error.strerror) from None
        try:
            work = Branch(_path(fd), fd, _identity(fd))
            if _mount_id(fd) != _mount_id(upper.fd) or work.identity[0] != upper.identity[0]:
                raise WorkdirElsewhere(path=work.path, upper=upper.path)
            around = {work.identity, *self._ancestors(work.path)}
            for branch in self.branches:
                if branch.identity in around or work.identity in self._ancestors(branch.path):
                    raise WorkdirUnusable(
                        path=work.path,
                        reason=f"it overlaps branch {branch.path}",
                    )
        except BaseException:
            os.close(fd)
            raise
        return work

    def _without_submounts(self, *branches: Branch) -> list[int]:
        """New descriptors of the upper and the work directory, in one clone where it can be had."""
        directories = [(branch.path, branch.identity) for branch in branches]
        try:
            return clones.together(directories, self._options.flags)
        except OSError:
            return [os.dup(branch.fd) for branch in branches]

    def _ancestors(self, path: str) -> Iterator[Identity]:
        """The directories above `path`, nearest first.

        Compared by identity and not by name: a branch may be reached through a bind mount.
        """
        while path != "/":
            path = os.path.dirname(path)
            identity = self._known.get(path)
            if identity is None:
                try:
                    status = os.stat(path)
                except OSError as error:
                    raise BranchUnreadable(path=path, **explained(error)) from None
                identity = self._known[path] = (status.st_dev, status.st_ino)
            yield identity


def _open_branch(path: str) -> Branch:
    """Open one branch.

    Opened for reading, not O_PATH: the kernel then checks that it may be listed, and the
    descriptor can be locked and synced.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == ENOENT:
            raise BranchMissing(path=path) from None
        if error.errno == ENOTDIR:
            raise NotADirectory(path=path) from None
        if error.errno in (EMFILE, ENFILE):
            raise TooManyBranches(path=path) from None
        raise BranchUnreadable(path=path, **explained(error)) from None
    try:
        if not os.access(".", os.X_OK, dir_fd=fd, effective_ids=True):
            raise BranchUnreadable(
                path=path, reason="it may not be searched", advice="change its permissions"
            )
        return Branch(_path(fd), fd, _identity(fd))
    except OSError as error:
        os.close(fd)
        raise BranchUnreadable(path=path, **explained(error)) from None
    except BaseException:
        os.close(fd)
        raise


def _check_writable(upper: Branch) -> None:
    if os.fstatvfs(upper.fd).f_flag & os.ST_RDONLY:
        from unionfs import daemons

        union = daemons.union_on(upper.identity[0])
        if union is None:
            what, advice = "a filesystem", "remount it read-write"
        else:
            what, advice = f"the union {union}", "mount that one with an upper and without ro"
        raise UpperReadOnly(path=upper.path, what=what, advice=advice)
    if not os.access(".", os.W_OK, dir_fd=upper.fd, effective_ids=True):
        raise BranchUnreadable(
            path=upper.path, reason="it may not be written", advice="change its permissions"
        )


def _mountpoint_bad(path: str, error: OSError) -> MountpointBad:
    return MountpointBad(
        path=path, **explained(error, ENOENT="create the directory or choose another")
    )


def _holds_files(directory: str) -> bool:
    """Whether a directory has an entry; one that may not be listed may have some."""
    try:
        with os.scandir(directory) as listing:
            return next(listing, None) is not None
    except OSError:
        return True


def _identity(fd: int) -> Identity:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _path(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        raise ProcMissing from None


def _mount_id(fd: int) -> int:
    """Which mount the descriptor was opened through: renaming across two mounts is EXDEV."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        for line in info:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    raise ProcMissing
