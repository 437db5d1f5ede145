"""The command lines themselves: what they understand, say and return, without a mount."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import Directories
from unionfs.cli import CLOSED_PIPE, check, mount, mountd, printable, status, where
from unionfs.cli.mount import read_arguments
from unionfs.daemons import Daemon
from unionfs.errors import UnionfsError, UsageError
from unionfs.options import KERNEL_FLAGS, OPTIONS, REFUSED, MountOptions
from unionfs.version import VERSION
from unionfs.xattrs import STATUS, WHERE


def options(*argv: str) -> MountOptions:
    result = read_arguments(argv)
    assert isinstance(result, MountOptions)
    return result


# --- unionfs-mount ---


@pytest.mark.parametrize(
    "argv",
    [
        ("-o", "volatile", "/a:/b", "/u", "/m"),
        ("/a:/b", "/u", "/m", "-o", "volatile"),
        ("/a:/b", "-o", "volatile", "/u", "/m"),
        ("-ovolatile", "/a:/b", "/u", "/m"),
        ("/a:/b", "/u", "-o", "lazytime,", "/m", "-o", "nolazytime", "-o", ",volatile"),
        ("-n", "-s", "-v", "-t", "fuse.unionfs-mount", "-o", "volatile", "/a:/b", "/u", "/m"),
        ("-o", "lowerdir=/a:/b,upperdir=/u,,volatile", "/m"),
        ("unionfs", "/m", "-o", "lowerdir=/a:/b,upperdir=/u,volatile"),
        ("-o", "volatile", "--", "/a:/b", "/u", "/m"),
    ],
)
def test_options_may_stand_anywhere(argv: tuple[str, ...]) -> None:
    found = options(*argv)
    assert (found.lowers, found.upper, found.mountpoint) == (("/a", "/b"), "/u", "/m")
    assert found.volatile
    assert not found.foreground


def test_foreground_and_debug() -> None:
    assert options("-f", "/a", "/m").foreground
    assert not options("-f", "/a", "/m").debug
    debug = options("/a", "/m", "-d")
    assert debug.debug
    assert debug.foreground


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """podman info shows these lines."""
    assert mount.main([flag]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"unionfs-mount {VERSION}"
    assert "FUSE" in second


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_flag(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mount.main([flag]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: unionfs-mount ")
    assert max(map(len, text.splitlines())) <= 100
    for name in ("-o", "-f", "-d", "--help", "--version", "-n", "-s", "-v", "-t"):
        assert f" {name}" in text


def test_help_lists_every_option_and_every_status(capsys: pytest.CaptureFixture[str]) -> None:
    """What is installed has no documents: the commands themselves say all that there is."""
    assert mount.main(["--help-options"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    for name in (*OPTIONS, *KERNEL_FLAGS, *REFUSED):
        assert re.search(rf"(^|[ ]){re.escape(name)}([=\[ ,.]|$)", text, re.MULTILINE), name
    assert mount.main(["--help-status"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    documented = (Path(__file__).parent.parent / "docs" / "errors.md").read_text()
    assert re.findall(r"^\| (\d+) \|", documented, re.MULTILINE) == [
        line.split()[0] for line in text.splitlines()[2:]
    ]


@pytest.mark.parametrize("command", [check, mount, mountd, status, where])
def test_help_points_at_nothing_that_is_not_installed(
    command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        command.main(["--help"])
    except SystemExit as end:
        assert end.code == 0
    assert "docs/" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [(), ("/m",), ("-o",), ("-x", "/a", "/m"), ("--bogus",), ("-N", "ns", "/a", "/m")]
)
def test_wrong_command_lines(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert mount.main(argv) == UsageError.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("unionfs-mount: ")
    assert err.count("\n") == 1


def test_unknown_options_are_warned_about_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["-o", "frob=1,frob=2,nicate", "-o", "frob", f"{tmp_path}/nowhere", f"{tmp_path}"]
    assert mount.main(argv) != 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 2
    assert "frob " in warnings[0]
    assert "nicate" in warnings[1]


@pytest.mark.parametrize(
    ("lowers", "text", "name"),
    [
        ("nowhere", "", "BranchMissing"),
        ("file", "", "NotADirectory"),
        ("lower:lower", "", "BranchTwice"),
        ("lower", "whiteout=none", "UsageError"),
        ("lower", "submounts=follow", "UnsupportedOption"),
        ("lower", "upperdir=lower/upper", "UpperInsideLower"),
        ("mnt", "", "MountpointInsideBranch"),
    ],
)
def test_errors_have_their_status_and_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lowers: str,
    text: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "mnt").mkdir()
    (tmp_path / "lower" / "upper").mkdir(parents=True)
    classes = {error.__name__: error for error in UnionfsError.__subclasses__()}
    assert mount.main([lowers, "mnt", "-o", text]) == classes[name].exit_code
    err = capsys.readouterr().err
    assert err.startswith("unionfs-mount: ")
    assert err.count("\n") == 1


def test_messages_are_one_line_whatever_the_path() -> None:
    assert printable("a\nb\x1b[31m\udcff é") == r"a\nb\x1b[31m\udcff é"


# --- unionfs-status and unionfs-where ---


@pytest.mark.parametrize("command", [status, where])
def test_not_on_a_union(
    command: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(tmp_path)]) == 50  # type: ignore[attr-defined]
    assert "not on a mounted union" in capsys.readouterr().err
    assert command.main([str(tmp_path / "nowhere")]) == 51  # type: ignore[attr-defined]
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("command", [status, where])
@pytest.mark.parametrize(
    "value",
    [b'"garbage{', b"[]", b"{}", b"\xff\x00\xfe", b"[1]", b'{"requests":[]}', b'{"branch":0}'],
)
def test_an_attribute_that_a_file_s_owner_has_set(
    command: ModuleType, value: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for name in (STATUS, WHERE if os.geteuid() == 0 else "user.unionfs.where"):
        try:
            os.setxattr(file, name, value)
        except OSError as error:
            pytest.skip(f"{tmp_path} stores no attributes ({error.strerror})")
    assert command.main([str(file)]) == 50
    assert "not on a mounted union" in capsys.readouterr().err


def test_where_goes_on_behind_a_missing_path(
    mounted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    point = mounted()
    for name in "ab":
        (point / name).touch()
    assert where.main([str(point / name) for name in ("a", "missing", "b")]) == 51
    out, err = capsys.readouterr()
    assert [line.rpartition("/")[2] for line in out.splitlines()] == ["a", "b"]
    assert "missing" in err
    assert err.count("\n") == 1


def test_where_names_every_branch_that_has_a_name(
    branches: Directories, mounted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (branches.lower / "d").mkdir()
    for directory, names in ((branches.lower, ["both"]), (branches.lower2, ["both", "old", "x"])):
        for name in names:
            (directory / name).touch()
    (branches.lower / ".wh.x").touch()
    point = mounted()
    (point / "both").write_text("changed")
    (point / "old").unlink()
    assert where.main(["-a", str(point / "both"), str(point / "old")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"upper\t{branches.upper}/both",
        f"lower 1\t{branches.lower}/both",
        f"lower 2\t{branches.lower2}/both",
        f"lower 2\t{branches.lower2}/old",
    ]
    for name in ("old", "x"):
        assert where.main([str(point / name)]) == 51
        assert "removed here; lower 2 has it" in capsys.readouterr().err
    assert where.main(["-a", str(point / "never/was")]) == 51
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [("mount", "--help"), ("mount", "--help-status"), ("check", "--help"), ("status",)],
)
def test_a_closed_pipe_is_no_traceback(words: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "unionfs", *words], stdout=write, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (CLOSED_PIPE, b"")


def test_output_that_nothing_can_take() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "unionfs", "mount", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 51
    assert "standard output cannot be used (No space left on device): make room" in done.stderr


def test_a_list_of_mounts() -> None:
    lines = list(
        status.render_list(
            [
                Daemon(1, 40, "/here", True, False),
                Daemon(2, 41, "/left", False, True),
                Daemon(3, 42, "/inside", False, False),
                Daemon(4, 43, None, False, False),
            ]
        )
    )
    assert lines[1] == "       1  /here"
    assert "end it with: kill 2" in lines[2]
    assert "in another mount namespace" in lines[3]
    assert "still writes out" in lines[4]
    assert list(status.render_list([])) == ["no union of this user is mounted"]


def test_status_as_text() -> None:
    requests = {
        "LOOKUP": {"fast": {"count": 2, "errors": 1, "ns": 5000}},
        "WRITE": {
            "fast": {"count": 30, "errors": 0, "ns": 90000},
            "slow": {"count": 1, "errors": 0, "ns": 200000},
        },
    }
    lines = list(status.render({"nodes": 3, "pinned_fds": 12}, status.counters(requests)))
    assert lines == [
        "nodes                    3",
        "pinned fds              12",
        "",
        "operation            plane      requests     errors    mean us",
        "WRITE                fast             30          0        3.0",
        "LOOKUP               fast              2          1        2.5",
        "WRITE                slow              1          0      200.0",
    ]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"branch": 0, "path": "a/b"}, "upper\ta/b"),
        ({"branch": 0, "path": "a/b", "branch_path": "/u"}, "upper\t/u/a/b"),
        ({"branch": 2, "path": "", "branch_path": "/l"}, "lower 2\t/l"),
        ({"branch": 2, "path": ""}, "lower 2\t."),
    ],
)
def test_where_as_text(answer: where.Where, text: str) -> None:
    assert where.render(answer) == text


# --- how they are reached ---


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("verb", ["check", "mount", "mountd", "status", "where"])
def test_every_command_by_its_script_and_as_a_verb(verb: str) -> None:
    by_verb = run(sys.executable, "-m", "unionfs", verb, "--help")
    by_script = run(str(Path(sys.executable).parent / f"unionfs-{verb}"), "--help")
    assert by_verb.returncode == by_script.returncode == 0
    assert by_verb.stdout == by_script.stdout
    assert by_verb.stdout.startswith(f"usage: unionfs-{verb} ")


@pytest.mark.parametrize("argv", [(), ("frobnicate",), ("--help",)])
def test_no_such_verb(argv: tuple[str, ...]) -> None:
    done = run(sys.executable, "-m", "unionfs", *argv)
    assert done.returncode == 2
    assert done.stderr == "usage: python -m unionfs {check,mount,mountd,status,umount,where} ...\n"


def test_before_mounting_little_is_imported() -> None:
    """Each of these costs milliseconds and memory that every mount would pay."""
    code = """
import sys
from unionfs.cli.mount import read_arguments
from unionfs.branches import BranchStack
read_arguments(sys.argv[1:])
print(*sorted(sys.modules))
"""
    done = run(sys.executable, "-c", code, "/a", "/u", "/m")
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    heavy = {
        "argparse",
        "ctypes",
        "dataclasses",
        "inspect",
        "json",
        "pyfuse3",
        "subprocess",
        "trio",
    }
    assert not imported & heavy


def test_descriptors_of_the_caller_stay(tmp_path: Path) -> None:
    """A failed mount closes what it opened."""
    (tmp_path / "lower").mkdir()
    before = os.listdir("/proc/self/fd")
    mount.main([f"{tmp_path}/lower:{tmp_path}/nowhere", str(tmp_path)])
    assert os.listdir("/proc/self/fd") == before
