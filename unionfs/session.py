"""The life of a mount: branches, lock, tree, planes, readiness, and the way back.

`Session` is a mount served by this process, `serve` what the command does with one, `mount` and
`Mount` the same for Python programs.  Either way one process serves one mount.
"""

from __future__ import annotations

import os
import resource
import select
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from unionfs import (
    clones,
    daemon,
    kernel,
    log,
    namespaces,
    overrides,
    pressure,
    surroundings,
    workdir,
)
from unionfs._fastpath import FastPath
from unionfs._tree import Tree
from unionfs.branches import BranchStack
from unionfs.copyup import INLINE_LIMIT
from unionfs.errors import StartFailed, UnionfsError, shortened
from unionfs.options import MountOptions, checked
from unionfs.relay import Relay
from unionfs.uppers import UpperLock, write_out

if TYPE_CHECKING:
    from unionfs.cli.where import Where

_CAP_DAC_OVERRIDE = 1
# What the kernel reads ahead of a sequential reader. Its default, 128 KiB, is an eighth of what
# one request may ask for. In KiB.
_READ_AHEAD = 1024
# How long a mount is too young to keep much that it could give back, in milliseconds. The kernel
# waits for all its readers (synchronize_rcu() in psi_trigger_destroy()), 25 ms or so, before a
# process that has asked to hear of pressure may end: a short mount had better not ask.
_YOUNG = 1000
# Losing the daemon takes everything away that uses the mount: it should not be the first to go.
_OOM_SCORE_ADJ = -900
# A descriptor kept open pins an inode of the branch in memory: a kilobyte each.
_MOST_DESCRIPTORS = 3584
# Those and the others: branches, files without a name, queues.
_DESCRIPTOR_TABLE = 4096


