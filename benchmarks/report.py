"""The report: the same tables for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.results import Key, Results
from benchmarks.targets import FUSE, KERNEL, OURS, Target, judge
from benchmarks.workloads import Unit

NOT_MEASURED = "-"
PLACEMENTS = {
    "same": "client and server on one CPU",
    "two": "client on one CPU, server on another",
}


class Table(NamedTuple):
    title: str
    header: list[str]
    rows: list[list[str]]


def tables(results: Results) -> Iterator[Table]:
    for placement in results.placements:
        where = PLACEMENTS[placement]
        rows = results.rows(scaling=False)
        if rows:
            yield Table(f"Medians; {where}", ["work", *results.peers], _medians(results, placement))
        for reference in (KERNEL, FUSE):
            if rows and reference in results.peers:
                others = [peer for peer in results.peers if peer != reference]
                lines = [
                    [
                        row,
                        *(_ratio(results.cost(row, placement, peer, reference)) for peer in others),
                    ]
                    for row in rows
                ]
                title = f"Cost as a multiple of {reference}'s (below 1 is better); {where}"
                yield Table(title, ["work", *others], lines)
        if scaling := _scaling(results, placement):
            yield Table(f"Scaling; {where}", ["work", "at", *results.peers], scaling)
        if OURS in results.peers and rows:
            yield Table(
                f"Targets; {where}",
                ["work", "target", "measured", "verdict"],
                _verdicts(results, placement),
            )


def as_text(results: Results) -> str:
    parts = [_summary(results)]
    for table in tables(results):
        lines = [table.header, *table.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
        parts.append(table.title)
        parts.extend(
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        parts.append("")
    return "\n".join(parts + _notes(results)) + "\n"


def as_markdown(results: Results, plots: list[str]) -> str:
    parts = [_summary(results)]
    parts.extend(f"![{name}]({name})\n" for name in plots)
    for table in tables(results):
        ruler = ["---"] + ["---:"] * (len(table.header) - 1)
        parts.extend([f"### {table.title}", ""])
        parts.extend("| " + " | ".join(line) + " |" for line in (table.header, ruler, *table.rows))
        parts.append("")
    parts.extend(f"* {note}" for note in _notes(results))
    return "\n".join(parts).rstrip() + "\n"


def _medians(results: Results, placement: str) -> list[list[str]]:
    return [
        [row, *(_cell(results, Key(row, None, placement, peer)) for peer in results.peers)]
        for row in results.rows(scaling=False)
    ]


def _scaling(results: Results, placement: str) -> list[list[str]]:
    return [
        [row, f"{at:,}", *(_cell(results, Key(row, at, placement, peer)) for peer in results.peers)]
        for row in results.rows(scaling=True)
        for at in sorted(
            {key.at for key in results.samples if key.row == row and key.at is not None}
        )
    ]


def _verdicts(results: Results, placement: str) -> list[list[str]]:
    words = {True: "met", False: "MISSED", None: "not measured"}
    lines = []
    for verdict in judge(results, placement):
        target = verdict.target
        if verdict.measured is None:
            measured = NOT_MEASURED
        elif target.kind == "limit":
            measured = quantity(verdict.measured, results.units[target.row])
        else:
            measured = _ratio(verdict.measured)
        lines.append([target.row, describe(target), measured, words[verdict.met]])
    return lines


def describe(target: Target) -> str:
    """A target in words, as in the table of targets."""
    mode = "" if target.subject == OURS else f"{target.subject}: "
    if target.kind == "limit":
        unit: Unit = "s" if target.bound < 1 else "B"
        return f"{mode}<= {quantity(target.bound, unit)}"
    if target.reference_row:
        return f"{mode}<= {target.bound:g}x its own {target.reference_row}"
    if target.kind == "cost":
        return f"{mode}<= {target.bound:g}x the cost of {target.reference}"
    return f"{mode}>= {target.bound:g}x the speed of {target.reference}"


def quantity(value: float, unit: Unit) -> str:
    """A value with three significant digits and a readable unit."""
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e-3, "ms")):
            if value >= factor:
                return f"{_digits(value / factor)} {name}"
        return f"{_digits(value / 1e-6)} us"
    if unit == "B":
        for factor, name in ((1e6, "MB"), (1e3, "kB")):
            if value >= factor:
                return f"{_digits(value / factor)} {name}"
        return f"{value:.0f} B"
    return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(results: Results, key: Key) -> str:
    median = results.medians.get(key)
    if median is None:
        return NOT_MEASURED
    return f"{quantity(median.value, results.units[key.row])} ±{median.spread:.0%}"


def _ratio(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.2f}x"


def _summary(results: Results) -> str:
    machine = results.machine
    settings = results.settings
    return (
        f"{machine['date']}: {machine['cpus']} CPUs, {machine['memory']}, "
        f"Linux {machine['kernel']}, {machine['filesystem']}, "
        f"load {machine['load before']} before the run. "
        f"Scale {settings['scale']}, medians of {settings['rounds']} interleaved rounds with half "
        f"their range; cold: {settings['cold']}.\n"
    )


def _notes(results: Results) -> list[str]:
    return [
        *(f"{name} did not take part: {reason}" for name, reason in results.left_out.items()),
        *(
            f"{peer} chose CPUs {sorted(cpus)} for its servers"
            for peer, cpus in results.strayed.items()
        ),
        *(
            f"{failure.peer} failed in {failure.workload} ({failure.placement}): "
            + failure.message.strip().splitlines()[-1]
            for failure in results.failures
        ),
    ]
