"""unionfs-mount as a process: what its caller sees, what stays behind, and how it ends."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Directories, OrdinaryUser
from tests.leftovers import processes_about
from tests.mounted.harness import wait_until
from tests.mounts import mounts_below
from unionfs import errors

BIN = Path(sys.executable).parent
MOUNT = str(BIN / "unionfs-mount")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def run(*command: str | Path, status: int = 0, **options: object) -> str:
    """Run a command to its end, that is until nobody holds its output any more; what it said.

    A daemon that kept descriptor 1 or 2 would be waited for.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == status, done.stdout
    output: str = done.stdout
    return output


def unmount(mountpoint: Path) -> None:
    run("fusermount3", "-u", mountpoint)


def unmounted(mountpoint: Path) -> bool:
    """Unmount, unless it is busy."""
    said = subprocess.run(["fusermount3", "-u", mountpoint], capture_output=True, text=True)
    assert not said.stderr or "busy" in said.stderr, said.stderr
    return said.returncode == 0


def ended(base: Path) -> Callable[[], bool]:
    return lambda: not processes_about(base)


def branches_option(place: Directories) -> str:
    return f"lowerdir={place.lower}:{place.lower2},upperdir={place.upper},workdir={place.work}"


@pytest.fixture
def place(branches: Directories) -> Directories:
    (branches.lower / "a").write_text("lower")
    (branches.lower2 / "a").write_text("hidden")
    (branches.lower2 / "b").write_text("lower2")
    return branches


# --- the contract with the caller ---


def test_it_returns_when_the_mount_answers_and_says_nothing(place: Directories) -> None:
    lowers = f"{place.lower}:{place.lower2}"
    assert run(MOUNT, lowers, place.upper, place.mountpoint) == ""
    assert (place.mountpoint / "a").read_text() == "lower"
    assert sorted(os.listdir(place.mountpoint)) == ["a", "b"]
    (place.mountpoint / "b").write_text("changed")
    unmount(place.mountpoint)
    assert (place.upper / "b").read_text() == "changed"
    assert (place.lower2 / "b").read_text() == "lower2"


def test_what_the_daemon_is(place: Directories) -> None:
    """One process in a session of its own, with no terminal, no directory and no caller's files."""
    with (place.base / "inherited").open("w") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        run(MOUNT, place.lower, place.upper, place.mountpoint, pass_fds=[inherited.fileno()])
        (pid,) = processes_about(place.base)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        session, terminal = int(fields[3]), int(fields[4])
        assert session != os.getsid(0)
        assert terminal == 0
        for fd in ("0", "1", "2"):
            assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
        held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert inherited.name not in held
    unmount(place.mountpoint)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_caller_without_standard_descriptors(place: Directories, closed: str) -> None:
    """What is opened then gets the numbers 0 to 2, and must survive the daemon's redirections."""
    run("sh", "-c", f'"$@" {closed}', "sh", MOUNT, place.lower, place.upper, place.mountpoint)
    assert (place.mountpoint / "a").read_text() == "lower"
    unmount(place.mountpoint)


@pytest.mark.parametrize(
    "spelling",
    ["overlay", "helper", "helper-last", "relative"],
)
def test_spellings(place: Directories, spelling: str) -> None:
    text = branches_option(place)
    match spelling:
        case "overlay":
            run(MOUNT, "-o", f"{text},,volatile", place.mountpoint)
        case "helper":
            run(MOUNT, "overlay", place.mountpoint, "-o", f"{text},dev,suid")
        case "helper-last":
            run(MOUNT, "-o", f"{text},dev,suid", "overlay", place.mountpoint, "-n")
        case "relative":
            text = "lowerdir=lower/../lower:lower2,upperdir=./upper,workdir=work"
            run(MOUNT, "-o", text, "mnt", cwd=place.base)
    assert sorted(os.listdir(place.mountpoint)) == ["a", "b"]
    (place.mountpoint / "c").touch()
    unmount(place.mountpoint)
    assert os.listdir(place.upper) == ["c"]


