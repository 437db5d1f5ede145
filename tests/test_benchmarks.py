"""The benchmarks measure what they say: every workload on a plain directory, at a tiny scale.

No test here looks at how long something took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import measure, peers, plot, recorded, report
from benchmarks.fixtures import Fixtures
from benchmarks.measure import ClientError, Placement
from benchmarks.peers import PEERS, Mounted, Peer, unavailable
from benchmarks.results import Results
from benchmarks.runner import Runner, rotated
from benchmarks.scales import QUICK, TINY
from benchmarks.targets import BUILDS, MAPPED, OURS, STARTS, TARGETS, judge
from benchmarks.workloads import WORKLOADS, Sample, clients
from tests.conftest import OrdinaryUser
from tests.mounted.harness import needs_root

# Clients are forked; Python 3.12 warns when any other thread runs, such as faulthandler's.
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

MACHINE = dict.fromkeys(
    ("date", "cpus", "memory", "kernel", "filesystem", "load before"), "unknown"
)
SETTINGS = {"scale": "tiny", "rounds": 1, "cold": "fresh mount"}
CONTAINERS = {name for name in WORKLOADS if name.startswith("container-")}
OF_A_UNION_ONLY = {"start", "nodes", "scaling-mounts", *CONTAINERS}
ROOT = Path(__file__).parents[1]


def test_the_pictures_of_the_documents_come_from_the_record() -> None:
    document = Path(__file__).parent.parent / "docs" / "performance.md"
    results = recorded.read(document.read_text())
    for row in plot.OVERVIEW:
        assert results.cost(row, "same", "unionfs", "fuse-overlayfs"), row
        assert results.cost(row, "same", "overlayfs", "fuse-overlayfs"), row
    assert results.value("sequential read, cold", "same", "unionfs") == 1607
    assert results.value("tar, cold", "same", "unionfs") == pytest.approx(0.132)


def results(**samples: dict[str, float]) -> Results:
    """Results of one placement from ``peer={row: seconds}``; ``_`` in a peer's name is ``-``."""
    made = Results(SETTINGS, MACHINE, placements=["same"])
    for name, values in samples.items():
        peer = name.replace("_", "-")
        made.peers.append(peer)
        for row, value in values.items():
            made.add(Sample(row, value), "same", peer)
    return made


@pytest.fixture
def here() -> Placement:
    cpu = min(os.sched_getaffinity(0))
    return Placement("same", cpu, cpu)


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Results]:
    """Two rounds of a workload on a plain directory, once for all tests that ask."""
    cpu = min(os.sched_getaffinity(0))

    @cache
    def run(name: str) -> Results:
        directory = tmp_path_factory.mktemp(name)
        found = Results(SETTINGS, MACHINE)
        runner = Runner(directory, TINY, [Placement("same", cpu, cpu)], 2, 0, found)
        runner.admit([PEERS["plain"]])
        runner.run(WORKLOADS[name])
        left = [path.name for path in directory.iterdir() if path.name != "fixtures"]
        assert left == [], "the rounds' directories are removed"
        return found

    return run


@pytest.mark.parametrize(("warned_of", "takes_part"), [("second", False), ("other", True)])
def test_a_mode_that_is_passed_over_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned_of: str, takes_part: bool
) -> None:
    said = f"warning: unknown option {warned_of} ignored"
    monkeypatch.setattr(peers, "mount", lambda *_: Mounted(tmp_path, [], 0.0, said))
    monkeypatch.setattr(peers, "unmount", lambda _: None)
    peer = Peer("peer", lambda *_: [], "first,second=value")
    assert unavailable(peer, tmp_path / "trial") == (None if takes_part else said)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_workload_on_a_plain_directory(name: str, run_once: Callable[[str], Results]) -> None:
    workload = WORKLOADS[name]
    if missing := workload.missing_tools():
        pytest.skip(f"{', '.join(missing)} not installed")
    found = run_once(name)
    assert found.failures == []
    assert bool(found.samples) is (name not in OF_A_UNION_ONLY)
    for key, values in found.samples.items():
        assert len(values) == 2, key
        assert min(values) > 0, key
        assert (key.at is not None) is workload.scaling, key


