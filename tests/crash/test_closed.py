"""SIGKILL before each step of an ordinary user's change to a directory of mode 0555.

The directory is open to its owner meanwhile, and a record says what it shows (unionfs/_closed.pyx).
There is no mount here: a forked process is the daemon, with the rights of somebody else.
"""

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.test_steps import READING
from tests.mounted.harness import only_unionfs
from tests.mounted.tracing import needs_strace, traced
from tests.tree.union import Union, hide, put
from unionfs import workdir

pytestmark = [only_unionfs, needs_strace, pytest.mark.timeout(120)]

NOBODY = 65534
CALLER = {"uid": NOBODY, "gid": NOBODY}
CALLS = (
    "mkdirat,mknodat,symlinkat,linkat,unlinkat,renameat2,chmod,fchmod,fchmodat,?fchmodat2,"
    "utimensat,setxattr,fsetxattr,?setxattrat"
)
LINE = re.compile(r"^\d+ +(\w+)\(")

OPERATIONS: dict[str, Callable[[Union], object]] = {
    "copy up": lambda union: union.tree.setattr(union.node("lower"), mtime_ns=1000),
    "copy up in it": lambda union: union.tree.setattr(union.node("closed/f"), mode=0o600),
    "mkdir over a whiteout": lambda union: union.mkdir("gone", 0o555, **CALLER),
    "rename": lambda union: union.rename("closed", "over"),
    "rmdir": lambda union: union.rmdir("empty"),
}


def make(base: Path, whiteout: str) -> Union:
    union = Union(base, 1, trusted=False, keep_open=True, whiteout=whiteout, rename_dir="redirect")
    put(union.lower, "lower/f", "closed/f", "gone/f", "over/", "empty/f")
    put(union.upper, "closed/", "empty/")
    hide(union.upper, "gone", whiteout)
    hide(union.upper, "empty/f", whiteout)
    for path in (union.lower / "lower", union.upper / "closed", union.upper / "empty"):
        path.chmod(0o555)
    subprocess.run(["chown", "-hR", f"{NOBODY}:{NOBODY}", base], check=True)
    return union


def seen(union: Union) -> dict[str, tuple[object, ...]]:
    shown = union.visible()
    union.restart()
    return {path: (what[0], what[5]) for path, what in shown.items()}


def perform(union: Union, operation: Callable[[Union], object], log: Path, *strace: str) -> int:
    """In a process of its own, which strace has got hold of; its wait status."""
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go)
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
            union.visible()
            os.read(ready, 1)
            operation(union)
            os._exit(0)
        finally:
            os._exit(1)
    try:
        with traced(child, log, "-e", f"trace={CALLS}", *strace) as tracer:
            os.write(go, b"x")
            status = os.waitpid(child, 0)[1]
            tracer.wait(timeout=30)
            return status
    finally:
        os.close(ready)
        os.close(go)


def next_mount(union: Union) -> None:
    fds = [os.open(path, os.O_RDONLY) for path in (union.upper, union.work)]
    try:
        workdir.restore(*fds)
        workdir.clear(fds[1], "work")
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_before_each_step(memory: Path, whiteout: str, name: str) -> None:
    operation = OPERATIONS[name]

    def begin() -> Union:
        base = memory / "union"
        if base.exists():
            shutil.rmtree(base)
        base.mkdir()
        return make(base, whiteout)

    union = begin()
    before = seen(union)
    log = memory / "log"
    assert perform(union, operation, log) == 0
    after = seen(union)
    assert before != after or name == "copy up"
    counts: Counter[str] = Counter()
    steps = []
    for line in log.read_text().splitlines():
        if (found := LINE.match(line)) and found[1] not in READING:
            counts[found[1]] += 1
            steps.append((found[1], counts[found[1]]))
    opened = 0
    for call, count in steps:
        union = begin()
        injection = f"inject={call}:signal=KILL:when={count}"
        status = perform(union, operation, log, "-e", injection)
        assert os.WTERMSIG(status) == signal.SIGKILL
        opened += any(each.startswith("mode-") for each in os.listdir(union.work))
        next_mount(union)
        assert seen(union) in (before, after), f"killed before {call} {count} of {steps}"
    assert opened, "the directory had to be opened for it"
