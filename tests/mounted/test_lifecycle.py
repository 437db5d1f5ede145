"""From the command that mounts to the end of the daemon."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mounted.commands import (
    command,
    daemon_of,
    is_mounted,
    processes_naming,
    unionfs_mount,
    wait_for_end,
)
from tests.mounted.harness import (
    FROM_THE_DEAD,
    Union,
    gone,
    needs_root,
    only_unionfs,
    wait_until,
)
from tests.mounted.tracing import needs_strace, traced
from tests.mounted.trees import branch, build
from tests.mounts import mounts_below

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(60)]


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Processes of the test die of SIGHUP, also when nohup(1) runs the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def union(place: Path) -> Union:
    """Branches to be mounted by the command."""
    union = Union(place, lowers=2)
    build(union.lowers[0], {"top": "top", "dir/a": "a"})
    build(union.lowers[1], {"bottom": "bottom", "dir/b": "b"})
    return union


def mount(union: Union, *options: str) -> int:
    """Mount by the command, which must succeed in silence; the daemon's pid."""
    lowers = ":".join(map(str, union.lowers))
    assert union.upper is not None
    result = unionfs_mount(lowers, union.upper, union.mountpoint, *options)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return daemon_of(union.root)


def end(union: Union, pid: int) -> None:
    subprocess.run(["umount", union.mountpoint], check=True)
    wait_for_end(pid, union.mountpoint)


def change(union: Union) -> None:
    root = union.mountpoint
    (root / "new").write_text("new")
    with open(root / "dir/b", "a") as file:
        file.write("+")
    (root / "top").unlink()


CHANGED = {"new": "file new", "dir": "dir", "dir/b": "file b+", ".wh.top": "file"}


def test_mount_answers_at_once_and_the_daemon_holds_nothing(union: Union) -> None:
    pid = mount(union)
    # No waiting: the command returned, so the mount answers.
    assert sorted(os.listdir(union.mountpoint)) == ["bottom", "dir", "top"]
    process = Path(f"/proc/{pid}")
    assert os.readlink(process / "cwd") == "/"
    for descriptor in range(3):
        assert os.readlink(process / f"fd/{descriptor}") == "/dev/null"
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    parent, _, session, terminal = map(int, fields[1:5])
    assert terminal == 0
    assert session != os.getsid(0)
    assert parent != os.getpid()
    held = {os.readlink(entry) for entry in (process / "fd").iterdir()}
    allowed = re.compile(
        rf"/dev/null|/dev/fuse|(socket|pipe|anon_inode):.*|{re.escape(str(union.root))}(/.*)?"
        r"|/(\.wh\..*)?|/memfd:.*|/proc.*"  # a private clone has the upper as its root
        r"|/sys/fs/cgroup/.*memory\.pressure"
    )
    assert [path for path in held if not allowed.fullmatch(path)] == []
    end(union, pid)


def test_relative_paths(union: Union) -> None:
    result = unionfs_mount("lower0:lower1", "upper", "mnt", cwd=union.root)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sorted(os.listdir(union.mountpoint)) == ["bottom", "dir", "top"]
    found = [mount.kind for mount in mounts_below(union.root)]
    assert len(found) == 1
    assert found[0].startswith("fuse")
    subprocess.run(["umount", union.mountpoint], check=True)


@pytest.mark.parametrize("spelling", ["overlay", "source"])
def test_other_spellings(union: Union, spelling: str) -> None:
    options = f"lowerdir={union.lowers[0]}:{union.lowers[1]},upperdir={union.upper}"
    if spelling == "overlay":
        words = ["-o", options, str(union.mountpoint)]
    else:
        words = ["some-source", str(union.mountpoint), "-o", f"rw,{options}"]
    result = unionfs_mount(*words)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    pid = daemon_of(union.root)
    change(union)
    end(union, pid)
    assert union.upper is not None
    assert branch(union.upper) == CHANGED


def by(*words: str) -> Callable[[Union, int], object]:
    return lambda union, pid: subprocess.run([*words, union.mountpoint], check=True)


