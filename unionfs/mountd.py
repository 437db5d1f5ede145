"""Mounts by a process that has started already: what `unionfs-mountd` does.

Nearly all that a mount takes is the interpreter and its imports.  This process has both behind
it, and nearly always a child that waits for a request; what a child does not change, it shares
with its parent.  Who asks is `unionfs-quickmount` (programs/quickmount.c, where the request is
described).  The child becomes what the caller is: it enters the caller's namespaces, root and
current directory, and runs on the caller's CPUs.  Then it serves the mount, as the daemon of
`unionfs-mount` does.

No caller gets rights that it does not have.  Only the user that runs this process is served.  Where
this process may mount as root does, or would have to enter other namespaces, the caller must be
allowed to mount there itself: it might be in a sandbox of that user's, whose mounts the child could
change and the caller could not.
"""

import fcntl
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from unionfs import _mount, daemon, log, surroundings
from unionfs.errors import MountdUnusable
from unionfs.prefault import Prefault
from unionfs.version import VERSION

#: Mounts with these arguments, calls the second when the mount answers, and serves it; returns the
#: exit status, None if that is not for a child to do.  The third is a descriptor to be left open.
Mount = Callable[[Sequence[str], Callable[[], None], int], int | None]

_NAME: Final = "unionfs-mountd"
_DECLINED: Final = 255
# As much as a packet of the default buffer takes: the kernel's net.core.wmem_default.
_REQUEST_SIZE: Final = 1 << 18
_DESCRIPTORS: Final = 6
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred of unix(7)
_CAP_SYS_ADMIN: Final = 21
_NS_GET_USERNS: Final = 0xB701  # ioctl_ns(2)
# Clients beyond this backlog are refused and mount by themselves.
_BACKLOG: Final = 64
# A request is sent before its sender waits; one that does not come must not keep a child.
_PATIENCE: Final = 10
_PAUSE: Final = 1.0
# The mount that was asked for goes first, and what waits for it, unless somebody else asks: on one
# CPU the fork for the next one takes 5 ms from it.  A container says its first word 50 ms after its
# mount is there.  In seconds.
_HEAD_START: Final = 0.2


class Request(NamedTuple):
    """What a caller has sent: descriptors in the order of quickmount.c."""

    arguments: list[str]
    root: int
    directory: int
    output: int
    errors: int
    users: int
    mounts: int


def socket_path() -> str:
    """Where this user's `unionfs-quickmount` looks, which also tries the second if in doubt."""
    named = os.environ.get("UNIONFS_MOUNTD")
    if named:
        return named
    return f"{os.environ.get('XDG_RUNTIME_DIR', '/run')}/{_NAME}"


def serve(path: str, mount: Mount) -> None:
    """Answer requests at the socket `path` until SIGTERM or SIGINT; mounts outlive it.

    Raises `MountdUnusable`.
    """
    # What a mount imports when it starts, and when it has to prepare something.
    import syslog  # noqa: F401

    import unionfs.operations
    import unionfs.session  # noqa: F401

    with _listening(path) as listener, daemon.end_signals() as signalled, _lifeline() as line:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
        # A collection in a child would write to every object, and the memory is shared no more.
        gc.collect()
        gc.freeze()
        prefault = Prefault()
        while True:
            taken = _fork(listener, line, prefault, mount)
            try:
                if _readable(signalled, taken)[0]:
                    return
                if os.read(taken, 1) == b"":
                    log.error("a process that was to wait for a request has ended")
                    time.sleep(_PAUSE)
                if _readable(signalled, listener.fileno(), within=_HEAD_START)[0]:
                    return
            finally:
                os.close(taken)


class Lifeline(NamedTuple):
    """A pipe that nobody writes to: it ends with the parent."""

    theirs: int
    ours: int


@contextmanager
def _lifeline() -> Iterator[Lifeline]:
    line = Lifeline(*os.pipe())
    try:
        yield line
    finally:
        os.close(line.theirs)
        os.close(line.ours)


