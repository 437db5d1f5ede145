"""The mount itself: how soon it answers, what it holds at rest, what a node costs."""

from __future__ import annotations

from benchmarks.session import Session
from benchmarks.workloads import clients
from benchmarks.workloads.registry import Sample, Samples, workload


@workload("start", starts=True)
def start(session: Session) -> Samples:
    if session.peer.command is None:
        return
    with session.mounted(session.fixtures.small) as mounted:
        yield Sample("mount to first answer", mounted.seconds)
        if mounted.servers:
            yield Sample("private memory at rest", mounted.private_memory(), "B")


@workload("nodes")
def nodes(session: Session) -> Samples:
    if session.peer.command is None:
        return
    stack = session.fixtures.empty_files(session.scale.nodes)
    with session.mounted(stack) as mounted:
        if not mounted.servers:
            return
        # The first answers also fill caches of fixed size; they are not the nodes' cost.
        session.client(mounted, clients.lstat_all, stack.files[:1])
        before = mounted.private_memory()
        session.client(mounted, clients.lstat_all, stack.files)
        grown = mounted.private_memory() - before
        yield Sample("private memory per node", grown / len(stack.files), "B")
