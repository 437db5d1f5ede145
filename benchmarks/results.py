"""What a run found: every sample, and the medians the report is made of."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.workloads import MORE_IS_BETTER, Sample, Unit


class Key(NamedTuple):
    """One cell of the report."""

    row: str
    at: int | None
    placement: str
    peer: str


class Median(NamedTuple):
    value: float
    spread: float
    """Half the distance between the extremes, as a share of the median."""
    rounds: int


class Failure(NamedTuple):
    workload: str
    placement: str
    peer: str
    message: str


@dataclass
class Results:
    settings: dict[str, Any]
    machine: dict[str, str]
    peers: list[str] = field(default_factory=list)
    placements: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Peers and workloads that did not take part, and why."""
    strayed: dict[str, set[int]] = field(default_factory=dict)
    """Peers whose servers chose other CPUs than they were given, and which."""
    failures: list[Failure] = field(default_factory=list)
    units: dict[str, Unit] = field(default_factory=dict)
    """By row, in the order in which they were measured."""
    samples: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, sample: Sample, placement: str, peer: str) -> None:
        self.units.setdefault(sample.row, sample.unit)
        self.samples[Key(sample.row, sample.at, placement, peer)].append(sample.value)

    @cached_property
    def medians(self) -> dict[Key, Median]:
        """Computed once, when the run is over."""
        return {key: _median(values) for key, values in self.samples.items()}

    def value(self, row: str, placement: str, peer: str) -> float | None:
        median = self.medians.get(Key(row, None, placement, peer))
        return median.value if median else None

    def cost(
        self, row: str, placement: str, peer: str, reference: str, reference_row: str | None = None
    ) -> float | None:
        """How many times as expensive ``peer`` is: 2.0 is twice the time or half the throughput.

        None if one of the two was not measured.
        """
        mine = self.value(row, placement, peer)
        other = self.value(reference_row or row, placement, reference)
        if not mine or not other:
            return None
        return other / mine if self.units[row] in MORE_IS_BETTER else mine / other

    def rows(self, scaling: bool) -> list[str]:
        points = {key.row for key in self.samples if key.at is not None}
        return [row for row in self.units if (row in points) is scaling]

    def to_json(self) -> str:
        content = {
            "settings": self.settings,
            "machine": self.machine,
            "peers": self.peers,
            "left_out": self.left_out,
            "strayed": {peer: sorted(cpus) for peer, cpus in self.strayed.items()},
            "failures": [failure._asdict() for failure in self.failures],
            "samples": [
                {**key._asdict(), "unit": self.units[key.row], "values": values}
                for key, values in self.samples.items()
            ],
        }
        return json.dumps(content, indent=1) + "\n"


def _median(values: list[float]) -> Median:
    middle = statistics.median(values)
    spread = (max(values) - min(values)) / 2 / middle if middle else 0.0
    return Median(middle, spread, len(values))


def machine(directory: Path) -> dict[str, str]:
    """The machine in words that name nobody's: what a reader needs to judge a number."""
    information = Path("/proc/cpuinfo").read_text()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    mount = subprocess.run(
        ["findmnt", "-n", "-o", "FSTYPE", "-T", str(directory)], capture_output=True, text=True
    )
    virtual = re.search(r"^flags.*\bhypervisor\b", information, re.MULTILINE)
    return {
        "date": date.today().isoformat(),
        "cpus": f"{os.cpu_count()} {'virtual ' if virtual else ''}({platform.machine()})",
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": ".".join(platform.release().split(".")[:2]),
        "filesystem": mount.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }
