"""Creating and removing in the upper, and hiding what is in a lower."""

from __future__ import annotations

import os

from benchmarks.session import Session
from benchmarks.workloads.registry import Sample, Samples, workload


@workload("untar", tools=("tar", "rm"))
def untar(session: Session) -> Samples:
    archive = str(session.fixtures.archive)
    with session.mounted(session.fixtures.small, changes=True) as mounted:
        yield Sample("untar", session.command(mounted, "tar", "-xf", archive))
        os.sync()
        yield Sample("rm -rf, upper", session.command(mounted, "rm", "-rf", "tree"))


@workload("cp", tools=("cp",))
def cp(session: Session) -> Samples:
    with session.mounted(session.fixtures.changed, changes=True) as mounted:
        os.mkdir(mounted.path / "copy")
        sources = sorted(name for name in os.listdir(mounted.path) if name != "copy")
        yield Sample("cp -a", session.command(mounted, "cp", "-a", *sources, "copy"))


@workload("rm-lower", changes_lower=True, tools=("rm",))
def rm_lower(session: Session) -> Samples:
    with session.mounted(session.fixtures.changed, changes=True) as mounted:
        names = sorted(os.listdir(mounted.path))
        yield Sample("rm -rf, lower", session.command(mounted, "rm", "-rf", *names))
