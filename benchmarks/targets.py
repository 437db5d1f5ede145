"""What unionfs promises to be, as data: every line is judged in every run that measures it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from benchmarks.results import Results

OURS, KERNEL, FUSE, PLAIN = "unionfs", "overlayfs", "fuse-overlayfs", "plain"


class Target(NamedTuple):
    row: str
    kind: Literal["cost", "speed", "limit"]
    """``cost``: at most ``bound`` times the reference's; ``speed``: at least ``bound`` times the
    reference's; ``limit``: at most ``bound`` in the row's own unit."""
    bound: float
    reference: str = ""
    subject: str = OURS
    reference_row: str = ""
    """Where it is not the same row."""


class Verdict(NamedTuple):
    target: Target
    measured: float | None
    """In the terms of the target; None if the run did not measure it."""

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        if self.target.kind == "speed":
            return self.measured >= self.target.bound
        return self.measured <= self.target.bound


def _cost(bound: float, *rows: str) -> list[Target]:
    return [Target(row, "cost", bound, KERNEL) for row in rows]


def _speed(bound: float, *rows: str) -> list[Target]:
    return [Target(row, "speed", bound, FUSE) for row in rows]


def _mode(
    mode: str, kind: Literal["cost", "speed"], bound: float, reference: str, *rows: str
) -> list[Target]:
    return [Target(row, kind, bound, reference, f"{OURS}-{mode}") for row in rows]


COPY_UP = ("append to lower files", "chown -R of lower files")
MANY_LAYERS = ("missing names, many layers", "look-ups, many layers")

USERS = ("", ", ordinary user")
STARTS = tuple(f"container start{user}" for user in USERS)
BUILDS = tuple(f"{work}{user}" for work in ("12-step build", "commit") for user in USERS)
MAPPED = ("start of a large image, new map", "start of a large image")

TARGETS: tuple[Target, ...] = (
    *_cost(
        1.1, "lstat, warm", "open+close, warm", "git status", "tar, warm", "python imports, warm"
    ),
    # Of these only open+close is made of nothing but opens.
    *_speed(5.0, "open+close, warm"),
    *_cost(1.5, "find -ls, cold"),
    *_speed(2.0, "find -ls, cold"),
    *_cost(2.5, "lstat, cold"),
    *_speed(1.5, "lstat, cold"),
    *_cost(2.2, "read all, cold"),
    *_cost(1.8, "tar, cold"),
    *_speed(2.0, "read all, cold", "tar, cold"),
    *_cost(3.0, "untar"),
    *_speed(1.3, "untar"),
    *_cost(2.0, "cp -a"),
    *_speed(1.3, "cp -a"),
    *_cost(2.0, "git add", "git commit"),
    *_speed(2.0, "git add", "git commit"),
    *_cost(2.8, "rm -rf, upper"),
    *_speed(2.0, "rm -rf, upper"),
    *_cost(2.5, "rm -rf, lower"),
    *_speed(3.0, "rm -rf, lower"),
    # Like durability with like: overlayfs syncs what it copies up, fuse-overlayfs does not.
    *_cost(1.0, *COPY_UP),
    *_mode("volatile", "cost", 1.0, "overlayfs-volatile", *COPY_UP),
    *_mode("volatile", "speed", 2.0, FUSE, *COPY_UP),
    *_cost(1.0, "missing names, many layers", "missing names, many layers, small directories"),
    *_cost(1.5, "look-ups, many layers", "look-ups, many layers, small directories"),
    *_speed(3.0, *MANY_LAYERS, *(f"{row}, small directories" for row in MANY_LAYERS)),
    *(
        Target(row, "cost", 1.3, OURS, reference_row=row.replace("many layers", "one layer"))
        for row in MANY_LAYERS
    ),
    *_mode(
        "passthrough",
        "speed",
        0.95,
        PLAIN,
        "sequential read, cold",
        "sequential write",
        "random read, 4 KiB",
    ),
    *_speed(1.2, "sequential read, cold"),
    *_speed(1.0, "sequential write", "random read, 4 KiB"),
    *(Target(row, "speed", 0.5, KERNEL) for row in ("dbench, 1 client", "dbench, 4 clients")),
    *_speed(2.0, "dbench, 1 client", "dbench, 4 clients"),
    *_cost(1.3, *STARTS),
    *_speed(1.0, *STARTS, *BUILDS),
    *_mode("mountd", "cost", 1.3, KERNEL, *STARTS),
    *_mode("mountd", "speed", 1.0, FUSE, *STARTS, *BUILDS),
    Target(MAPPED[0], "cost", 1.2, OURS, reference_row=MAPPED[1]),
    Target("mount to first answer", "limit", 0.060),
    Target("private memory at rest", "limit", 8e6),
    Target("private memory per node", "limit", 256),
    # Over io_uring instead of reading /dev/fuse: what reaches the server has to gain.
    *_mode("uring", "speed", 1.3, OURS, "find -ls, cold", "lstat, cold", "missing names, cold"),
    *_mode("uring", "speed", 1.3, OURS, "untar", "rm -rf, upper", "rm -rf, lower"),
)


def judge(results: Results, placement: str) -> list[Verdict]:
    return [Verdict(target, _measure(target, results, placement)) for target in TARGETS]


def _measure(target: Target, results: Results, placement: str) -> float | None:
    if target.kind == "limit":
        return results.value(target.row, placement, target.subject)
    cost = results.cost(
        target.row, placement, target.subject, target.reference, target.reference_row or None
    )
    return cost if cost is None or target.kind == "cost" else 1 / cost
