"""Two lanes of tests, the table of what took how long, and the seed of the random tests."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import seeds
from tests.times import SLOW_SECONDS, Time, Times, table
from tools import lanes

ROOT = Path(__file__).parent.parent


def shell(script: str) -> lanes.Command:
    return ("bash", "-c", script)


def test_every_test_is_in_one_lane() -> None:
    """The lane that computes ignores what the other one runs, and nothing else."""
    computes, waits = ([*commands][-1] for commands in lanes.lanes().values())
    assert [word for word in waits if word.startswith("tests")] == [*lanes.WAITING]
    ignored = [word.removeprefix("--ignore=") for word in computes if "ignore" in word]
    assert ignored == [*lanes.WAITING]
    assert not [word for word in computes if word.startswith("tests")]
    assert all((ROOT / directory).is_dir() for directory in lanes.WAITING)


def test_lanes_run_side_by_side_and_are_shown_one_after_the_other(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    meet = f"{shlex.quote(str(tmp_path))}/{{}}; while ! [ -e {shlex.quote(str(tmp_path))}/{{}} ]"
    wait = "touch " + meet + "; do sleep 0.01; done; echo {}"
    commands = {
        "one": [shell("echo first; exit 3"), shell(wait.format("a", "b", "second"))],
        "two": [shell(wait.format("b", "a", "third")), shell("echo fourth; exit 1")],
    }
    one, two = lanes.run(commands, tmp_path)
    shown = capfdbinary.readouterr().out.decode().splitlines()
    said = [line for line in shown if not line.startswith("== ")]
    assert said == ["first", "second", "third", "fourth"]
    assert one.failed == [commands["one"][0]]
    assert two.failed == [commands["two"][1]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_both_lanes(tmp_path: Path, number: signal.Signals) -> None:
    """Each is asked as Ctrl-C asks, once, and nothing comes after it."""
    program = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tools import lanes
wait = "trap 'echo asked; exit 1' INT; echo $$; while :; do sleep 0.01; done"
again = ("bash", "-c", "echo again")
lanes.run({{lane: [("bash", "-c", wait), again] for lane in "ab"}}, Path({str(tmp_path)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    while not all(
        (tmp_path / f"{lane}.log").exists()
        and len((tmp_path / f"{lane}.log").read_text().splitlines()) == 2
        for lane in "ab"
    ):
        assert process.poll() is None
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert said.count("\nasked") == 2, said
    assert said.count("again") == 0


def test_table_of_times() -> None:
    times = Times()
    times.tests = {
        "tests/a/test_x.py::test_one": Time(1.0),
        "tests/a/test_y.py::test_two[a/b]": Time(SLOW_SECONDS + 1.0),
        "tests/test_z.py::test_three": Time(SLOW_SECONDS + 2.0, "waits for the disk"),
    }
    assert list(table(times)) == [
        "   17.0  tests/a, 2 tests",
        "   17.0  tests, 1 tests",
        "   34.0  together",
        "   17.0  tests/test_z.py::test_three: waits for the disk",
        "   16.0  tests/a/test_y.py::test_two[a/b]: slow without a reason",
    ]


def test_two_runs_in_one_table(tmp_path: Path) -> None:
    """What a run stores is what it measured; its seed is the one it was given."""
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.slow(reason='because')\n"
        "def test_first(chance): print(chance.random())\n"
        "@pytest.mark.long\n"
        "def test_search(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "--rootdir", ROOT]
    command += ["-c", ROOT / "pyproject.toml", "-p", "tests.conftest", tmp_path]
    said = []
    for number, arguments in enumerate((["--hypothesis-seed=7"], ["--hypothesis-seed=7"], [])):
        file = tmp_path / f"{number}.json"
        done = subprocess.run(
            [*command, f"--times={file}", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        ((test, stored),) = json.loads(file.read_text()).items()
        assert test.endswith("::test_first")
        assert stored["reason"] == "because"
        assert stored["seconds"] > 0
        assert "1 deselected" in done.stdout
        said.append([line for line in done.stdout.splitlines() if "seed" in line or "0." in line])
    assert said[0][0] == "random tests: seed 7, repeat with --hypothesis-seed=7"
    assert said[0][0] == said[1][0] != said[2][0]


def test_seed_of_a_commit(tmp_path: Path) -> None:
    """Another one for each commit, the same for the same; without git that of the version."""
    without = seeds.of_the_checkout(tmp_path)
    git = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert seeds.of_the_checkout(tmp_path) == without, "there is no commit yet"
    found = {without}
    for number in range(2):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", str(number)], check=True)
        found.add(seeds.of_the_checkout(tmp_path))
        found.add(seeds.of_the_checkout(tmp_path))
    assert len(found) == 3
