"""What a workload is: a generator of samples over one `Session`.

Samples are yielded as they are taken, so what was measured before a failure stays measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from benchmarks.session import Session

Unit = Literal["s", "MiB/s", "op/s", "B"]
MORE_IS_BETTER: frozenset[Unit] = frozenset({"MiB/s", "op/s"})


class Sample(NamedTuple):
    row: str
    """What was measured, the same words for every peer: the row in the report."""
    value: float
    unit: Unit = "s"
    at: int | None = None
    """Where on the axis of a scaling plot; None outside of the scaling part."""


Samples = Generator[Sample, None, None]
Measure = Callable[[Session], Samples]


@dataclass(frozen=True)
class Workload:
    name: str
    measure: Measure
    changes_lower: bool
    """Peers that cannot copy up sit it out."""
    starts: bool
    """Measures the start of mounts: for peers that differ only in that."""
    tools: tuple[str, ...]
    scaling: bool

    def missing_tools(self) -> list[str]:
        return [tool for tool in self.tools if shutil.which(tool) is None]


WORKLOADS: dict[str, Workload] = {}
"""By name, in the order in which they run."""


def workload(
    name: str,
    *,
    changes_lower: bool = False,
    starts: bool = False,
    tools: tuple[str, ...] = (),
    scaling: bool = False,
) -> Callable[[Measure], Measure]:
    """Register a generator as the workload ``name`` of the command line."""

    def register(measure: Measure) -> Measure:
        WORKLOADS[name] = Workload(name, measure, changes_lower, starts, tools, scaling)
        return measure

    return register