class Session:
    """A mount served by this process.  Takes over `stack`, which `close` closes.

    `notice` is called with what the caller should know while it waits for `start`.
    """

    def __init__(
        self,
        options: MountOptions,
        stack: BranchStack,
        notice: Callable[[str], None] = log.info,
    ) -> None:
        self.mountpoint = stack.mountpoint
        self._options = options
        self._stack = stack
        self._notice = notice
        self.relay: Relay | None = None  #: the slow path
        self._late = ExitStack()  # what is closed when all else is
        self._undo = ExitStack()
        self._undo.callback(stack.close)
        self._tree: Tree | None = None
        self._fastpath: FastPath | None = None
        self._device: int | None = None

    def start(self) -> None:
        """Mount and serve; returns when the mount answers.

        Raises the errors of errors.py; what had been done is then undone.
        """
        try:
            self._start()
        except BaseException as failure:
            try:
                self.close()
            except (OSError, UnionfsError) as another:  # what failed first is what is told
                log.error(f"undoing a mount that failed: {another}")
            if isinstance(failure, OSError):
                place = f"{failure.filename}: " if failure.filename else ""
                raise StartFailed(
                    path=self.mountpoint, reason=f"{place}{failure.strerror}"
                ) from None
            raise

    def _start(self) -> None:
        options, stack, undo = self._options, self._stack, self._undo
        if stack.upper is not None:
            lock = UpperLock(stack, options, self._notice)
            if not options.volatile:
                # Last: the next mount of this upper need not wait for the disk.
                undo.callback(write_out, stack.upper)
            # umount(2) does not wait for us, and the disk may take its time: meanwhile only the
            # upper's filesystem is busy, and answers EBUSY, before it is written out, on purpose.
            undo.callback(stack.close_all_but_upper)
            undo.callback(lock.release)
            undo.callback(_unseen, stack.upper.fd, stack.remove_workdir)
            _unseen(stack.upper.fd, stack.open_workdir)
            assert stack.work_fd is not None
            assert stack.workdir is not None
            undo.callback(workdir.clear, stack.work_fd, stack.workdir)
            overrides.mark(stack.upper, options.xattr_permissions)
            lock.sign()
        else:
            stack.open_workdir()
        passthrough = options.io == "passthrough" or (
            options.io == "auto"
            and kernel.may_pass_through([branch.fd for branch in stack.branches])
        )
        # The kernel has checked an application's rights when it opened the file; a server that
        # opens by node, later, must not be refused by a mode that has changed since.
        keep_open = options.copyup == "open" or not daemon.has_capability(_CAP_DAC_OVERRIDE)
        with ExitStack() as clones:
            tree = Tree(
                [_without_submounts(fd, clones) for fd in stack.lower_fds],
                stack.upper_fd,
                stack.work_fd,
                whiteout=stack.whiteout,
                rename_dir=options.rename_dir,
                durable=not options.volatile,
                trusted=stack.trusted,
                keep_open=keep_open,
                noatime="noatime" in options.flags and not _leaves_atime(stack.upper_fd),
                inline_limit=INLINE_LIMIT,
                fd_limit=_cached_descriptors(),
                state=stack.state_fd,
                uid_map=options.uid_map,
                gid_map=options.gid_map,
                squash_uid=options.squash_uid,
                squash_gid=options.squash_gid,
                acls=options.acls,
                static_nlink=options.static_nlink,
                unmapped=namespaces.unmapped(idmapped=stack.idmapped),
                work_path=stack.work_path,
            )
        self._tree = tree
        undo.callback(tree.close)
        relay = self.relay = Relay(tree)
        relay.start()
        self._late.callback(relay.join)
        undo.callback(relay.close)
        fd = kernel.attach(options, self.mountpoint)
        try:
            fastpath = FastPath(
                tree,
                fd,
                relay.parking,
                readers=options.threads or min(2, len(os.sched_getaffinity(0))),
                keep_open=keep_open,
                writeback=options.writeback,
                timeout=options.timeout,
                debug=options.debug,
                passthrough=passthrough,
                splice=True,
                queues=_queues() if options.io_uring == "auto" else 0,
                branches=_host_paths(stack),
            )
        except BaseException:
            os.close(fd)
            kernel.detach(self.mountpoint)
            raise
        undo.callback(fastpath.close)
        undo.callback(self._detach, fastpath)
        fastpath.start()
        self._fastpath = fastpath
        try:
            self._device = _answer(self.mountpoint).st_dev
        except OSError as error:
            raise StartFailed(path=self.mountpoint, reason=error.strerror) from None
        _read_ahead(self._device)

    def wait(self, *others: int) -> None:
        """Sleep until the mount is gone, or one of `others`, which are descriptors, is readable.

        Whenever memory is short meanwhile, the mount gives back what it keeps for later.
        """
        assert self._tree is not None
        assert self._fastpath is not None
        poll = select.poll()
        for fd in (self._fastpath.done_fd, *others):
            poll.register(fd, select.POLLIN)
        if poll.poll(_YOUNG):
            return
        short = self._late.enter_context(pressure.watched())
        for fd in short:
            poll.register(fd, select.POLLPRI)
        while True:
            for fd, event in poll.poll():
                if fd not in short:
                    return
                if event == select.POLLPRI:
                    self._tree.shrink()
                else:
                    poll.unregister(fd)  # for ever readable now: the control group is gone

    def close(self) -> None:
        """Unmount if need be, and finish everything; returns when all is written out.

        What is still open on the mount loses its connection (ENOTCONN); what was written
        through it is written out before.  Raises `NotWrittenOut` when the disk failed.
        """
        self._stack.close_lowers()  # the tree has its own, in clones of their mounts
        with self._late:
            self._undo.close()

    def _detach(self, fastpath: FastPath) -> None:
        """Unmount, unless somebody has: then something else may be mounted there by now."""
        if select.select([fastpath.done_fd], [], [], 0)[0]:
            return
        if self._device in (None, os.stat(self.mountpoint).st_dev):
            kernel.detach(self.mountpoint)


