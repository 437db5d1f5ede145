"""Changing what is in a lower branch: each file has to come up first."""

from __future__ import annotations

import os

from benchmarks.session import Session
from benchmarks.workloads import clients
from benchmarks.workloads.registry import Sample, Samples, workload


@workload("append", changes_lower=True)
def append(session: Session) -> Samples:
    stack = session.fixtures.changed
    with session.mounted(stack, changes=True) as mounted:
        yield Sample(
            "append to lower files", session.client(mounted, clients.append_all, stack.files)
        )


@workload("chown", changes_lower=True, tools=("chown",))
def chown(session: Session) -> Samples:
    with session.mounted(session.fixtures.changed, changes=True) as mounted:
        names = sorted(os.listdir(mounted.path))
        yield Sample(
            "chown -R of lower files", session.command(mounted, "chown", "-R", "1:1", *names)
        )
