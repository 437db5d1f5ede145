"""Many lower branches: look-ups that have to find one of them, or none."""

from __future__ import annotations

from benchmarks.session import Session
from benchmarks.workloads import clients
from benchmarks.workloads.registry import Sample, Samples, workload

IN_DIRECTORY = {"": 500, ", small directories": 25}
"""Names in a directory: how often an index of the directory is used after it was built."""


@workload("layers")
def layers(session: Session) -> Samples:
    """The same files spread over many layers and in one, so that each peer is its own reference."""
    for size, in_directory in IN_DIRECTORY.items():
        for count, label in ((session.scale.layers, "many layers"), (1, "one layer")):
            stack = session.fixtures.layers(count, in_directory)
            for row, function, names in (
                ("look-ups", clients.lstat_all, stack.files),
                ("missing names", clients.find_none, stack.missing),
            ):
                with session.mounted(stack) as mounted:
                    session.chill()
                    seconds = session.client(mounted, function, names)
                    yield Sample(f"{row}, {label}{size}", seconds)