class Mount:
    """A mount served by a process of its own, which ends with this one at the latest.

    A context manager: mounted inside the block.
    """

    def __init__(self, options: MountOptions) -> None:
        self.mountpoint = options.mountpoint
        self._options = options
        self._daemon: daemon.Daemon | None = None

    def __repr__(self) -> str:
        state = "not mounted" if self._daemon is None else f"process {self._daemon.pid}"
        return f"<unionfs.Mount at {self.mountpoint!r}, {state}>"

    def status(self) -> dict[str, Any]:
        """What the mount has done and holds: the object that `unionfs-status --json` prints.

        Raises `PathUnusable` or `NotAMount` when nobody answers.
        """
        from unionfs.cli import status

        return status.ask(self.mountpoint)

    def where(self, path: str | os.PathLike[str] = "") -> Where:
        """Which branch a path comes from, relative to the mount point, and its path there.

        Raises `PathUnusable` for one that does not exist, and `NotAMount`.
        """
        from unionfs.cli import where

        return where.ask(os.path.join(self.mountpoint, path))

    def unmount(self) -> None:
        """The same as `stop`."""
        self.stop()

    @property
    def pid(self) -> int:
        """The process that serves the mount."""
        if self._daemon is None:
            raise ValueError("not mounted")
        return self._daemon.pid

    def start(self) -> None:
        """Mount; returns when the mount answers.  Raises the errors of errors.py."""
        if self._daemon is not None:
            raise ValueError("mounted already")
        self._daemon = _start_daemon(self._options, log.info, leash=True)

    def stop(self) -> None:
        """Unmount; returns when everything is written out.

        What is still open on the mount loses its connection.  It is no error if the mount, or
        the process that serves it, is gone already.
        """
        process, self._daemon = self._daemon, None
        if process is None:
            return
        process.end()
        with suppress(OSError):
            os.stat(self.mountpoint)
            return
        # Killed: nobody serves the mount, and it is still there.
        kernel.detach(self.mountpoint)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def mount(
    lowers: Sequence[str | os.PathLike[str]],
    upper: str | os.PathLike[str] | None,
    mountpoint: str | os.PathLike[str],
    **options: Any,
) -> Mount:
    """A union of `lowers` (topmost first) under `upper`, to be used in a with statement.

    Without an upper it is read-only.  The other options are the fields of `MountOptions`.  Raises
    `UsageError` for a value that the command refuses too, in the same words, and TypeError for a
    single path in the place of `lowers` and for an option that does not exist.

        with unionfs.mount(["/usr/share/a", "/usr/share/b"], "/tmp/changes", "/mnt"):
            ...
    """
    if isinstance(lowers, (str, bytes, os.PathLike)):
        raise TypeError(f"lowers is a sequence of paths, topmost first, not {lowers!r}")
    for name in ("workdir", "log_file"):
        if options.get(name) is not None:
            options[name] = _absolute(options[name])
    return Mount(
        checked(
            mountpoint=_absolute(mountpoint),
            lowers=tuple(map(_absolute, lowers)),
            upper=None if upper is None else _absolute(upper),
            **options,
        )
    )


def serve(options: MountOptions, notice: Callable[[str], None]) -> int:
    """What the command does: mount, and serve until it is unmounted.

    Returns the exit status: in the foreground when the mount is gone, else when it answers.
    `notice` is called with what the caller should know meanwhile.  Raises the errors of errors.py.
    """
    if options.foreground:
        log.use(options.log_file, log.stderr)
        stack = _open_branches(options, notice)
        return _serve_here(Session(options, stack, notice), lambda: None, None)
    _start_daemon(options, notice, leash=False)
    return 0


def _open_branches(options: MountOptions, notice: Callable[[str], None]) -> BranchStack:
    stack = BranchStack.open(options)
    if stack.covers_union:
        notice(f"a union is mounted at {shortened(stack.mountpoint)} already: this one covers it")
    return stack


