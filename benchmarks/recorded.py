"""The pictures of the documents, drawn from the record in docs/performance.md.

python -m benchmarks.recorded docs/performance.md docs/
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from benchmarks import plot
from benchmarks.results import Results
from benchmarks.workloads import Sample, Unit

#: What stands before the table that is read.
_TITLE: Final = "Medians, client and server on one CPU"
_CELL: Final = re.compile(r"([\d.,]+) (\S+) ±")
#: The unit that a row is measured in, and the factor, by the unit that the table shows.
_UNITS: Final[dict[str, tuple[Unit, float]]] = {
    "s": ("s", 1.0),
    "ms": ("s", 1e-3),
    "us": ("s", 1e-6),
    "MB": ("B", 1e6),
    "kB": ("B", 1e3),
    "B": ("B", 1.0),
    "MiB/s": ("MiB/s", 1.0),
    "op/s": ("op/s", 1.0),
}


def read(document: str) -> Results:
    """The medians of the first table behind the title; each counts as the only sample."""
    lines = document[document.index(_TITLE) :].splitlines()
    table = [line for line in lines if line.startswith("|")]
    results = Results({}, {}, placements=["same"])
    _, *results.peers = _cells(table[0])
    for line in table[2:]:
        row, *cells = _cells(line)
        if row == "work":
            break  # the next table
        for peer, cell in zip(results.peers, cells, strict=True):
            if (found := _CELL.match(cell)) is not None:
                unit, factor = _UNITS[found[2]]
                value = float(found[1].replace(",", "")) * factor
                results.add(Sample(row, value, unit), "same", peer)
    return results


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def main() -> None:
    document, directory = map(Path, sys.argv[1:])
    results = read(document.read_text())
    plot.draw(results, directory)
    plot.overview(results, directory / "overview.svg")


if __name__ == "__main__":
    main()
