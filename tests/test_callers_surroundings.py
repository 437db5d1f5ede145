"""What a process sheds before it serves a mount, in processes of their own without a mount."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPORT = """
import json, os, resource, signal, subprocess, sys
from unionfs import surroundings
surroundings.leave()
print(json.dumps({
    "umask": os.umask(0),
    "directory": os.getcwd(),
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "policy": os.sched_getscheduler(0),
    "disk": subprocess.check_output(["ionice"], text=True),
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "ignored": sorted(n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN),
    "limits": {n: resource.getrlimit(n) for n in range(16)},
    "bite": list(surroundings.limits_that_bite()),
}))
"""


def report(*wrapper: str) -> dict[str, object]:
    """What `leave` leaves of what `wrapper`, a command prefix, has done."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", REPORT],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def limits(found: dict[str, object], number: int) -> list[int]:
    value = found["limits"]
    assert isinstance(value, dict)
    return list(value[str(number)])


def python_with(code: str) -> tuple[str, ...]:
    """A command prefix that runs Python code before it becomes the command."""
    text = f"import os, resource, signal, sys\n{code}\nos.execvp(sys.argv[1], sys.argv[1:])"
    return (sys.executable, "-c", text)


SOFT = [
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_MEMLOCK,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
]


@pytest.mark.parametrize("limit", SOFT)
def test_soft_limits_are_raised(limit: int) -> None:
    _, hard = resource.getrlimit(limit)
    low = {resource.RLIMIT_NOFILE: 64, resource.RLIMIT_DATA: 1 << 28}.get(limit, 8192)
    found = report(*python_with(f"resource.setrlimit({limit}, ({low}, {hard}))"))
    assert limits(found, limit)[0] == limits(found, limit)[1] >= hard
    assert found["bite"] == []


@pytest.mark.parametrize(
    ("limit", "bound", "words"),
    [
        (resource.RLIMIT_FSIZE, 8192, "8192 bytes"),
        (resource.RLIMIT_CPU, 600, "600 s"),
        (resource.RLIMIT_AS, 1 << 32, "4294967296 bytes"),
        (resource.RLIMIT_NOFILE, 100, "100 files"),
    ],
)
def test_hard_limits_are_raised_or_told(limit: int, bound: int, words: str) -> None:
    """Whose process has CAP_SYS_RESOURCE raises them."""
    found = report(*python_with(f"resource.setrlimit({limit}, ({bound}, {bound}))"))
    soft, hard = limits(found, limit)
    if hard == bound:
        assert [words in text for text in found["bite"]] == [True]  # type: ignore[attr-defined]
        assert soft == (595 if limit == resource.RLIMIT_CPU else bound)
    else:
        assert hard == resource.RLIM_INFINITY or limit == resource.RLIMIT_NOFILE
        assert found["bite"] == []


def test_signals_do_what_they_do_in_a_new_process() -> None:
    code = """
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGURG})
"""
    found = report(*python_with(code))
    assert found["blocked"] == []
    ignored = found["ignored"]
    assert isinstance(ignored, list)
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
    faults |= {signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}
    assert set(ignored) - faults == {signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ}


def test_umask_and_directory(tmp_path: Path) -> None:
    code = f"os.umask(0o77); os.environ['PYTHONPATH'] = os.getcwd(); os.chdir({str(tmp_path)!r})"
    found = report(*python_with(code))
    assert (found["umask"], found["directory"]) == (0, "/")


@pytest.mark.skipif(os.geteuid() != 0, reason="raising a priority needs root")
def test_priorities() -> None:
    found = report("nice", "-n", "10", "chrt", "--batch", "0", "ionice", "-c", "3")
    assert (found["nice"], found["policy"]) == (0, os.SCHED_OTHER)
    assert "idle" not in str(found["disk"])
