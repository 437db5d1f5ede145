"""Bulk data: one large file in sequence and at random, and dbench's mixed load."""

from __future__ import annotations

import json
import os
import re

from benchmarks.peers import Mounted
from benchmarks.session import Session
from benchmarks.workloads import clients
from benchmarks.workloads.registry import Sample, Samples, workload

MIB = 1 << 20


@workload("sequential")
def sequential(session: Session) -> Samples:
    """The branch's own pages are cached before the cold read, so that no disk is measured."""
    stack = session.fixtures.data
    mebibytes = stack.bytes / MIB
    session.warm(stack)
    with session.mounted(stack) as mounted:
        session.chill()
        for heat in ("cold", "warm"):
            seconds = session.client(mounted, clients.read_file, "data", stack.bytes)
            yield Sample(f"sequential read, {heat}", mebibytes / seconds, "MiB/s")
    with session.mounted(session.fixtures.small, changes=True) as mounted:
        block = os.urandom(MIB)
        count = stack.bytes // MIB
        seconds = session.client(mounted, clients.write_file, "new", block, count)
        yield Sample("sequential write", mebibytes / seconds, "MiB/s")
        os.unlink(mounted.path / "new")  # directories are removed later, the disk is needed now


@workload("random", tools=("fio",))
def random(session: Session) -> Samples:
    stack = session.fixtures.data
    session.warm(stack)
    with session.mounted(stack) as mounted:
        yield Sample("random read, 4 KiB", _fio(session, mounted, "read", "data"), "op/s")
    with session.mounted(session.fixtures.small, changes=True) as mounted:
        session.client(mounted, clients.write_file, "new", bytes(MIB), stack.bytes // MIB)
        os.sync()
        yield Sample("random write, 4 KiB", _fio(session, mounted, "write", "new"), "op/s")
        os.unlink(mounted.path / "new")


def _fio(session: Session, mounted: Mounted, kind: str, name: str) -> float:
    """Operations a second over a quarter of the file, each block at most once."""
    said = session.output(
        mounted,
        "fio",
        "--name=bench",
        f"--filename={name}",
        f"--rw=rand{kind}",
        "--bs=4k",
        "--ioengine=psync",
        f"--io_size={session.scale.data_mib // 4 or 1}m",
        "--invalidate=0",  # fio would drop the plain file's pages, but not those below a union
        "--allow_file_create=0",
        "--randseed=1",
        "--output-format=json",
    )
    return float(json.loads(said)["jobs"][0][kind]["iops"])


@workload("dbench", tools=("dbench",))
def dbench(session: Session) -> Samples:
    for clients_ in (1, 4):
        with session.mounted(session.fixtures.small, changes=True) as mounted:
            seconds = str(session.scale.dbench_seconds)
            said = session.output(mounted, "dbench", "-t", seconds, "-D", ".", str(clients_))
            found = re.search(r"^Throughput ([\d.]+) MB/sec", said, re.MULTILINE)
            if found is None:
                raise ValueError(f"dbench named no throughput: {said[-300:]}")
            label = "1 client" if clients_ == 1 else f"{clients_} clients"
            yield Sample(f"dbench, {label}", float(found[1]), "MiB/s")
