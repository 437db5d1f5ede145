"""Start the processes, wait for them, check what they leave."""

import os
import time
from collections import Counter
from collections.abc import Callable

from tests.posix import process
from tests.stress import tree
from tests.stress.load import Load, Private, Shared, Steady, drop_caches

#: Seconds that a process may take over the time it was given.
GRACE = 120.0


def stress(
    top: str, processes: int, seconds: float, seed: int, *, dropping: bool = True
) -> Counter[str]:
    """Load a tree made of `tree.initial(processes)`; how often each thing was done.

    Of every five processes three share names, one keeps to files of its own and one
    looks up what stays. The first failure of any process is raised when all have ended.
    """
    end = time.monotonic() + seconds
    kinds: list[type[Load]] = [Shared, Private, Shared, Steady, Shared]
    running = [
        process.Running(_run, kinds[number % len(kinds)], top, number, seed, end)
        for number in range(processes)
    ]
    if dropping:
        running.append(process.Running(drop_caches, end))
    counts: Counter[str] = Counter()
    failures: list[BaseException] = []
    for one in running:
        try:
            counts += one.result(max(0, end - time.monotonic()) + GRACE)
        except BaseException as error:
            failures.append(error)
    if failures:
        raise failures[0]
    counts += tree.check(top)
    return counts


def _run(
    kind: Callable[[str, int, int], Load], top: str, number: int, seed: int, end: float
) -> Counter[str]:
    return kind(top, number, seed).run(end)


def may_drop_caches() -> bool:
    return os.access("/proc/sys/vm/drop_caches", os.W_OK)