@pytest.mark.slow
def test_every_target_is_measured(run_once: Callable[[str], Results]) -> None:
    if missing := {tool for w in WORKLOADS.values() for tool in w.missing_tools()}:
        pytest.skip(f"{', '.join(missing)} not installed")
    rows = {row for name in WORKLOADS for row in run_once(name).units}
    limits = {target.row for target in TARGETS if target.kind == "limit"}
    wanted = {row for target in TARGETS for row in (target.row, target.reference_row) if row}
    assert wanted - limits - {*STARTS, *BUILDS, *MAPPED} <= rows


@pytest.mark.parametrize("name", ["small", "changed", "modules", "sources", "repository", "data"])
def test_fixture_has_the_files_it_names(name: str, tmp_path: Path) -> None:
    stack = getattr(Fixtures(tmp_path / "fixtures", TINY), name)
    assert all((stack.merged / file).is_file() for file in stack.files)
    if stack.bytes:
        assert sum((stack.merged / file).stat().st_size for file in stack.files) == stack.bytes


def test_layers_spread_the_same_files(tmp_path: Path) -> None:
    fixtures = Fixtures(tmp_path / "fixtures", TINY)
    one, many = fixtures.layers(1, 10), fixtures.layers(3, 10)
    assert one.files == many.files
    assert one.bytes == many.bytes
    for name in many.files:
        owners = [lower for lower in many.lowers if (lower / name).exists()]
        assert len(owners) == 1
        assert (many.merged / name).read_bytes() == (owners[0] / name).read_bytes()


def test_clients_start_together_and_in_the_directory(tmp_path: Path) -> None:
    def leave_a_mark(name: str) -> None:
        Path(name).touch(exist_ok=False)

    assert measure.clients(tmp_path, leave_a_mark, [("a",), ("b",), ("c",)]) > 0
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_failing_client_is_reported_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(ClientError, match="there exists"):
        measure.client(tmp_path, clients.find_none, ["not there", "there"])
    with pytest.raises(ClientError, match="read 0 bytes of 1"):
        measure.client(tmp_path, clients.read_all, ["there"], 1)


def test_failing_command_is_reported_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="nowhere"):
        measure.command(["ls", "nowhere"], tmp_path)
    with pytest.raises(ClientError):
        measure.command(["no-such-command"], tmp_path)


def test_pinned_restores_the_affinity(here: Placement) -> None:
    before = os.sched_getaffinity(0)
    with measure.pinned(here.client):
        assert os.sched_getaffinity(0) == {here.client}
    assert os.sched_getaffinity(0) == before


def test_each_peer_is_first_in_some_round() -> None:
    peers = list(PEERS.values())
    rounds = [rotated(peers, number) for number in range(len(peers))]
    assert [order[0] for order in rounds] == peers
    assert all(sorted(order, key=peers.index) == peers for order in rounds)


def test_median_and_cost() -> None:
    found = results(overlayfs={"tar": 2.0}, unionfs={"tar": 3.0})
    found.add(Sample("tar", 30.0), "same", "unionfs")
    found.add(Sample("tar", 5.0), "same", "unionfs")
    assert found.value("tar", "same", "unionfs") == 5.0
    assert found.cost("tar", "same", "unionfs", "overlayfs") == 2.5
    assert found.cost("tar", "same", "unionfs", "mergerfs") is None


def test_more_throughput_costs_less() -> None:
    found = Results(SETTINGS, MACHINE)
    found.add(Sample("dbench", 100.0, "MiB/s"), "same", "overlayfs")
    found.add(Sample("dbench", 50.0, "MiB/s"), "same", "unionfs")
    assert found.cost("dbench", "same", "unionfs", "overlayfs") == 2.0


@pytest.mark.parametrize(
    ("row", "reference", "measured", "met"),
    [
        ("untar", "overlayfs", 3.0, True),
        ("untar", "overlayfs", 3.1, False),
        ("untar", "fuse-overlayfs", 1 / 1.3, True),
        ("untar", "fuse-overlayfs", 0.8, False),
    ],
)
def test_target_is_judged(row: str, reference: str, measured: float, met: bool) -> None:
    found = results(**{reference: {row: 1.0}, OURS: {row: measured}})
    (verdict,) = [
        verdict
        for verdict in judge(found, "same")
        if (verdict.target.row, verdict.target.reference) == (row, reference)
    ]
    assert verdict.met is met


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {verdict.met for verdict in judge(results(), "same")} == {None}


