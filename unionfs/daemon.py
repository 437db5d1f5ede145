"""The process that serves a mount: how it comes to be, what it holds, how it is ended.

The parent learns from a pipe whether the mount answers, or which error of errors.py it met.
"""

import fcntl
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from unionfs import errors, log
from unionfs.errors import StartFailed, UnionfsError

_LENGTH = struct.Struct("I")


class Report:
    """What a child tells its parent by a pipe, until it says that it is ready.

    Each message is the bytes' number, then the bytes: the kind and its details, with NULs between.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @property
    def open(self) -> bool:
        """Whether the parent still listens."""
        return self._fd is not None

    def notice(self, text: str) -> None:
        """Something the caller should know while it waits."""
        self._send("notice", text)

    def ready(self) -> None:
        """The mount answers."""
        self._send("ready")
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def error(self, error: UnionfsError) -> None:
        """The child is about to end with this error."""
        words = [type(error).__name__]
        for key, value in error.details.items():
            words += [key, str(value)]
        self._send(*words)

    def _send(self, *words: str) -> None:
        if self._fd is None:
            return
        text = "\0".join(words).encode(errors="surrogateescape")
        with suppress(OSError):  # the parent has gone
            os.write(self._fd, _LENGTH.pack(len(text)) + text)


def _received(answer: int) -> Iterator[list[str]]:
    """The words of each message, as they come; closes the descriptor at the end."""
    with open(answer, "rb") as file:
        while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
            text = file.read(_LENGTH.unpack(head)[0])
            yield text.decode(errors="surrogateescape").split("\0")


#: What the child runs: it tells its first argument when the mount answers, and watches the
#: descriptor of its second, which becomes readable when the parent has gone.
Body = Callable[[Report, int | None], int]


class Daemon:
    """A child of this process, in a session of its own, that runs `body`.

    Returns when the child is ready; `notice` is called with what it has to say until then.
    Raises the error of errors.py that it ended with.  The child keeps no descriptor but `keep`,
    has `/` as its directory and /dev/null as its standard streams.  With `leash` it ends when
    this process does.
    """

    def __init__(
        self,
        body: Body,
        keep: Sequence[int],
        *,
        leash: bool,
        what: str,
        notice: Callable[[str], None] = log.info,
    ) -> None:
        answer, report = os.pipe()
        held = os.pipe() if leash else None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = errors.StartFailed.exit_code
            try:
                status = _run(body, keep, report, None if held is None else held[0])
            finally:
                os._exit(status)  # not our parent's exit handlers
        os.close(report)
        self._leash: int | None = None
        if held is not None:
            os.close(held[0])
            self._leash = held[1]
        last = [""]
        for last in _received(answer):
            if last[0] == "notice":
                notice(last[1])
        if last != ["ready"]:
            status = self._reap()
            raise _error(last, status, what)

    def end(self) -> None:
        """Ask the process to unmount, and wait until it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        status = self._reap()
        # SIGTERM itself ends a process that was about to end when it came.
        if status not in (0, -signal.SIGKILL, -signal.SIGTERM):
            log.warning(f"process {self.pid}, which served a mount, ended with status {status}")

    def _reap(self) -> int:
        if self._leash is not None:
            os.close(self._leash)
            self._leash = None
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return 0  # SIGCHLD is ignored here: the kernel has reaped it


def _run(body: Body, keep: Sequence[int], report: int, leash: int | None) -> int:
    """The child."""
    told = Report(report)
    try:
        detach([*keep, report, *([] if leash is None else [leash])])
        silence()
        return body(told, leash)
    except UnionfsError as error:
        if told.open:
            told.error(error)
        else:
            log.error(str(error))
        return error.exit_code
    except BaseException:
        log.exception("the daemon ends")
        return 1


def detach(keep: Sequence[int]) -> None:
    """Leave the terminal, the directory, and all descriptors but `keep` and the streams."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup(1) is about the terminal that was left
    os.chdir("/")
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def silence() -> None:
    """Put /dev/null in the place of the standard streams."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def _error(words: list[str], status: int, what: str) -> UnionfsError:
    """The child's error, or one that says how the child ended without telling."""
    name, *details = words
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, UnionfsError):
        return kind(**dict(zip(details[::2], details[1::2], strict=True)))
    return StartFailed(path=what, reason=f"the daemon ended with status {status}; see its log")


#: What ends a process by default, and does not say that it is broken.
_END_SIGNALS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU),
    *(signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGUSR1, signal.SIGUSR2),
)


@contextmanager
def end_signals() -> Iterator[int]:
    """A descriptor that becomes readable when a signal asks the process to end.

    A process that ended by it at once would leave a dead mount.  SIGHUP may be ignored: nohup(1).
    """
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    before = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    handlers = {
        number: signal.signal(number, lambda *_: None)
        for number in _END_SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield wake_read
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(wake_read)
        os.close(wake_write)


def has_capability(number: int, process: int | str = "self") -> bool:
    """Whether a process has a capability of capabilities(7) in its own user namespace."""
    with open(f"/proc/{process}/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def grow_descriptor_table(size: int) -> None:
    """Have room for `size` descriptors, as far as the limit allows.

    A process of several threads waits for an RCU grace period whenever its table grows
    (expand_fdtable() in fs/file.c): 6-15 ms, seven times on the way to 4096.  With one thread
    it does not wait.
    """
    highest = min(size, resource.getrlimit(resource.RLIMIT_NOFILE)[0]) - 1
    with suppress(OSError), open(os.devnull, "rb") as file:
        os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, highest))
