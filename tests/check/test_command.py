"""The command: what it prints, its statuses, and that a mounted upper is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import unionfs
from tests.check.upper import Upper
from tests.conftest import Directories
from tests.tree.union import on_disk, put
from unionfs import uppers
from unionfs.check import KINDS
from unionfs.cli import check
from unionfs.errors import (
    BranchMissing,
    BranchTwice,
    InconsistenciesRemain,
    InconsistenciesRepaired,
    NotADirectory,
    PathUnusable,
    UpperBusy,
    UsageError,
    WorkdirUnusable,
)

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "check.md"
Capture = pytest.CaptureFixture[str]


def test_nothing_to_say(upper: Upper, capsys: Capture) -> None:
    upper.put("d/f")
    assert check.main(["-q", str(upper.path)]) == 0
    assert capsys.readouterr() == ("", "")
    assert check.main([str(upper.path)]) == 0
    assert capsys.readouterr().out == (
        "no findings, and no whiteout or mark either: this may never have been an upper\n"
    )
    upper.put("d/.wh.g")
    assert check.main([str(upper.path)]) == 0
    assert capsys.readouterr() == ("no findings\n", "")


def test_notes_are_no_errors(upper: Upper, capsys: Capture) -> None:
    upper.put("f", ".wh.f")
    assert check.main([str(upper.path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("note whiteout-beside .wh.f: ")
    assert "; --repair: the whiteout is removed" in out
    assert err == ""
    assert check.main(["--repair", str(upper.path)]) == 0
    assert "; repaired: the whiteout is removed" in capsys.readouterr().out
    assert on_disk(upper.path) == {"f": b""}


def test_errors_that_remain_and_that_are_repaired(upper: Upper, capsys: Capture) -> None:
    upper.put("d/.wh.f/", "d/.wh..wh.x/data")
    assert check.main([str(upper.path)]) == InconsistenciesRemain.exit_code
    out, err = capsys.readouterr()
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["error", "reserved-directory", "d/.wh..wh.x:"],
        ["error", "reserved-directory", "d/.wh.f:"],
    ]
    assert err.startswith(f"unionfs-check: {upper.path} has 2 error(s)")
    assert err.count("\n") == 1
    assert check.main([str(upper.path), "--repair"]) == InconsistenciesRemain.exit_code
    assert "(repairing failed: Directory not empty); not repaired: " in capsys.readouterr().out
    (upper.path / "d/.wh..wh.x/data").unlink()
    assert check.main([str(upper.path), "--repair"]) == InconsistenciesRepaired.exit_code
    assert "had 1 error(s), all repaired" in capsys.readouterr().err
    assert check.main([str(upper.path)]) == 0


def test_lowers_and_workdir(upper: Upper, capsys: Capture) -> None:
    upper.put(".wh.f")
    workdir = upper.base / "work"
    (workdir / "work" / "x").mkdir(parents=True)
    (workdir / "work").chmod(0o700)
    other = upper.base / "a:b"
    put(other, "g")
    escaped = str(other).replace(":", "\\:")
    argv = [str(upper.path), "--workdir", str(workdir), "--lower", f"{upper.lower}:{escaped}"]
    assert check.main(argv) == 0
    found = [line.split()[1:3] for line in capsys.readouterr().out.splitlines()]
    assert found == [["scratch-left", "workdir:work:"], ["whiteout-useless", ".wh.f:"]]
    put(other, "f")
    check.main(argv)
    assert "whiteout-useless" not in capsys.readouterr().out


def test_json(upper: Upper, capsys: Capture) -> None:
    name = os.fsdecode(b".wh.\xff\n")
    upper.put(name, content=b"data")
    assert check.main(["--json", str(upper.path)]) == 0
    answer = json.loads(capsys.readouterr().out)
    kind = KINDS["whiteout-content"]
    assert answer == {
        "upper": str(upper.path),
        "findings": [
            {
                "level": "note",
                "code": "whiteout-content",
                "path": name,
                "detail": "",
                "repaired": False,
                "meaning": kind.meaning,
                "repair": kind.repair,
            }
        ],
    }


def test_one_line_whatever_the_name(upper: Upper, capsys: Capture) -> None:
    upper.put(os.fsdecode(b".wh.\xff\n"), content=b"data")
    assert check.main([str(upper.path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(r"note whiteout-content .wh.\udcff\n: ")
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["nowhere"], BranchMissing),
        (["file"], NotADirectory),
        (["upper", "--lower", "nowhere"], BranchMissing),
        (["upper", "--lower", "upper"], BranchTwice),
        (["upper", "--lower", "a::b"], UsageError),
        (["upper", "--workdir", "file"], NotADirectory),
        (["upper", "--workdir", "nowhere"], WorkdirUnusable),
    ],
)
def test_wrong_arguments(
    upper: Upper,
    argv: list[str],
    error: type[unionfs.errors.UnionfsError],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    (upper.base / "file").touch()
    monkeypatch.chdir(upper.base)
    assert check.main(argv) == error.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("unionfs-check: ")
    assert err.count("\n") == 1


def test_a_read_only_filesystem_can_be_checked(upper: Upper, capsys: Capture) -> None:
    upper.put("f", ".wh.f")
    subprocess.run(["mount", "--bind", upper.path, upper.path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", upper.path], check=True)
        assert check.main([str(upper.path)]) == 0
        assert check.main([str(upper.path), "--repair"]) == 0
        assert "repairing failed: Read-only file system" in capsys.readouterr().out
    finally:
        subprocess.run(["umount", upper.path], check=True)


@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
@pytest.mark.parametrize("given", [False, True], ids=["default", "workdir"])
def test_refused_while_mounted_and_clean_afterwards(
    branches: Directories,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    whiteout: str,
    given: bool,
) -> None:
    monkeypatch.setattr(uppers, "PATIENCE", 0.1)
    put(branches.lower, "a", "d/f", "same")
    os.link(branches.lower / "same", branches.lower / "d/same")
    options = {"workdir": branches.work} if given else {}
    argv = [str(branches.upper), "--lower", str(branches.lower), "--repair"]
    if given:
        argv += ["--workdir", str(branches.work)]
    with unionfs.mount(
        [branches.lower], branches.upper, branches.mountpoint, whiteout=whiteout, **options
    ) as mount:
        for name in ("a", "same"):
            (branches.mountpoint / name).write_bytes(b"changed")
        (branches.mountpoint / "d").rename(branches.mountpoint / "e")
        before = on_disk(branches.upper)
        assert check.main(argv) == UpperBusy.exit_code
        out, err = capsys.readouterr()
        assert out == ""
        assert f"process {mount.pid}, mounted at {branches.mountpoint}" in err
        assert on_disk(branches.upper) == before
    assert check.main(argv) == 0
    assert capsys.readouterr() == ("no findings\n", "")


def test_a_mount_point_is_no_upper(branches: Directories, capsys: Capture) -> None:
    with unionfs.mount([branches.lower], branches.upper, branches.mountpoint):
        assert check.main([str(branches.mountpoint)]) == PathUnusable.exit_code
    assert "it is on a mounted union, not an upper" in capsys.readouterr().err


def test_as_a_verb(upper: Upper) -> None:
    upper.put("d/.wh.f/")
    done = subprocess.run(
        [sys.executable, "-m", "unionfs", "check", str(upper.path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == InconsistenciesRemain.exit_code
    assert done.stdout.startswith("error reserved-directory d/.wh.f: ")


def test_the_document_lists_every_code() -> None:
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in DOCUMENT.read_text().partition("## All findings")[2].splitlines()
        if line.startswith("| `")
    ]
    documented = {row[0].strip("`"): row[1:4] for row in rows}
    assert documented == {code: tuple(kind) for code, kind in KINDS.items()}