def test_paths_with_every_separator(place: Directories) -> None:
    names = ["a:b", "c,d", "e\\f", 'g"h', "i j\n"]
    for name in names:
        (place.base / name).mkdir()
        (place.base / name / name).touch()
    escaped = [name.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,") for name in names]
    upper = place.base / "u:,\\"
    upper.mkdir()
    text = f"lowerdir={':'.join(escaped)},upperdir=u\\:\\,\\\\"
    mountpoint = place.base / "m: ,\\"
    mountpoint.mkdir()
    run(MOUNT, "-o", text, mountpoint, cwd=place.base)
    try:
        assert sorted(os.listdir(mountpoint)) == sorted(names)
        (mountpoint / "new").touch()
    finally:
        unmount(mountpoint)
    assert (upper / "new").exists()


def test_unknown_options_are_warned_about_and_ignored(place: Directories) -> None:
    said = run(MOUNT, "-o", "frob=1,frob,x-mine", place.lower, place.upper, place.mountpoint)
    assert said == "unionfs-mount: warning: unknown option frob is ignored\n"
    assert (place.mountpoint / "a").exists()
    unmount(place.mountpoint)


@pytest.mark.parametrize("option", ["", "upperdir={upper},ro"])
def test_read_only(place: Directories, option: str) -> None:
    (place.upper / "c").touch()
    text = option.format(upper=place.upper)
    run(MOUNT, "-o", text, f"{place.lower}:{place.lower2}", place.mountpoint)
    for path in (place.mountpoint / "new", place.mountpoint / "a"):
        with pytest.raises(OSError, match="Read-only"):
            path.write_text("")
    assert sorted(os.listdir(place.mountpoint)) == (["a", "b", "c"] if option else ["a", "b"])
    unmount(place.mountpoint)
    assert os.listdir(place.upper) == ["c"]


def test_kernel_flags_arrive(place: Directories) -> None:
    run(
        MOUNT,
        "-o",
        "nosuid,nodev,noexec,noatime,fsname=mine",
        f"{place.lower}:{place.lower2}",
        place.upper,
        place.mountpoint,
    )
    (mount,) = mounts_below(place.mountpoint)
    assert set(mount.flags) >= {"rw", "nosuid", "nodev", "noexec", "noatime"}
    assert (mount.kind, mount.source) == ("fuse.unionfs-mount", "mine")
    unmount(place.mountpoint)


# --- staying in the foreground ---


@pytest.mark.parametrize("flag", ["-f", "-d"])
def test_foreground(place: Directories, flag: str) -> None:
    with subprocess.Popen(
        [MOUNT, flag, place.lower, place.upper, place.mountpoint],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: bool(mounts_below(place.mountpoint)), "the mount appears")
        assert (place.mountpoint / "a").read_text() == "lower"
        # Nothing says when it is ready: the command may still be looking at the mount itself.
        wait_until(lambda: unmounted(place.mountpoint), "the mount is not busy")
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == ""
    if flag == "-f":
        assert err == ""
    else:
        lookups = [line for line in err.splitlines() if line.startswith("LOOKUP ")]
        assert any("name=a " in line and "plane=" in line and "us=" in line for line in lookups)


# --- the end ---


def end_by_signal(number: signal.Signals) -> Callable[[Directories], None]:
    def end(place: Directories) -> None:
        (pid,) = processes_about(place.base)
        os.kill(pid, number)

    return end


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda place: run("fusermount3", "-u", place.mountpoint), id="fusermount3 -u"),
        pytest.param(
            lambda place: run("fusermount3", "-uz", place.mountpoint), id="fusermount3 -uz"
        ),
        pytest.param(lambda place: run("umount", place.mountpoint), id="umount", marks=needs_root),
        pytest.param(
            lambda place: run("umount", "-l", place.mountpoint), id="umount -l", marks=needs_root
        ),
        pytest.param(end_by_signal(signal.SIGTERM), id="SIGTERM"),
        pytest.param(end_by_signal(signal.SIGINT), id="SIGINT"),
    ],
)
def test_every_way_to_end_it(place: Directories, end: Callable[[Directories], object]) -> None:
    """Everything is written out, nothing stays: no process, no mount, no work directory."""
    run(MOUNT, place.lower, place.upper, place.mountpoint)
    (place.mountpoint / "a").write_text("changed")
    with (place.mountpoint / "new").open("wb") as file:
        file.write(bytes(1 << 20))
    end(place)
    wait_until(ended(place.base), "the daemon ends")
    assert not mounts_below(place.base)
    assert sorted(os.listdir(place.upper)) == ["a", "new"]
    assert (place.upper / "a").read_text() == "changed"
    assert (place.upper / "new").stat().st_size == 1 << 20


def test_a_restart_right_after_a_stop(place: Directories) -> None:
    """The predecessor may still be ending: the next mount waits for it instead of failing."""
    for number in range(5):
        run(MOUNT, place.lower, place.upper, place.mountpoint)
        assert len(os.listdir(place.mountpoint)) == 1 + number
        (place.mountpoint / f"file{number}").write_bytes(bytes(1 << 20))
        run("fusermount3", "-uz", place.mountpoint)
    wait_until(ended(place.base), "the daemons end")
    assert sorted(os.listdir(place.upper)) == [f"file{number}" for number in range(5)]


