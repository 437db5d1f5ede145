"""Placement, clients and the clock.

Every client is pinned to one CPU and every server to one, because where they run decides more
than what they do: a FUSE round trip costs about 10 us on one CPU and four times that when an idle
virtual CPU has to be woken.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import shlex
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

CLIENT_TIMEOUT = 1800.0


class ClientError(Exception):
    """A client failed; the message is its traceback or what the command said."""


class Placement(NamedTuple):
    name: str
    client: int
    server: int


def placements() -> tuple[Placement, ...]:
    """Client and server on one CPU, and on two if this process may use two."""
    first, *others = sorted(os.sched_getaffinity(0))
    same = Placement("same", first, first)
    return (same, Placement("two", first, others[0])) if others else (same,)


@contextmanager
def pinned(*cpus: int) -> Iterator[None]:
    """Run this process, and what it starts meanwhile, on these CPUs only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def drop_caches(what: int) -> None:
    """Drop clean caches of the whole machine: 2 dentries and inodes, 3 data as well.

    Needs root. See Documentation/admin-guide/sysctl/vm.rst of the kernel.
    """
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text(str(what))


def command(
    arguments: Sequence[str],
    directory: Path,
    environment: dict[str, str] | None = None,
    output: bool = False,
) -> tuple[float, str]:
    """Run a standard tool in ``directory``: wall time in seconds from fork to exit, and its output.

    Output goes to /dev/null unless asked for, so that nobody has to read it while the clock runs.
    Raises ClientError when the tool fails or does not end within CLIENT_TIMEOUT.
    """
    started = time.perf_counter()
    try:
        done = subprocess.run(
            arguments,
            cwd=directory,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if output else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=CLIENT_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClientError(str(error)) from error
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise ClientError(f"{arguments[0]}: {(done.stderr or done.stdout or '').strip()[-500:]}")
    return seconds, done.stdout or ""


def first_output(arguments: Sequence[str], directory: Path, wanted: str) -> float:
    """Run a command that says ``wanted`` first: seconds from fork until it is read.

    Returns when the command has ended. Raises ClientError when it says anything else or fails.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        arguments,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        said = running.stdout.read(len(wanted))
        seconds = time.perf_counter() - started
        try:
            _, errors = running.communicate(timeout=CLIENT_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            running.kill()
            raise ClientError(str(error)) from error
    if running.returncode != 0 or said != wanted.encode():
        raise ClientError(f"{shlex.join(arguments)}: {said!r} {errors.decode()[-500:]}")
    return seconds


def clients(
    directory: Path, function: Callable[..., object], arguments: Sequence[tuple[Any, ...]]
) -> float:
    """Run ``function(*arguments[i])`` in one forked process each, all at once, in ``directory``.

    Returns seconds from the first start to the last end, without the forks: every client is ready
    before any begins. A fork shares the prepared lists, and starts no interpreter. Raises
    ClientError with the traceback of a client that failed.
    """
    go_reader, go_writer = os.pipe()
    running = [_fork(directory, function, given, go_reader, go_writer) for given in arguments]
    os.close(go_reader)
    try:
        for _, reader in running:
            _receive(reader)
        os.close(go_writer)
        go_writer = -1
        times: list[tuple[float, float]] = [_receive(reader) for _, reader in running]
    finally:
        if go_writer >= 0:
            os.close(go_writer)
        for pid, reader in running:
            os.close(reader)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    first, last = min(start for start, _ in times), max(end for _, end in times)
    return last - first


def client(directory: Path, function: Callable[..., object], *arguments: Any) -> float:
    """One such client: seconds that ``function(*arguments)`` took."""
    return clients(directory, function, [arguments])


def _fork(
    directory: Path,
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    go_reader: int,
    go_writer: int,
) -> tuple[int, int]:
    """Start a client that reports twice: when it is ready, and when it is done."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        os.close(go_writer)
        gc.disable()
        os.chdir(directory)
        _send(writer, None)
        os.read(go_reader, 1)  # returns at the end of file, which starts all clients at once
        started = time.perf_counter()
        function(*arguments)
        _send(writer, (started, time.perf_counter()))
    except BaseException:
        _send(writer, traceback.format_exc()[-1000:])
    finally:
        os._exit(0)


def _send(writer: int, message: object) -> None:
    os.write(writer, pickle.dumps(message))  # one write below PIPE_BUF is one read


def _receive(reader: int) -> Any:
    if not select.select([reader], [], [], CLIENT_TIMEOUT)[0]:
        raise ClientError(f"a client did not answer for {CLIENT_TIMEOUT:.0f} s")
    message = os.read(reader, select.PIPE_BUF)
    if not message:
        raise ClientError("a client was killed")
    content = pickle.loads(message)
    if isinstance(content, str):
        raise ClientError(content)
    return content
