"""Mounts by a process that has started already: what `unionfs-mountd` does.

Nearly all that a mount takes is the interpreter and its imports.  This process has both behind
it and forks for each mount; what its children do not change, they share with it.  Who asks is
`unionfs-quickmount` (programs/quickmount.c, where the request is described).  The child becomes
what the caller is: it enters the caller's namespaces, root and current directory, and runs on the
caller's CPUs.  From then on it is `unionfs-mount`.

Nobody gets more than he has.  Only the user that runs this process is served, and somebody in other
namespaces only if he may mount in them himself: else he might be in a sandbox of that user's, whose
mounts the child could change and he not.
"""

import fcntl
import gc
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from unionfs import _mount, daemon, log
from unionfs.errors import MountdUnusable
from unionfs.version import VERSION

#: Mounts with these arguments and returns the exit status; None if that is not for a child to do.
Mount = Callable[[Sequence[str]], int | None]

_NAME: Final = "unionfs-mountd"
_DECLINED: Final = 255
# As much as a packet of the default buffer takes: the kernel's net.core.wmem_default.
_REQUEST_SIZE: Final = 1 << 18
_DESCRIPTORS: Final = 6
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred of unix(7)
_CAP_SYS_ADMIN: Final = 21
_NS_GET_USERNS: Final = 0xB701  # ioctl_ns(2)
# Who comes when so many wait mounts by himself.
_BACKLOG: Final = 64
# A request is sent before its sender waits; one that does not come must not keep a child.
_PATIENCE: Final = 10


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

    with _listening(path) as listener, daemon.end_signals() as signalled:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
        # A collection in a child would write to every object, and the memory is shared no more.
        gc.collect()
        gc.freeze()
        poll = select.poll()
        for fd in (listener.fileno(), signalled):
            poll.register(fd, select.POLLIN)
        while signalled not in (ready[0] for ready in poll.poll()):
            with suppress(OSError):  # no process is left for him: he is told that nobody answered
                connection = listener.accept()[0]
                with connection:
                    _fork(connection, mount)


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


def _fork(connection: socket.socket, mount: Mount) -> None:
    if os.fork():
        return
    status = _DECLINED
    try:
        daemon.default_signals()
        Path("/proc/self/comm").write_text("unionfs-mount")  # what ps shows
        status = _answer(connection, mount)
    except BaseException:
        log.exception("a mount for somebody else failed")
    finally:
        with suppress(OSError):
            connection.send(bytes([status]))
        os._exit(0)


def _answer(connection: socket.socket, mount: Mount) -> int:
    pid, uid, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    # Read it in any case: if something is left unread, the kernel tells the caller that, and not
    # the answer.
    connection.settimeout(_PATIENCE)
    request = _receive(connection)
    connection.settimeout(None)
    if request is None or uid != os.geteuid() or not _become(request, pid):
        return _DECLINED
    status = mount(request.arguments)
    return _DECLINED if status is None else status


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
        if strange and not _may_mount(request, pid):
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
    """Whether the caller may mount in the namespaces he has sent: they are his, and he their root.

    Raises OSError where he cannot be looked at.
    """
    owner = fcntl.ioctl(request.mounts, _NS_GET_USERNS)
    try:
        owned = os.path.sameopenfile(owner, request.users)
    finally:
        os.close(owner)
    return owned and _is_namespace(request.users, str(pid), "user") and _is_administrator(pid)


def _is_namespace(fd: int, process: str, name: str) -> bool:
    return os.path.samestat(os.fstat(fd), os.stat(f"/proc/{process}/ns/{name}"))


def _is_administrator(pid: int) -> bool:
    """Whether a process has CAP_SYS_ADMIN in its own user namespace."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False