def test_limit_is_judged_without_a_reference() -> None:
    found = results(unionfs={"mount to first answer": 0.061})
    (verdict,) = [verdict for verdict in judge(found, "same") if verdict.measured is not None]
    assert verdict.target.kind == "limit"
    assert verdict.met is False


def test_reports_say_the_same_in_both_forms(tmp_path: Path) -> None:
    found = results(
        overlayfs={"untar": 0.010}, fuse_overlayfs={"untar": 0.020}, unionfs={"untar": 0.040}
    )
    found.left_out["mergerfs"] = "not found"
    text, markdown = report.as_text(found), report.as_markdown(found, [])
    for said in ("40 ms", "4.00x", "MISSED", "mergerfs did not take part: not found"):
        assert said in text
        assert said in markdown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.234, "s", "1.23 s"),
        (0.0421, "s", "42.1 ms"),
        (0.0000042, "s", "4.2 us"),
        (250.0, "B", "250 B"),
        (8e6, "B", "8 MB"),
        (12345.6, "op/s", "12,346 op/s"),
    ],
)
def test_quantity(value: float, unit: str, text: str) -> None:
    assert report.quantity(value, unit) == text  # type: ignore[arg-type]


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'bench' is not installed")
    found = results(overlayfs={"untar": 0.010}, unionfs={"untar": 0.040})
    found.add(Sample("look-up, by layers", 1e-5, "s", 1), "same", "unionfs")
    found.add(Sample("look-up, by layers", 2e-5, "s", 128), "same", "unionfs")
    assert plot.draw(found, tmp_path) == ["comparison.svg", "scaling.svg"]
    assert "</svg>" in (tmp_path / "comparison.svg").read_text()


def test_unknown_name_on_the_command_line_ends_it() -> None:
    with pytest.raises(SystemExit, match="lstta"):
        command.main(["--only", "lstta"])


def test_selection() -> None:
    assert command.select("git*,lstat", ["lstat", "git", "git-x", "tar"]) == [
        "lstat",
        "git",
        "git-x",
    ]
    default = {workload.name for workload in command.chosen_workloads(None, QUICK, False)}
    assert default == {
        name for name in WORKLOADS if name != "dbench" and not WORKLOADS[name].scaling
    }
    assert [w.name for w in command.chosen_workloads("dbench", QUICK, False)] == ["dbench"]


def test_command_with_a_fuse_peer(tmp_path: Path) -> None:
    """In a process of its own: it adopts orphans, and would adopt those of other tests here."""
    selection = ["--only", "start,nodes,untar,scaling-mounts", "--peers", "plain,fuse-overlayfs"]
    places = ["--directory", str(tmp_path), "--output", str(tmp_path / "output")]
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "--scale=tiny", "--rounds=2", *selection, *places],
        cwd=ROOT,
        check=True,
        timeout=100,
    )
    content = json.loads((tmp_path / "output" / "results.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    assert "## " in (tmp_path / "output" / "results.md").read_text()
    if reason := content["left_out"].get("fuse-overlayfs"):
        pytest.skip(f"fuse-overlayfs cannot be mounted here: {reason}")
    assert content["failures"] == []
    rows = {sample["row"] for sample in content["samples"] if sample["peer"] == "fuse-overlayfs"}
    assert {"mount to first answer", "private memory at rest", "untar"} <= rows
    assert {"mount to first answer, by mounts", "private memory at rest, by mounts"} <= rows


@pytest.mark.slow(reason="engines start and build containers as root and as a user")
@pytest.mark.container
@needs_root
@pytest.mark.timeout(280)
def test_containers_are_measured(tmp_path: Path, ordinary_user: OrdinaryUser) -> None:
    """Every row that has a target, as root and as an ordinary user, and nothing stays behind."""
    if missing := {tool for name in CONTAINERS for tool in WORKLOADS[name].missing_tools()}:
        pytest.skip(f"{', '.join(missing)} not installed")
    place = ordinary_user.home
    place.chmod(0o755)  # for the bed's user, who is another one
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--scale=tiny", "--rounds=1"),
            *("--only=container-*", "--peers=plain,unionfs", "--placements=same"),
            *(f"--directory={place}", f"--output={tmp_path}"),
        ],
        cwd=ROOT,
        check=True,
        timeout=270,
    )
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["failures"] == []
    assert {sample["row"] for sample in content["samples"]} == {*STARTS, *BUILDS, *MAPPED}
    assert list(place.iterdir()) == []