ENDINGS: dict[str, Callable[[Union, int], object]] = {
    "fusermount3 -u": by("fusermount3", "-u"),
    "umount": by("umount"),
    "umount -l": by("umount", "-l"),
    "SIGTERM": lambda union, pid: os.kill(pid, signal.SIGTERM),
    "SIGINT": lambda union, pid: os.kill(pid, signal.SIGINT),
    "SIGHUP": lambda union, pid: os.kill(pid, signal.SIGHUP),
    "SIGUSR1": lambda union, pid: os.kill(pid, signal.SIGUSR1),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_everything_is_written_out_at_the_end(union: Union, ending: str) -> None:
    pid = mount(union)
    change(union)
    (union.mountpoint / "large").write_bytes(b"x" * (5 << 20))
    ENDINGS[ending](union, pid)
    wait_for_end(pid, union.mountpoint)
    assert processes_naming(union.root) == []
    assert union.upper is not None
    assert (union.upper / "large").read_bytes() == b"x" * (5 << 20)
    (union.upper / "large").unlink()
    assert branch(union.upper) == CHANGED


def test_umount_refuses_while_a_file_is_open(union: Union) -> None:
    pid = mount(union)
    with open(union.mountpoint / "bottom", "r+") as file:
        result = subprocess.run(["umount", union.mountpoint], capture_output=True, text=True)
        assert result.returncode != 0
        assert "busy" in result.stderr
        file.write("B")
        file.flush()
        assert (union.mountpoint / "bottom").read_text() == "Bottom"
    end(union, pid)


def test_lazy_unmount_serves_what_is_open(union: Union) -> None:
    pid = mount(union)
    with open(union.mountpoint / "bottom", "r+") as file:
        subprocess.run(["umount", "-l", union.mountpoint], check=True)
        assert not is_mounted(union.mountpoint)
        assert file.read() == "bottom"
        file.write("!")
        file.flush()
        os.fsync(file.fileno())
        assert not gone(pid)
    wait_until(lambda: gone(pid), "the daemon ends after the last close")
    assert union.upper is not None
    assert branch(union.upper) == {"bottom": "file bottom!"}


def test_next_mount_waits_for_the_one_that_is_ending(union: Union) -> None:
    first = mount(union)
    file = os.open(union.mountpoint / "bottom", os.O_RDWR)
    subprocess.run(["umount", "-l", union.mountpoint], check=True)
    # Closed while the second mount waits: not before it can have been started.
    timer = threading.Timer(1, os.close, [file])
    timer.start()
    lowers = ":".join(map(str, union.lowers))
    assert union.upper is not None
    result = unionfs_mount(lowers, union.upper, union.mountpoint)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    timer.join()
    wait_until(lambda: gone(first), "the first daemon ends")  # it gave the upper back before
    end(union, daemon_of(union.root))


def test_busy_upper_is_refused_and_its_holder_named(union: Union, place: Path) -> None:
    pid = mount(union)
    other = place / "other"
    other.mkdir()
    assert union.upper is not None
    result = unionfs_mount(union.lower, union.upper, other)
    assert result.returncode == 20
    assert result.stdout == ""
    waits, refused = result.stderr.splitlines()
    assert "warning: waiting 10 s" in waits
    for line in (waits, refused):
        for detail in (str(union.upper), str(pid), str(union.mountpoint)):
            assert detail in line
    assert not is_mounted(other)
    # The first is none the worse for it, and its work directory untouched.
    change(union)
    end(union, pid)
    assert branch(union.upper) == CHANGED


def test_a_daemon_ends_by_sighup_whoever_started_it(union: Union) -> None:
    """It has left the terminal that nohup(1) is about."""
    words = [f"{union.lowers[0]}:{union.lowers[1]}", str(union.upper), str(union.mountpoint)]
    subprocess.run(["env", "--ignore-signal=HUP", command("unionfs-mount"), *words], check=True)
    pid = daemon_of(union.root)
    os.kill(pid, signal.SIGHUP)
    wait_for_end(pid, union.mountpoint)


def test_foreground_outlives_the_terminal_under_nohup(union: Union) -> None:
    words = [f"{union.lowers[0]}:{union.lowers[1]}", str(union.upper), str(union.mountpoint)]
    nohup = ["env", "--ignore-signal=HUP", command("unionfs-mount"), "-f", *words]
    with subprocess.Popen(nohup) as process:
        wait_until(lambda: is_mounted(union.mountpoint), "the mount comes up")
        process.send_signal(signal.SIGHUP)
        assert (union.mountpoint / "top").read_text() == "top"
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert not is_mounted(union.mountpoint)


def test_branches_may_be_shared_read_only(union: Union, place: Path) -> None:
    pid = mount(union)
    second = Union(place / "second", writable=False)
    second.lowers = union.lowers
    with second:
        change(union)
        assert (second.mountpoint / "top").read_text() == "top"
    end(union, pid)


@pytest.mark.usefixtures("hang_up")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_foreground(union: Union, number: int) -> None:
    assert union.upper is not None
    words = [str(union.lower), str(union.upper), str(union.mountpoint)]
    with subprocess.Popen(
        [command("unionfs-mount"), "-f", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_until(lambda: is_mounted(union.mountpoint), "the mount comes up")
        (union.mountpoint / "new").write_text("new")
        process.send_signal(number)
        output, errors = process.communicate()
        assert (process.returncode, output, errors) == (0, b"", b"")
    assert not is_mounted(union.mountpoint)
    assert branch(union.upper) == {"new": "file new"}


def test_nothing_of_the_caller_reaches_the_mount(union: Union, place: Path) -> None:
    """Neither its Python nor its limits: others write here too."""
    modules = place / "modules"
    modules.mkdir()
    for name in ("json", "signal", "typing", "unionfs"):
        (modules / f"{name}.py").write_text("raise ImportError('not mine')")
    (union.lower / "large").write_bytes(bytes(100_000))
    result = unionfs_mount(
        union.lower,
        union.upper or "",
        union.mountpoint,
        cwd=modules,
        wrapper=("nice", "sh", "-c", 'ulimit -Sf 8; ulimit -Sn 50; umask 77; exec "$@"', "sh"),
        environment={"PYTHONPATH": str(modules), "PYTHONHOME": "/nowhere", "SECRET": "x"},
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    pid = daemon_of(union.root)
    root = union.mountpoint
    (root / "new").write_bytes(bytes(100_000))
    with open(root / "large", "ab") as file:
        file.write(b"x")
    os.truncate(root / "new", 1 << 20)
    assert (root / "new").stat().st_mode & 0o777 == 0o644
    assert b"SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert os.getpriority(os.PRIO_PROCESS, pid) == 0
    end(union, pid)


def test_a_limit_that_stays_is_told(union: Union) -> None:
    bounded = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")
    result = unionfs_mount(
        union.lower,
        union.upper or "",
        union.mountpoint,
        wrapper=(*bounded, "sh", "-c", 'ulimit -f 8; exec "$@"', "sh"),
    )
    assert result.returncode == 0
    assert result.stderr == (
        "unionfs-mount: warning: no file on the mount can grow beyond 4096 bytes (ulimit -Hf)\n"
    )
    end(union, daemon_of(union.root))


@needs_strace
@pytest.mark.parametrize("call", ["syncfs", "fdatasync"])
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "daemon"])
def test_a_disk_that_fails_at_the_end_is_told(union: Union, call: str, background: bool) -> None:
    assert union.upper is not None
    log, trace = union.root / "log", union.root / "trace"
    words = [str(union.lower), str(union.upper), str(union.mountpoint), "-o", f"log_file={log}"]
    said = f"not all of {union.upper} may be on the disk (Input/output error)"
    mode = [] if background else ["-f"]
    with subprocess.Popen(
        [command("unionfs-mount"), *mode, *words], stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: is_mounted(union.mountpoint), "the mount comes up")
        if background:
            process.wait()
        pid = daemon_of(union.root)
        with traced(pid, trace, "-e", f"trace={call}", "-e", f"inject={call}:error=EIO") as strace:
            subprocess.run(["umount", union.mountpoint], check=True)
            strace.wait(timeout=30)
        _, errors = process.communicate()
    assert "exited with 46" in trace.read_text()
    assert process.returncode == (0 if background else 46)
    assert said in (log.read_text() if background else errors)


def test_debug_prints_a_line_for_each_request(union: Union) -> None:
    assert union.upper is not None
    words = [str(union.lower), str(union.upper), str(union.mountpoint)]
    with subprocess.Popen(
        [command("unionfs-mount"), "-d", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        wait_until(lambda: is_mounted(union.mountpoint), "the mount comes up")
        (union.mountpoint / "with a name").mkdir()
        assert not (union.mountpoint / "missing").exists()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
        assert process.returncode == 0
    lines = output.splitlines()
    assert any("MKDIR" in line and "with a name" in line for line in lines), output
    assert any("LOOKUP" in line and "missing" in line for line in lines), output


def open_files() -> list[str]:
    """What this process has open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(found)


def test_mounting_again_and_again_leaks_nothing(place: Path) -> None:
    union = Union(place, lowers=2)
    build(union.lower, {"file": "x", "big": b"x" * 3_000_000})

    def state() -> tuple[list[str], int, list[object]]:
        return (
            open_files(),
            threading.active_count(),
            mounts_below(place),
        )

    def once(number: int) -> None:
        with union:
            with open(union.mountpoint / "big", "r+b") as file:
                file.write(b"%d" % number)
            (union.mountpoint / f"file{number}").write_text("x")
            assert (union.mountpoint / "file").read_text() == "x"

    once(-1)  # imports and caches of this process
    before = state()
    for number in range(25):
        once(number)
        assert processes_naming(place) == []
    assert state() == before


def test_failed_mounts_leak_nothing(place: Path) -> None:
    union = Union(place)
    missing = Union(place)
    missing.lowers = [place / "nowhere"]
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(Exception, match="nowhere"):
            missing.mount()
        missing._session = None
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert processes_naming(place) == []
    assert mounts_below(place) == []
    with union:
        assert os.listdir(union.mountpoint) == []
    assert union.upper is not None
    assert os.listdir(union.upper) == []


def test_killed_daemon_leaves_an_upper_that_mounts(union: Union) -> None:
    pid = mount(union)
    change(union)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone(pid), "the daemon ends")
    with pytest.raises(OSError) as raised:
        os.listdir(union.mountpoint)
    assert raised.value.errno in FROM_THE_DEAD
    subprocess.run(["umount", union.mountpoint], check=True)
    pid = mount(union)
    assert not (union.mountpoint / "top").exists()
    assert (union.mountpoint / "dir/b").read_text() == "b+"
    end(union, pid)
    assert union.upper is not None
    assert branch(union.upper) == CHANGED
