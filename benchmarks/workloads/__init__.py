"""The workloads, one module for each group; importing them registers them in `WORKLOADS`."""

from __future__ import annotations

# Not sorted: they run in this order.
# isort: off
from benchmarks.workloads import starting as starting
from benchmarks.workloads import walking as walking
from benchmarks.workloads import layers as layers
from benchmarks.workloads import changing as changing
from benchmarks.workloads import copying_up as copying_up
from benchmarks.workloads import projects as projects
from benchmarks.workloads import data as data
from benchmarks.workloads import containers as containers
from benchmarks.workloads import scaling as scaling
from benchmarks.workloads.registry import MORE_IS_BETTER as MORE_IS_BETTER
from benchmarks.workloads.registry import WORKLOADS as WORKLOADS
from benchmarks.workloads.registry import Sample as Sample
from benchmarks.workloads.registry import Unit as Unit
from benchmarks.workloads.registry import Workload as Workload
