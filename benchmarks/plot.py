"""The pictures; matplotlib is needed for nothing else (optional extra ``bench``)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import PLACEMENTS
from benchmarks.results import Key, Results
from benchmarks.targets import FUSE, KERNEL, OURS

#: What the overview shows: won and lost alike, and what each is.
OVERVIEW = {
    "look-ups, many layers": "look-ups in 128 layers",
    "rm -rf, lower": "rm -rf of lower files",
    "open+close, warm": "open and close, warm",
    "tar, cold": "tar of small files, cold",
    "untar": "untar of small files",
    "sequential read, cold": "read a large file, cold",
}

MARKERS = "osD^vP*Xhp"


def draw(results: Results, directory: Path) -> list[str]:
    """Write ``comparison.svg`` and ``scaling.svg``, as far as there is something to show.

    Returns their names. Raises ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "unionfs", "svg.fonttype": "none", "font.size": 9})
    written = []
    if results.rows(scaling=False) and KERNEL in results.peers:
        _comparison(results, directory / "comparison.svg")
        written.append("comparison.svg")
    if results.rows(scaling=True):
        _scaling(results, directory / "scaling.svg")
        written.append("scaling.svg")
    return written


def _comparison(results: Results, path: Path) -> None:
    """One line for each workload, one mark for each peer: its cost against kernel overlayfs."""
    from matplotlib import pyplot

    rows = [
        row
        for row in results.rows(scaling=False)
        if any(results.cost(row, where, KERNEL, KERNEL) for where in results.placements)
    ]
    figure, panels = pyplot.subplots(
        1,
        len(results.placements),
        sharey=True,
        squeeze=False,
        figsize=(9 * len(results.placements), 1.5 + 0.32 * len(rows)),
        layout="constrained",
    )
    for panel, placement in zip(panels[0], results.placements, strict=True):
        for number, peer in enumerate(results.peers):
            costs = [results.cost(row, placement, peer, KERNEL) for row in rows]
            shown = [(cost, place) for place, cost in enumerate(costs) if cost is not None]
            if shown and peer != KERNEL:
                panel.scatter(*zip(*shown, strict=True), s=26, **_style(number, peer))
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_xscale("log")
        panel.grid(alpha=0.3)
        panel.set_title(PLACEMENTS[placement])
        panel.set_xlabel("cost as a multiple of kernel overlayfs's: left is better")
    panels[0][0].set_yticks(range(len(rows)), rows)
    panels[0][0].invert_yaxis()
    marks = panels[0][-1].get_legend_handles_labels()
    figure.legend(*marks, loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def overview(results: Results, path: Path) -> None:
    """Six bars: what work costs beside fuse-overlayfs, and a mark for kernel overlayfs."""
    from matplotlib import pyplot

    bars = {label: results.cost(row, "same", OURS, FUSE) for row, label in OVERVIEW.items()}
    kernel = {label: results.cost(row, "same", KERNEL, FUSE) for row, label in OVERVIEW.items()}
    known = {label: cost for label, cost in bars.items() if cost is not None}
    figure, panel = pyplot.subplots(figsize=(8, 3), layout="constrained")
    panel.barh(list(known), list(known.values()), height=0.6, label="unionfs")
    for place, cost in enumerate(known.values()):
        panel.text(1.24, place, f"{cost:.2f}", ha="right", va="center")
    marks = {label: cost for label, cost in kernel.items() if cost is not None}
    panel.scatter(
        list(marks.values()), list(marks), marker="|", s=260, linewidths=2.5, color="C1",
        label="kernel overlayfs", zorder=3,
    )  # fmt: skip
    panel.axvline(1, color="black", linewidth=1, label="fuse-overlayfs = 1")
    panel.set_xlim(0, 1.25)
    panel.invert_yaxis()
    panel.set_xlabel("cost as a multiple of fuse-overlayfs's: left is better")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _style(number: int, peer: str) -> dict[str, str]:
    """A peer looks the same in every panel."""
    return {"label": peer, "marker": MARKERS[number % len(MARKERS)], "color": f"C{number % 10}"}


def _scaling(results: Results, path: Path) -> None:
    """A panel for each series and placement, two beside each other; a line for each peer."""
    from matplotlib import pyplot

    shown = [
        (row, placement) for row in results.rows(scaling=True) for placement in results.placements
    ]
    columns = 2
    figure, panels = pyplot.subplots(
        -(-len(shown) // columns),
        columns,
        squeeze=False,
        figsize=(5 * columns, 3 * -(-len(shown) // columns)),
        layout="constrained",
    )
    for panel in panels.flat[len(shown) :]:
        panel.set_axis_off()
    for panel, (row, placement) in zip(panels.flat, shown, strict=False):
        points = sorted(
            {key.at for key in results.samples if key.row == row and key.at is not None}
        )
        for number, peer in enumerate(results.peers):
            keys = [Key(row, at, placement, peer) for at in points]
            known = [key for key in keys if key in results.medians]
            if known:
                values = [results.medians[key].value for key in known]
                at = [key.at for key in known]
                panel.plot(at, values, markersize=4, **_style(number, peer))
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.grid(alpha=0.3)
        panel.set_title(f"{row}; {PLACEMENTS[placement]}", fontsize=8)
        panel.set_xlabel(row.rpartition("by ")[2])
        panel.set_ylabel(results.units[row])
    panels[0][0].legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
