"""strace(1) on a daemon: faults and delays at chosen system calls."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounted.harness import wait_until

#: <asm/unistd.h> of the machines on which the tests were tried.
_NUMBERS = {
    "x86_64": {
        "close": 3,
        "fsync": 74,
        "fdatasync": 75,
        "linkat": 265,
        "syncfs": 306,
        "copy_file_range": 326,
        "openat2": 437,
    },
    "aarch64": {
        "close": 57,
        "fsync": 82,
        "fdatasync": 83,
        "linkat": 37,
        "syncfs": 267,
        "copy_file_range": 285,
        "openat2": 437,
    },
}

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None or os.geteuid() != 0,
    reason="strace has to be installed and to be allowed to trace the daemon",
)
needs_known_machine = pytest.mark.skipif(
    platform.machine() not in _NUMBERS, reason="system call numbers of this machine are not known"
)


@contextmanager
def traced(pid: int, output: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Trace all threads of process `pid` into `output`; yields strace itself.

    Where the process is killed wait for strace to end inside the block: told to let go of a
    process whose threads are just dying, strace 6.1 waits for ever.
    """
    process = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-o", str(output), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            if "attached" in line:
                break
            said += line
        else:
            pytest.fail(f"strace could not attach to process {pid}: {said}")
        yield process
    finally:
        # On SIGTERM strace lets go of what it traces, also of what it delays.
        process.terminate()
        process.stderr.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def threads_in(pid: int, *calls: str) -> int:
    """How many threads of a process are inside one of these system calls."""
    numbers = {str(_NUMBERS[platform.machine()][call]) for call in calls}
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            count += (task / "syscall").read_text().split()[0] in numbers
        except (FileNotFoundError, ProcessLookupError):
            continue
    return count


def wait_for_threads_in(pid: int, *calls: str) -> None:
    wait_until(lambda: threads_in(pid, *calls) > 0, f"process {pid} calls {' or '.join(calls)}")
