"""How the cost of one operation grows: the points of the scaling plots."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.fixtures import FILES_IN_DIRECTORY
from benchmarks.peers import Mounted
from benchmarks.session import Session
from benchmarks.workloads import clients
from benchmarks.workloads.registry import Sample, Samples, workload


@workload("scaling-layers", scaling=True)
def by_layers(session: Session) -> Samples:
    for count in session.scale.scaling_layers:
        stack = session.fixtures.layers(count, FILES_IN_DIRECTORY)
        for row, function, names in (
            ("look-up, by layers", clients.lstat_all, stack.files),
            ("missing name, by layers", clients.find_none, stack.missing),
        ):
            with session.mounted(stack) as mounted:
                session.chill()
                seconds = session.client(mounted, function, names)
                yield Sample(row, seconds / len(names), "s", count)


@workload("scaling-files", scaling=True, tools=("find",))
def by_files(session: Session) -> Samples:
    """A cold walk over ever more files, and what the nodes it leaves behind cost."""
    for count in session.scale.scaling_files:
        stack = session.fixtures.empty_files(count)
        with session.mounted(stack) as mounted:
            session.chill()
            seconds = session.command(mounted, "find", ".", "-ls")
            yield Sample("find -ls for each file, by files", seconds / count, "s", count)
            if mounted.servers:
                memory = mounted.private_memory()
                yield Sample("private memory, by nodes", memory, "B", count)


@workload("scaling-directory", scaling=True)
def by_directory_size(session: Session) -> Samples:
    for count in session.scale.scaling_directory:
        stack = session.fixtures.flat(count)
        with session.mounted(stack) as mounted:
            session.chill()
            seconds = session.client(mounted, clients.list_directory, "flat", count)
            yield Sample("listing for each name, by directory size", seconds / count, "s", count)
        with session.mounted(stack) as mounted:
            session.chill()
            names = stack.files[:: max(1, count // 1000)]
            seconds = session.client(mounted, clients.lstat_all, names)
            yield Sample("look-up, by directory size", seconds / len(names), "s", count)


@workload("scaling-clients", scaling=True)
def by_clients(session: Session) -> Samples:
    """Cold reading of small files, each client its own share; all clients on the client's CPU."""
    tree = session.fixtures.tree
    for count in session.scale.scaling_clients:
        with session.mounted(tree) as mounted:
            session.chill()
            shares = [(tree.files[number::count],) for number in range(count)]
            seconds = session.clients(mounted, clients.open_all, shares)
            yield Sample("open+close, by clients", len(tree.files) / seconds, "op/s", count)


@workload("scaling-mounts", starts=True, scaling=True)
def by_mounts(session: Session) -> Samples:
    """One more mount beside ever more that are at rest, and what one of those holds."""
    if session.peer.command is None:
        return
    small = session.fixtures.small
    with ExitStack() as stack:
        resting: list[Mounted] = []
        for count in session.scale.scaling_mounts:
            while len(resting) < count - 1:
                resting.append(stack.enter_context(session.mounted(small)))
            with session.mounted(small) as mounted:
                yield Sample("mount to first answer, by mounts", mounted.seconds, "s", count)
                if mounted.servers:
                    most = max(one.private_memory() for one in (*resting, mounted))
                    yield Sample("private memory at rest, by mounts", most, "B", count)