# --- errors ---


@pytest.mark.slow
def test_the_upper_is_busy(place: Directories) -> None:
    other = place.base / "mnt2"
    other.mkdir()
    run(MOUNT, place.lower, place.upper, place.mountpoint)
    (pid,) = processes_about(place.base)
    said = run(MOUNT, place.lower2, place.upper, other, status=errors.UpperBusy.exit_code)
    assert f"process {pid}" in said
    assert str(place.mountpoint) in said
    assert not mounts_below(other)
    (place.mountpoint / "still").touch()
    unmount(place.mountpoint)


def test_lowers_may_be_shared(place: Directories) -> None:
    other, upper = place.base / "mnt2", place.base / "upper2"
    other.mkdir()
    upper.mkdir()
    run(MOUNT, place.lower, place.upper, place.mountpoint)
    run(MOUNT, place.lower, upper, other)
    (other / "a").write_text("changed")
    assert (place.mountpoint / "a").read_text() == "lower"
    unmount(other)
    unmount(place.mountpoint)


def test_a_mount_whose_daemon_was_killed(place: Directories) -> None:
    run(MOUNT, place.lower, place.upper, place.mountpoint)
    (pid,) = processes_about(place.base)
    os.kill(pid, signal.SIGKILL)
    wait_until(ended(place.base), "the daemon ends")
    again = (MOUNT, place.lower, place.upper, place.mountpoint)
    assert "not connected" in run(*again, status=errors.MountpointBad.exit_code)
    unmount(place.mountpoint)
    run(*again)
    assert (place.mountpoint / "a").read_text() == "lower"
    unmount(place.mountpoint)


@needs_root
def test_no_device(place: Directories) -> None:
    script = 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec "$@"'
    said = run(
        *("unshare", "-m", "sh", "-c", script, "sh"),
        *(MOUNT, place.lower, place.upper, place.mountpoint),
        status=errors.DeviceMissing.exit_code,
    )
    assert "modprobe fuse" in said


@needs_root
def test_a_closed_device(place: Directories, ordinary_user: OrdinaryUser) -> None:
    place.give_to(ordinary_user)
    node = place.base / "fuse"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(10, 229))
    node.chmod(0o600)
    script = f'mount --bind {node} /dev/fuse && exec setpriv "$@"'
    identity = (f"--reuid={ordinary_user.uid}", f"--regid={ordinary_user.gid}", "--clear-groups")
    said = run(
        *("unshare", "-m", "sh", "-c", script, "sh", *identity),
        *(MOUNT, place.lower, place.upper, place.mountpoint),
        status=errors.DeviceRefused.exit_code,
    )
    assert "chmod 0666 /dev/fuse" in said


def test_a_failed_mount_leaves_nothing(place: Directories) -> None:
    (place.upper / ".wh..wh.work").symlink_to("nowhere")
    command = (MOUNT, place.lower, place.upper, place.mountpoint)
    run(*command, status=errors.WorkdirUnusable.exit_code)
    assert not mounts_below(place.base)
    assert not processes_about(place.base)
    assert os.listdir(place.upper) == [".wh..wh.work"]


# --- who mounts ---


def test_an_ordinary_user(place: Directories, ordinary_user: OrdinaryUser) -> None:
    place.give_to(ordinary_user)
    said = ordinary_user.run(MOUNT, place.lower, place.upper, place.mountpoint)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    script = """
    set -e
    cd "$1"
    test "$(cat a)" = lower
    echo changed > a
    (umask 777; echo unreadable > closed)
    mkdir d
    git init --quiet repository 2>/dev/null || mkdir repository
    """
    done = ordinary_user.run("sh", "-c", script, "sh", place.mountpoint)
    assert (done.returncode, done.stderr) == (0, "")
    if os.geteuid() == 0:
        with pytest.raises(PermissionError):
            os.listdir(place.mountpoint)  # without allow_other not even root
    ordinary_user.run("fusermount3", "-u", place.mountpoint, check=True)
    wait_until(ended(place.base), "the daemon ends")
    assert (place.upper / "a").read_text() == "changed\n"
    assert stat.S_IMODE((place.upper / "closed").stat().st_mode) == 0


