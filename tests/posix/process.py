"""Running a function in a process of its own, with a deadline and another identity."""

import os
import pickle
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


def call(
    function: Callable[..., Any],
    *args: Any,
    deadline: float = DEADLINE,
    on_hang: Callable[[], object] | None = None,
) -> Any:
    """Fork, call the function in the child and return its result or raise its exception.

    After `deadline` seconds `on_hang` is called, which must free a child that is
    stuck in the kernel, the child is killed and Hung raised.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _answer(writer, function, args)
    os.close(writer)
    try:
        data = _read_until(reader, time.monotonic() + deadline)
    finally:
        os.close(reader)
    if data is None:
        if on_hang is not None:
            on_hang()
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if data is None:
        raise Hung(f"no answer within {deadline} s")
    if not data:
        raise Broken(f"the process ended without an answer, wait status {status}")
    succeeded, value = pickle.loads(data)
    if not succeeded:
        raise value
    return value


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


def become(uid: int, gid: int, groups: Sequence[int] = ()) -> None:
    """Give up every right but those of this user; needs CAP_SETUID and CAP_SETGID."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
