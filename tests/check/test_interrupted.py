"""What a killed daemon leaves: traces and no errors; repairing them changes nothing visible."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.check.upper import opened
from tests.crash.conftest import memory, place
from tests.crash.test_steps import CALLS, Case
from tests.mounted.harness import only_unionfs
from tests.mounted.tracing import needs_strace, traced
from tests.mounted.trees import differences, snapshot
from tests.tree.union import FORMATS
from unionfs.check import check

__all__ = ["memory", "place"]

pytestmark = [only_unionfs, needs_strace, pytest.mark.slow, pytest.mark.timeout(240)]


def change_and_remove(root: Path) -> None:
    """A file of two names, from its copy-up to its end."""
    (root / "other").chmod(0o600)
    (root / "other").unlink()
    (root / "dir/other").unlink()


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "copy up one of two names": lambda root: (root / "other").chmod(0o600),
    "remove both names": change_and_remove,
    "rename one of two names": lambda root: (root / "other").rename(root / "open/new"),
    "link a lower file": lambda root: os.link(root / "file", root / "open/new"),
    "create over a whiteout": lambda root: os.mknod(root / "gone"),
    "rmdir a merged directory": lambda root: (root / "merged").rmdir(),
}


@pytest.mark.parametrize("whiteout", FORMATS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_before_each_call(memory: Path, whiteout: str, name: str) -> None:
    case = Case(memory, whiteout, OPERATIONS[name])
    os.link(case.lower / "other", case.lower / "dir/other")
    killed = 0
    steps = case.calls()
    for call, count in steps:
        with case.begin("attempt") as union:
            injection = f"inject={call}:signal=KILL:when={count}"
            log = memory / "killed"
            with traced(union.pid, log, "-e", f"trace={CALLS}", "-e", injection) as strace:
                try:
                    case.operation(union.mountpoint)
                except OSError:
                    killed += 1
                else:
                    os.kill(union.pid, signal.SIGKILL)
                strace.wait(timeout=30)
            union.clear_dead()
            found = case.after_the_crash(union)
            os.kill(union.pid, signal.SIGKILL)
            union.clear_dead()
            assert union.upper is not None
            with opened(union.upper, case.lower) as (upper, *lowers):
                findings = check(upper, lowers=lowers, repair=True)
                assert {one for one in findings if one.level == "error"} == set()
                left = {one.code for one in check(upper, lowers=lowers)}
                assert left <= {"whiteout-useless", "link-unreachable"}
            union.mount()
            assert differences(found, snapshot(union.mountpoint)) == []
        shutil.rmtree(union.root)
    # How the slow path's threads share its work differs now and then, and with it the count.
    assert killed >= len(steps) - max(1, len(steps) // 10)
