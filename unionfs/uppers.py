"""The lock that gives an upper to one mount at a time.

It is flock(2) on the upper directory itself, so a daemon that is killed leaves none behind, and on
the work directory that was asked for, which two uppers might share.  Who holds it is a note in
the work directory's scratch space.
"""

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from unionfs import _mount, workdir
from unionfs.branches import Branch, BranchStack
from unionfs.errors import NotWrittenOut, UpperBusy, shortened
from unionfs.options import MountOptions

#: How long a mount waits for a predecessor that is still ending.  In seconds.
PATIENCE: Final = 10.0
_PAUSE = 0.05
#: A predecessor that takes longer to write out is worth a word.  In seconds.
_USUAL: Final = 1.0
_NOTE = "mounted-by"


class UpperLock:
    """Holds the upper of a stack.  Raises `UpperBusy` after `PATIENCE`.

    `notice` is called once if that takes a while: at once if the upper is mounted, else when
    what a predecessor writes out takes longer than usual.
    """

    def __init__(
        self, stack: BranchStack, options: MountOptions, notice: Callable[[str], None]
    ) -> None:
        assert stack.upper is not None
        self._stack = stack
        self._note_path = _note_path(stack.upper.path, options)
        self._fds = [os.dup(stack.upper.fd)]
        try:
            if options.workdir is not None:
                with suppress(OSError):  # what is wrong with it is said by who opens it for use
                    self._fds.append(os.open(options.workdir, os.O_RDONLY | os.O_DIRECTORY))
            self._take(stack.upper.path, notice)
        except BaseException:
            self._close()
            raise

    def sign(self) -> None:
        """Leave the note that names us; to be called when the work directory is there.

        It goes when the scratch space is cleared, which every mount does first.  On a full disk
        there is none.
        """
        text = f"{os.getpid()} {self._stack.mountpoint}"
        try:
            fd = os.open(_NOTE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=self._work_fd)
            with open(fd, "wb") as file:
                file.write(os.fsencode(text))
        except OSError as error:
            if error.errno not in workdir.FULL:
                raise

    def release(self) -> None:
        """Let the next one in."""
        for fd in self._fds:
            # Explicitly: a child forked by the process that mounted may share the descriptor.
            fcntl.flock(fd, fcntl.LOCK_UN)
        self._close()

    @property
    def _work_fd(self) -> int:
        assert self._stack.work_fd is not None
        return self._stack.work_fd

    def _take(self, upper: str, notice: Callable[[str], None]) -> None:
        begin = time.monotonic()
        looks = [0.0, _USUAL]  # finding out who holds it reads much of /proc
        for fd in self._fds:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waited = time.monotonic() - begin
                if waited >= PATIENCE:
                    pid, state = self._holder()
                    raise UpperBusy(path=upper, pid=pid, state=state) from None
                if looks and waited >= looks[0]:
                    usual = looks.pop(0) < _USUAL
                    pid, state = self._holder()
                    if not usual or state.startswith("mounted"):
                        busy = UpperBusy(path=upper, pid=pid, state=state)
                        notice(f"waiting {PATIENCE:g} s: {busy}")
                        looks = []
                time.sleep(_PAUSE)

    def _holder(self) -> tuple[str, str]:
        """Who holds the upper, and what is to be done about it."""
        try:
            with open(self._note_path, "rb") as file:
                pid, _, mountpoint = os.fsdecode(file.read()).partition(" ")
            number = int(pid)
        except (OSError, ValueError):
            return "(unknown)", "which has not told where it is mounted: find it (lsof, fuser -v)"
        from unionfs import daemons, mounttable  # whose module re costs a mount 2 ms

        mountpoint = shortened(mountpoint)
        found = daemons.daemon_of(number)
        if found is None:
            return pid, f"mounted at {mountpoint}: unmount that first"
        if found.here:
            return (
                pid,
                f"mounted at {shortened(found.mountpoint or mountpoint)}: unmount that first",
            )
        if found.mountpoint is not None:
            return pid, (
                f"mounted at {mountpoint} in another mount namespace: "
                f"unmount it there, or end the process (kill {pid})"
            )
        if (copy := mounttable.elsewhere(found.device)) is not None:
            return pid, (
                f"mounted at {mountpoint} in the mount namespace of process {copy} alone: "
                f"end that one, or unmount it there (nsenter -t {copy} -m umount {mountpoint})"
            )
        return pid, f"unmounted from {mountpoint}, which still writes out: wait for its end"

    def _close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []


def write_out(upper: Branch) -> None:
    """Have everything in an upper on the disk.  Raises `NotWrittenOut`.

    xfs can answer syncfs without emptying the disk's own cache when files were only overwritten;
    fdatasync of any regular file there does that.
    """
    try:
        _mount.syncfs(upper.fd)
        try:
            fd = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o600, dir_fd=upper.fd)
        except OSError:
            return  # a filesystem without O_TMPFILE is not xfs
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise NotWrittenOut(path=upper.path, reason=error.strerror) from None


def _note_path(upper: str, options: MountOptions) -> str:
    directory = options.workdir or f"{upper}/{workdir.DEFAULT_NAME}"
    return f"{directory}/{workdir.SCRATCH}/{_NOTE}"
