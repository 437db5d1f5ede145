"""CPython's own tests of files and directories fail where they fail on a plain directory, only."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.mounted.harness import Union

MODULES = [
    "test_os",
    "test_posix",
    "test_shutil",
    "test_tempfile",
    "test_pathlib",
    "test_mmap",
    "test_fcntl",
    "test_io",
    "test_fileio",
    "test_tarfile",
    "test_zipfile",
    "test_sqlite3",
]


def _interpreter_with_tests(module: str) -> str | None:
    """A Python that has the tests (distributions package them apart, and not all of them)."""
    for candidate in (sys.executable, "python3", "/usr/bin/python3", "/usr/local/bin/python3"):
        question = [candidate, "-c", f"import test.libregrtest, test.{module}"]
        try:
            if subprocess.run(question, capture_output=True, cwd="/").returncode == 0:
                return candidate
        except FileNotFoundError:
            continue
    return None


PYTHON = {module: _interpreter_with_tests(module) for module in MODULES}


def start(module: str, directory: Path, report: Path) -> "subprocess.Popen[str]":
    """Run one module's tests with everything they write below `directory`."""
    python = PYTHON[module]
    assert python is not None
    temporary = directory / "tmp"
    temporary.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    return subprocess.Popen(
        [python, "-m", "test", "--tempdir", str(temporary), "--junit-xml", str(report), module],
        cwd=directory,
        env=environment | {"TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def verdicts(report: Path) -> dict[str, str]:
    """Each test's name with "passed", "skipped: why" or "failed"."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        verdict = "passed"
        if case.find("error") is not None or case.find("failure") is not None:
            verdict = "failed"
        elif (skipped := case.find("skipped")) is not None:
            # Names of files that have the process' number in them.
            verdict = f"skipped: {re.sub('@test_[0-9]+_tmp', '@test_tmp', skipped.text or '')}"
        found[case.attrib["name"]] = verdict
    return found


@pytest.mark.slow(reason="a module of CPython's own tests, on the mount and beside it")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "module",
    [
        pytest.param(
            module,
            marks=pytest.mark.skipif(
                PYTHON[module] is None, reason=f"no Python here has its own {module} installed"
            ),
        )
        for module in MODULES
    ],
)
def test_same_results_as_on_a_plain_directory(place: Path, module: str) -> None:
    plain = place / "plain"
    plain.mkdir()
    with Union(place) as union:
        running = {
            directory: start(module, directory, place / f"{directory.name}.xml")
            for directory in (plain, union.mountpoint)
        }
        outputs = {directory: process.communicate()[0] for directory, process in running.items()}
    wanted, found = (verdicts(place / f"{directory.name}.xml") for directory in running)
    assert len(wanted) > 5, outputs[plain]
    different = {
        name: f"{wanted.get(name)} on the plain directory, {found.get(name)} on the mount"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    }
    assert not different, outputs[union.mountpoint][-8000:]
