"""Many lower branches: look-ups that have to find one of them, or none."""

from __future__ import annotations

from benchmarks.session import Session
from benchmarks.workloads import clients
from benchmarks.workloads.registry import Sample, Samples, workload


@workload("layers")
def layers(session: Session) -> Samples:
    """The same files spread over many layers and in one, so that each peer is its own reference."""
    for count in (session.scale.layers, 1):
        stack = session.fixtures.layers(count)
        label = "many layers" if count > 1 else "one layer"
        for row, function, names in (
            ("look-ups", clients.lstat_all, stack.files),
            ("missing names", clients.find_none, stack.missing),
        ):
            with session.mounted(stack) as mounted:
                session.chill()
                yield Sample(f"{row}, {label}", session.client(mounted, function, names))
