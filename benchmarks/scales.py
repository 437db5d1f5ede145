"""How large the workloads are. A ratio is only comparable with one taken at the same scale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Sizes of every workload; counts are files unless a field says otherwise."""

    name: str
    tree: int
    """Files that are walked, looked up, read and packed."""
    changed: int
    """Files that are unpacked, removed, appended to, given another owner, committed."""
    modules: int
    """Python modules that are imported."""
    sources: int
    """C files that are compiled."""
    data_mib: int
    """Size of the one large file, in MiB."""
    dbench_seconds: int
    layers: int
    """Lower branches of the many-layers workload."""
    nodes: int
    """Files looked up to learn what a node costs in memory."""
    image: int
    """Files in the image whose container is committed."""
    scaling_layers: tuple[int, ...]
    scaling_files: tuple[int, ...]
    scaling_directory: tuple[int, ...]
    scaling_clients: tuple[int, ...]
    scaling_mounts: tuple[int, ...]
    leaves_out: frozenset[str] = frozenset()
    """Workloads that run at this scale only when they are named."""


TINY = Scale(
    name="tiny",
    tree=60,
    changed=30,
    modules=12,
    sources=2,
    data_mib=2,
    dbench_seconds=2,
    layers=4,
    nodes=60,
    image=60,
    scaling_layers=(1, 3),
    scaling_files=(20, 40),
    scaling_directory=(20, 40),
    scaling_clients=(1, 2),
    scaling_mounts=(1, 3),
)

QUICK = Scale(
    name="quick",
    tree=4_000,
    changed=1_000,
    modules=200,
    sources=4,
    data_mib=128,
    dbench_seconds=2,
    layers=128,
    nodes=10_000,
    image=5_000,
    scaling_layers=(1, 8, 32, 128),
    scaling_files=(1_000, 10_000),
    scaling_directory=(1_000, 10_000),
    scaling_clients=(1, 2, 4),
    scaling_mounts=(1, 10, 50),
    # It says nothing before two seconds: a third of the time all others take together.
    leaves_out=frozenset({"dbench"}),
)

FULL = Scale(
    name="full",
    tree=60_000,
    changed=10_000,
    modules=1_000,
    sources=40,
    data_mib=1024,
    dbench_seconds=10,
    layers=128,
    nodes=100_000,
    image=50_000,
    scaling_layers=(1, 8, 32, 128, 500),
    scaling_files=(10_000, 100_000, 1_000_000),
    scaling_directory=(1_000, 10_000, 100_000),
    scaling_clients=(1, 2, 4, 8, 16),
    scaling_mounts=(1, 10, 100, 500),
)

SCALES = {scale.name: scale for scale in (TINY, QUICK, FULL)}
