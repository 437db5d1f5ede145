"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path

from benchmarks import measure, plot, report
from benchmarks.peers import PEERS, io_uring_offered, mountd_running
from benchmarks.results import Results, machine
from benchmarks.runner import Runner
from benchmarks.scales import SCALES, Scale
from benchmarks.workloads import WORKLOADS, Workload

COLD = {
    "mount": (2, "fresh mount, no dentries and inodes cached, the branches' pages cached"),
    "disk": (3, "fresh mount, nothing cached"),
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure unionfs beside its peers. Needs root for kernel overlayfs and for "
        "dropping caches; without it both are left out and the report says so.",
        epilog="workloads: " + ", ".join(WORKLOADS) + ". peers: " + ", ".join(PEERS) + ".",
    )
    made.add_argument("--only", help="workloads: names or patterns, by commas")
    made.add_argument("--scaling", action="store_true", help="the scaling part as well")
    made.add_argument("--peers", default="*", help="peers: names or patterns, by commas")
    made.add_argument("--rounds", type=int, default=5, help="rounds of each workload (default 5)")
    made.add_argument("--scale", choices=sorted(SCALES), default="quick")
    made.add_argument("--placements", default="*", help="same, two (default: both)")
    made.add_argument("--cold", choices=sorted(COLD), default="mount", help="what cold means")
    made.add_argument(
        "--directory", type=Path, help="where the branches are made (default: temporary files)"
    )
    made.add_argument("--output", type=Path, help="where JSON, Markdown and SVG are written")
    return made


def select(patterns: str, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that a pattern matches, in their own order.

    Raises SystemExit if a pattern matches none: a typing error must not pass for a result.
    """
    wanted = patterns.split(",")
    for pattern in wanted:
        if not any(fnmatch(name, pattern) for name in names):
            sys.exit(f"benchmarks: nothing is called {pattern!r}: choose from {', '.join(names)}")
    return [name for name in names if any(fnmatch(name, pattern) for pattern in wanted)]


def chosen_workloads(only: str | None, scale: Scale, scaling: bool) -> list[Workload]:
    """Those that are named; without names all but the scaling part and what a scale leaves out."""
    if only is not None:
        return [WORKLOADS[name] for name in select(only, list(WORKLOADS))]
    return [
        workload
        for workload in WORKLOADS.values()
        if (scaling or not workload.scaling) and workload.name not in scale.leaves_out
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.rounds < 1:
        sys.exit("benchmarks: --rounds must be at least 1")
    scale = SCALES[options.scale]
    workloads = chosen_workloads(options.only, scale, options.scaling)
    candidates = [PEERS[name] for name in select(options.peers, list(PEERS))]
    places = {place.name: place for place in measure.placements()}
    placements = [places[name] for name in select(options.placements, list(places))]
    drop, cold = COLD[options.cold]
    if os.geteuid() != 0:
        drop, cold = 0, "fresh mount, caches not dropped (needs root)"

    # Killed, it leaves no mount behind either.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    directory = Path(tempfile.mkdtemp(prefix="unionfs-benchmarks-", dir=options.directory))
    directory.chmod(0o755)  # engines run as an ordinary user too
    settings = {"scale": options.scale, "rounds": options.rounds, "cold": cold}
    results = Results(settings, machine(directory))
    runner = Runner(directory, scale, placements, options.rounds, drop, results)
    try:
        with io_uring_offered(), mountd_running(), closing(runner):
            runner.admit(candidates)
            for number, workload in enumerate(workloads, 1):
                started = time.monotonic()
                runner.run(workload)
                took = f"{workload.name} took {time.monotonic() - started:.0f} s"
                print(f"[{number}/{len(workloads)}] {took}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(directory)
    print(report.as_text(results), end="")
    if options.output:
        write(results, options.output)
    return 0


def write(results: Results, output: Path) -> None:
    """Write ``results.json``, ``results.md`` and the pictures into the directory ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(results.to_json())
    try:
        plots = plot.draw(results, output)
    except ImportError as error:
        print(f"benchmarks: no pictures ({error}); install the extra 'bench'", file=sys.stderr)
        plots = []
    (output / "results.md").write_text(report.as_markdown(results, plots))


if __name__ == "__main__":
    sys.exit(main())