def _start_daemon(
    options: MountOptions, notice: Callable[[str], None], *, leash: bool
) -> daemon.Daemon:
    # Before the daemon leaves this directory and this terminal.
    stack = _open_branches(options, notice)

    def body(report: daemon.Report, leash_fd: int | None) -> int:
        return _serve_detached(options, stack, report.ready, report.notice, leash_fd)

    keep = [branch.fd for branch in stack.branches]
    try:
        return daemon.Daemon(body, keep, leash=leash, what=stack.mountpoint, notice=notice)
    finally:
        stack.close()


def become_daemon(
    options: MountOptions, notice: Callable[[str], None], ready: Callable[[], None], keep: int
) -> int:
    """Be the process that serves the mount, in the place of starting one; returns at its end.

    `ready` is called when the mount answers, and `keep` is a descriptor that it needs.  Raises the
    errors of errors.py; until the mount answers the standard streams stay.
    """
    stack = _open_branches(options, notice)
    daemon.detach([keep, *(branch.fd for branch in stack.branches)])

    def mounted() -> None:
        daemon.silence()  # first: who reads what we print waits for its end
        ready()

    return _serve_detached(options, stack, mounted, notice, None)


def _serve_detached(
    options: MountOptions,
    stack: BranchStack,
    ready: Callable[[], None],
    notice: Callable[[str], None],
    leash_fd: int | None,
) -> int:
    log.use(options.log_file, log.syslog)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(_OOM_SCORE_ADJ))
    surroundings.raise_limits()
    for text in surroundings.limits_that_bite():
        log.warning(text)
    return _serve_here(Session(options, stack, notice), ready, leash_fd)


def _serve_here(session: Session, ready: Callable[[], None], leash_fd: int | None) -> int:
    surroundings.leave()
    daemon.grow_descriptor_table(_DESCRIPTOR_TABLE)
    with daemon.end_signals() as signalled:
        session.start()
        try:
            ready()
            session.wait(signalled, *([] if leash_fd is None else [leash_fd]))
        finally:
            session.close()
    return 0


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.join(os.getcwd(), os.fspath(path))


def _host_paths(stack: BranchStack) -> list[bytes]:
    """By branch number: 0 is the upper's place, also where there is none."""
    upper = "" if stack.upper is None else stack.upper.path
    return [os.fsencode(path) for path in (upper, *(lower.path for lower in stack.lowers))]


def _unseen(directory: int, change: Callable[[], None]) -> None:
    """Make a change in the upper's root that leaves its times alone: the mount shows them."""
    before = os.stat(directory)
    try:
        change()
    finally:
        with suppress(PermissionError):  # another user's directory that we may write
            os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))


def _queues() -> int:
    """How many queues the kernel has for FUSE over io_uring: one for each possible CPU.

    0 where their numbers have gaps: then the kernel's count does not tell its last one.
    """
    with suppress(OSError), open("/sys/devices/system/cpu/possible") as file:
        first, _, last = file.read().strip().partition("-")
        if first == "0" and (last or "0").isdigit():
            return int(last or 0) + 1
    return 0


def _cached_descriptors() -> int:
    """How many descriptors the tree may keep for later: half of what the process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(soft // 2, _MOST_DESCRIPTORS)


def _answer(mountpoint: str) -> os.stat_result:
    """What the mount says of its root; waits until it says something."""
    return os.stat(mountpoint)


def _without_submounts(fd: int, undo: ExitStack) -> int:
    """A lower branch as it is below what is mounted inside it, where that can be had."""
    try:
        clone = clones.read_only(fd)
    except OSError:
        return fd
    undo.callback(os.close, clone)
    return clone


def _leaves_atime(fd: int | None) -> bool:
    """Whether the mount that a descriptor was opened through leaves times of access alone."""
    return fd is not None and bool(os.fstatvfs(fd).f_flag & os.ST_NOATIME)


def _read_ahead(device: int) -> None:
    """Raise the mount's read-ahead, where we may."""
    path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    with suppress(OSError), open(path, "w") as file:
        file.write(str(_READ_AHEAD))
