"""Reading a tree: names, attributes, content. The cold run is the first on a fresh mount."""

from __future__ import annotations

from benchmarks.session import Session
from benchmarks.workloads import clients
from benchmarks.workloads.registry import Sample, Samples, workload


@workload("find", tools=("find",))
def find(session: Session) -> Samples:
    with session.mounted(session.fixtures.tree) as mounted:
        session.chill()
        for heat in ("cold", "warm"):
            yield Sample(f"find -ls, {heat}", session.command(mounted, "find", ".", "-ls"))


@workload("lstat")
def lstat(session: Session) -> Samples:
    tree = session.fixtures.tree
    with session.mounted(tree) as mounted:
        session.chill()
        for heat in ("cold", "warm"):
            seconds = session.client(mounted, clients.lstat_all, tree.files)
            yield Sample(f"lstat, {heat}", seconds)


@workload("open")
def open_close(session: Session) -> Samples:
    tree = session.fixtures.tree
    with session.mounted(tree) as mounted:
        session.chill()
        for heat in ("cold", "warm"):
            seconds = session.client(mounted, clients.open_all, tree.files)
            yield Sample(f"open+close, {heat}", seconds)


@workload("read")
def read(session: Session) -> Samples:
    tree = session.fixtures.tree
    with session.mounted(tree) as mounted:
        session.chill()
        for heat in ("cold", "warm"):
            seconds = session.client(mounted, clients.read_all, tree.files, tree.bytes)
            yield Sample(f"read all, {heat}", seconds)


@workload("tar", tools=("tar",))
def tar(session: Session) -> Samples:
    # tar reads nothing when it recognises /dev/null as its archive; /dev/zero it fills.
    command = ("tar", "-cf", "/dev/zero", ".")
    with session.mounted(session.fixtures.tree) as mounted:
        session.chill()
        for heat in ("cold", "warm"):
            yield Sample(f"tar, {heat}", session.command(mounted, *command))


@workload("missing")
def missing(session: Session) -> Samples:
    tree = session.fixtures.tree
    with session.mounted(tree) as mounted:
        session.chill()
        for heat in ("cold", "warm"):
            seconds = session.client(mounted, clients.find_none, tree.missing)
            yield Sample(f"missing names, {heat}", seconds)


@workload("imports")
def imports(session: Session) -> Samples:
    stack = session.fixtures.modules
    modules = [name.removesuffix(".py").replace("/", ".") for name in stack.files]
    with session.mounted(stack) as mounted:
        session.chill()
        for heat in ("cold", "warm"):
            seconds = session.client(mounted, clients.import_all, modules)
            yield Sample(f"python imports, {heat}", seconds)
