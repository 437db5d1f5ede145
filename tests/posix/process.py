"""Running a function in a process of its own, with a deadline and another identity."""

import contextlib
import os
import pickle
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

#: Seconds after which a case counts as hung. Nothing in the suite waits on purpose.
DEADLINE = 60.0


class Hung(Exception):
    """The function did not come back before its deadline."""


class Broken(Exception):
    """The process ended without a result, or raised what cannot be passed on."""


class Running:
    """A function that runs in a child; `result` waits for it."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            _answer(writer, function, args)
        os.close(writer)

    def result(
        self, deadline: float = DEADLINE, on_hang: Callable[[], object] | None = None
    ) -> Any:
        """Return what the function returned or raise what it raised.

        After `deadline` seconds `on_hang` is called, which must free a child that is
        stuck in the kernel, the child is killed and Hung raised.
        """
        try:
            data = _read_until(self._reader, time.monotonic() + deadline)
        finally:
            os.close(self._reader)
        if data is None:
            if on_hang is not None:
                on_hang()
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        if data is None:
            raise Hung(f"no answer within {deadline} s")
        if not data:
            raise Broken(f"the process ended without an answer, wait status {status}")
        succeeded, value = pickle.loads(data)
        if not succeeded:
            raise value
        return value


def call(
    function: Callable[..., Any],
    *args: Any,
    deadline: float = DEADLINE,
    on_hang: Callable[[], object] | None = None,
) -> Any:
    """Call the function in a child; see Running.result."""
    return Running(function, *args).result(deadline, on_hang)


def _read_until(fd: int, end: float) -> bytes | None:
    """Everything up to the end of file, or None when time is up."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    data = bytearray()
    while True:
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            return None
        chunk = os.read(fd, 1 << 20)
        if not chunk:
            return bytes(data)
        data += chunk


def _answer(writer: int, function: Callable[..., Any], args: Sequence[Any]) -> NoReturn:
    """In the child: call, send what came of it, end without any of the parent's clean-up."""
    try:
        try:
            answer = pickle.dumps((True, function(*args)))
        except BaseException as error:
            try:
                answer = pickle.dumps((False, error))
                pickle.loads(answer)
            except Exception:
                answer = pickle.dumps((False, Broken(traceback.format_exc())))
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)


class Worker:
    """A child that calls one function for every argument it is sent, and answers each.

    Between two calls it goes back to where it was: working directory, umask, signals, limits
    and descriptors. When it dies or hangs, the next call starts another.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        enter: Callable[[], object] = lambda: None,
        on_hang: Callable[[], object] = lambda: None,
    ) -> None:
        self._function, self._enter, self._on_hang = function, enter, on_hang
        self._pid = 0

    def call(self, argument: Any, deadline: float = DEADLINE) -> Any:
        """Send one argument, return what the function returns; Hung or Broken otherwise."""
        if not self._pid:
            self._start()
        with contextlib.suppress(BrokenPipeError):  # it has died: reading will tell
            pickle.dump(argument, self._to)
            self._to.flush()
        poll = select.poll()
        poll.register(self._from.fileno(), select.POLLIN | select.POLLHUP)
        if not poll.poll(deadline * 1000):
            self._on_hang()
            os.kill(self._pid, signal.SIGKILL)
            self.close()
            raise Hung(f"no answer within {deadline} s")
        try:
            return pickle.load(self._from)
        except EOFError:
            status = self.close()
            raise Broken(f"the process ended within the case, wait status {status}") from None

    def close(self) -> int:
        if not self._pid:
            return 0
        with contextlib.suppress(BrokenPipeError):  # a request that nobody took
            self._to.close()
        self._from.close()
        pid, self._pid = self._pid, 0
        return os.waitpid(pid, 0)[1]

    def _start(self) -> None:
        requests, to = os.pipe2(os.O_CLOEXEC)
        answers_from, answers = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            os.close(to)
            os.close(answers_from)
            self._serve(requests, answers)
        os.close(requests)
        os.close(answers)
        self._to, self._from = os.fdopen(to, "wb"), os.fdopen(answers_from, "rb")

    def _serve(self, requests: int, answers: int) -> NoReturn:
        try:
            self._enter()
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            first_free = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
            with os.fdopen(requests, "rb", buffering=0) as incoming:
                while True:
                    os.chdir("/")
                    os.umask(0o022)
                    os.closerange(first_free, first_free + 1000)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                    answer = pickle.dumps(self._function(pickle.load(incoming)))
                    while answer:
                        answer = answer[os.write(answers, answer) :]
        except EOFError:
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)


def become(uid: int, gid: int, groups: Sequence[int] = ()) -> None:
    """Give up every right but those of this user; needs CAP_SETUID and CAP_SETGID."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