def _readable(*fds: int, within: float | None = None) -> list[bool]:
    """Which of the descriptors can be read, or have lost their other end.

    Sleeps until there is one, at most `within` seconds.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    ready = [fd for fd, _ in poll.poll(None if within is None else within * 1000)]
    return [fd in ready for fd in fds]


@contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    """A socket for this user alone; one that nobody listens at any more is replaced."""
    made = f"{path}.new"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        umask = os.umask(0o177)
        try:
            if _is_answered(path):
                raise MountdUnusable(path=path, reason="another unionfs-mountd listens there")
            with suppress(FileNotFoundError):
                os.unlink(made)
            listener.bind(made)
            listener.listen(_BACKLOG)
            os.rename(made, path)  # who finds it finds it listening
        except OSError as error:
            raise MountdUnusable(path=path, reason=error.strerror or str(error)) from None
        finally:
            os.umask(umask)
        try:
            yield listener
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        try:
            other.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


def _fork(listener: socket.socket, line: Lifeline, prefault: Prefault, mount: Mount) -> int:
    """Have a child wait for a request; returns a descriptor that tells when it has taken one."""
    taken, tell = os.pipe()
    if os.fork():
        os.close(tell)
        return taken
    try:
        surroundings.reset_signals()
        os.close(line.ours)
        if not any(_readable(line.theirs, listener.fileno(), within=0)):
            prefault.take()
        if not _readable(line.theirs, listener.fileno())[0]:
            connection, _ = listener.accept()
            os.write(tell, b"x")
            os.close(tell)
            Path("/proc/self/comm").write_text("unionfs-mount")  # what ps shows
            _answer(connection, prefault, mount)
    except BaseException:
        log.exception("a mount for somebody else failed")
    finally:
        os._exit(0)


def _answer(connection: socket.socket, prefault: Prefault, mount: Mount) -> None:
    def ready() -> None:
        connection.send(b"\0")
        connection.close()
        prefault.learn()

    status: int | None = None
    try:
        request = _read(connection)
        if request is not None:
            status = mount(request.arguments, ready, connection.fileno())
    finally:
        try:
            sys.stdout.flush()  # os._exit does not
        except OSError:
            status = None  # who asked says the same, and what went wrong
        with suppress(OSError):  # answered already, or the caller went away
            connection.send(bytes([_DECLINED if status is None else status]))


def _read(connection: socket.socket) -> Request | None:
    """What is to be done, with this process where the caller is; None if that is not for us."""
    pid, uid, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    # Read it in any case: if something is left unread, the kernel tells the caller that, and not
    # the answer.
    connection.settimeout(_PATIENCE)
    try:
        request = _receive(connection)
    except OSError:  # the caller went away, or sends nothing
        return None
    connection.settimeout(None)
    if request is None or uid != os.geteuid() or not _become(request, pid):
        return None
    return request


def _receive(connection: socket.socket) -> Request | None:
    """What was asked for; None for what another version asks."""
    message, fds, flags, _ = socket.recv_fds(connection, _REQUEST_SIZE, _DESCRIPTORS)
    version, *arguments = message.decode(errors="surrogateescape").split("\0")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) != _DESCRIPTORS:
        return None
    if version != VERSION or not message.endswith(b"\0"):
        return None
    return Request(arguments[:-1], *fds)


def _become(request: Request, pid: int) -> bool:
    """Be where the caller is; False if this process may not."""
    strange = [
        (fd, kind)
        for fd, kind, name in (
            (request.users, _mount.CLONE_NEWUSER, "user"),
            (request.mounts, _mount.CLONE_NEWNS, "mnt"),
        )
        if not _is_namespace(fd, "self", name)
    ]
    try:
        if (strange or daemon.has_capability(_CAP_SYS_ADMIN)) and not _may_mount(request, pid):
            return False
        os.sched_setaffinity(0, os.sched_getaffinity(pid))
        for fd, kind in strange:
            _mount.setns(fd, kind)
        if not os.path.samestat(os.fstat(request.root), os.stat("/")):
            os.fchdir(request.root)
            os.chroot(".")
        os.fchdir(request.directory)
    except OSError:
        return False
    os.dup2(request.output, 1)
    os.dup2(request.errors, 2)
    return True


def _may_mount(request: Request, pid: int) -> bool:
    """Whether the caller may mount in the namespaces it has sent, as their root.

    Raises OSError where the caller cannot be looked at.
    """
    owner = fcntl.ioctl(request.mounts, _NS_GET_USERNS)
    try:
        owned = os.path.sameopenfile(owner, request.users)
    finally:
        os.close(owner)
    return (
        owned
        and _is_namespace(request.users, pid, "user")
        and daemon.has_capability(_CAP_SYS_ADMIN, pid)
    )


def _is_namespace(fd: int, process: int | str, name: str) -> bool:
    return os.path.samestat(os.fstat(fd), os.stat(f"/proc/{process}/ns/{name}"))