def test_root_of_a_user_namespace(place: Directories, ordinary_user: OrdinaryUser) -> None:
    place.give_to(ordinary_user)
    script = """
    set -e
    "$1" "$2" "$3" "$4"
    cat "$4/a"
    chown 0:0 "$4/a"
    fusermount3 -u "$4"
    """
    done = ordinary_user.run(
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"),
        *(MOUNT, place.lower, place.upper, place.mountpoint),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "lower", "")
    wait_until(ended(place.base), "the daemon ends")


# --- mount(8) ---


@needs_root
@pytest.mark.parametrize("kind", ["fuse", "fuse3"])
def test_mount_8_with_a_path(place: Directories, kind: str) -> None:
    options = branches_option(place)
    run("mount", "-t", kind, f"{MOUNT}#mine", place.mountpoint, "-o", options)
    assert (place.mountpoint / "a").read_text() == "lower"
    assert run("findmnt", "-n", "-o", "SOURCE", place.mountpoint) == "mine\n"
    run("umount", place.mountpoint)


@pytest.fixture
def installed() -> tuple[str, ...]:
    """A command prefix: what it runs finds unionfs-mount where mount(8) looks for programs.

    mount(8) forgets PATH; a mount namespace keeps the link to itself.
    """
    script = 'mount -t tmpfs none /usr/local/sbin && ln -s "$0" /usr/local/sbin && exec "$@"'
    return ("unshare", "-m", "sh", "-c", script, MOUNT)


USE_AND_UNMOUNT = 'cat "$0/a" && umount "$0"'


@needs_root
def test_mount_8_by_type(place: Directories, installed: tuple[str, ...]) -> None:
    script = f'mount -t fuse.unionfs-mount none "$0" -o "$1" && {USE_AND_UNMOUNT}'
    said = run(*installed, "sh", "-c", script, place.mountpoint, branches_option(place))
    assert said == "lower"


@needs_root
def test_fstab(place: Directories, installed: tuple[str, ...]) -> None:
    fstab = place.base / "fstab"
    options = f"{branches_option(place)},noauto,x-systemd.requires-mounts-for=/srv"
    fstab.write_text(f"none {place.mountpoint} fuse.unionfs-mount {options} 0 0\n")
    script = f'mount --fstab "$1" "$0" && {USE_AND_UNMOUNT}'
    assert run(*installed, "sh", "-c", script, place.mountpoint, fstab) == "lower"


# --- asking a mount ---


def test_status(place: Directories) -> None:
    run(MOUNT, f"{place.lower}:{place.lower2}", place.upper, place.mountpoint)
    with (place.mountpoint / "a").open():  # whatever the kernel forgets, it keeps this node
        text = run("unionfs-status", place.mountpoint)
        found = json.loads(run("unionfs-status", "--json", place.mountpoint))
    assert "LOOKUP" in text
    assert "nodes" in text
    assert found["nodes"] >= 2
    assert found["requests"]["LOOKUP"]["fast"]["count"] >= 1
    unmount(place.mountpoint)


def test_where(place: Directories) -> None:
    (place.lower2 / "d").mkdir()
    (place.upper / "c").touch()
    (place.lower2 / "link").symlink_to("nowhere")
    os.mkfifo(place.upper / "fifo")
    run(MOUNT, f"{place.lower}:{place.lower2}", place.upper, place.mountpoint)
    names = ["a", "b", "c", "d", "link", "fifo", ""]
    said = run("unionfs-where", *(place.mountpoint / name for name in names))
    assert said.splitlines() == [
        f"lower 1\t{place.lower}/a",
        f"lower 2\t{place.lower2}/b",
        f"upper\t{place.upper}/c",
        f"lower 2\t{place.lower2}/d",
        f"lower 2\t{place.lower2}/link",
        f"upper\t{place.upper}/fifo",
        f"upper\t{place.upper}",
    ]
    (place.mountpoint / "b").write_text("changed")
    assert run("unionfs-where", place.mountpoint / "b") == f"upper\t{place.upper}/b\n"
    unmount(place.mountpoint)


@needs_root
def test_where_tells_no_host_paths_to_others(
    place: Directories, ordinary_user: OrdinaryUser
) -> None:
    run(MOUNT, place.lower, place.upper, place.mountpoint)
    done = ordinary_user.run("unionfs-where", place.mountpoint / "a")
    assert (done.returncode, done.stdout) == (0, "lower 1\ta\n")
    unmount(place.mountpoint)


def test_where_in_a_read_only_mount(place: Directories) -> None:
    run(MOUNT, f"{place.lower}:{place.lower2}", place.mountpoint)
    assert run("unionfs-where", place.mountpoint / "b") == f"lower 2\t{place.lower2}/b\n"
    unmount(place.mountpoint)
