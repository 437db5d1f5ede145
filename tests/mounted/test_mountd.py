"""unionfs-mountd and unionfs-quickmount: what they mount is what unionfs-mount mounts."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.memory import private_memory
from tests.conftest import OrdinaryUser
from tests.mounted.commands import command, is_mounted, program, unionfs_mount
from tests.mounted.harness import Union, needs_root, only_unionfs, status, wait_until
from tests.mounted.users import in_user_namespace
from tests.mounts import detach
from unionfs.version import VERSION

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(60)]


class Mountd:
    """A running unionfs-mountd, and unionfs-quickmount that asks it."""

    def __init__(self, path: Path, *wrapper: str) -> None:
        self.path = path
        self.environment = {"UNIONFS_MOUNTD": str(path)}
        self.process = subprocess.Popen(
            [*wrapper, command("unionfs-mountd"), f"--socket={path}"],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: path.exists() or self.process.poll() is not None, "it listens")

    def end(self) -> str:
        """What it said."""
        self.process.terminate()
        _, said = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, said
        assert not self.path.exists()
        return str(said)

    def mount(self, *words: str | Path, **how: object) -> "subprocess.CompletedProcess[str]":
        return unionfs_mount(*words, name="unionfs-quickmount", environment=self.environment, **how)  # type: ignore[arg-type]


@pytest.fixture
def mountd(place: Path) -> Iterator[Mountd]:
    running = Mountd(place / "mountd")
    try:
        yield running
    finally:
        if running.process.poll() is None:
            assert running.end() == ""


@pytest.fixture
def union(place: Path) -> Iterator[Union]:
    union = Union(place)
    (union.lower / "file").write_text("lower")
    try:
        yield union
    finally:
        if is_mounted(union.mountpoint):
            unmount(union)


def unmount(union: Union) -> None:
    """Unmount, and wait for the daemon."""
    subprocess.run(["umount", union.mountpoint], check=True)
    unmounted(union)


def unmounted(union: Union) -> None:
    assert union.upper is not None
    work = union.upper / ".wh..wh.work"
    wait_until(lambda: not work.exists(), "the daemon gives the upper back")


def server(union: Union) -> int:
    """The process that serves the mount, by the note it has left in the upper."""
    assert union.upper is not None
    note = (union.upper / ".wh..wh.work/work/mounted-by").read_text()
    return int(note.split()[0])


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_mounts(union: Union, mountd: Mountd) -> None:
    done = mountd.mount(union.lower, union.upper, union.mountpoint)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert program(server(union)) == "unionfs-mountd"
    assert comm(server(union)) == "unionfs-mount"
    (union.mountpoint / "file").write_text("changed")
    assert (union.lower / "file").read_text() == "lower"
    (union.lower / "file").write_bytes(bytes(1 << 20))
    unmount(union)
    assert mountd.process.poll() is None


def test_a_mount_outlives_the_mountd(union: Union, mountd: Mountd) -> None:
    mountd.mount(union.lower, union.upper, union.mountpoint)
    assert mountd.end() == ""
    assert (union.mountpoint / "file").read_text() == "lower"


def test_the_slow_path_works_in_a_child(union: Union, mountd: Mountd) -> None:
    (union.lower / "large").write_bytes(bytes(4 << 20))
    mountd.mount(union.lower, union.upper, union.mountpoint)
    with (union.mountpoint / "large").open("r+b") as file:
        file.write(b"x")
    assert status(union.mountpoint)["copy_ups"] == 1


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_child_is_no_larger(union: Union, mountd: Mountd) -> None:
    """What it shares with its parent costs nothing, also in one that has copied pages before."""
    unionfs_mount(union.lower, union.upper, union.mountpoint)
    alone = private_memory(server(union))
    unmount(union)
    parent = mountd.process.pid
    wait_until(lambda: bool(children(parent)), "a child waits")
    first = children(parent)[0]
    waiting = private_memory(first)
    mountd.mount(union.lower, union.upper, union.mountpoint)
    assert server(union) == first
    assert waiting < private_memory(first) < alone
    unmount(union)

    def second() -> list[int]:
        return [child for child in children(parent) if child != first]

    wait_until(lambda: any(private_memory(one) > 2 * waiting for one in second()), "it copies")
    mountd.mount(union.lower, union.upper, union.mountpoint)
    assert [server(union)] == second()[:1]
    assert private_memory(server(union)) < alone
    unmount(union)


def test_paths_are_the_callers(union: Union, mountd: Mountd) -> None:
    assert mountd.mount("lower0", "upper", "mnt", cwd=union.root).returncode == 0
    assert (union.mountpoint / "file").read_text() == "lower"


def test_cpus_are_the_callers(union: Union, mountd: Mountd) -> None:
    cpu = max(os.sched_getaffinity(0))
    mountd.mount(
        union.lower, union.upper, union.mountpoint, wrapper=("taskset", "--cpu-list", str(cpu))
    )
    assert os.sched_getaffinity(server(union)) == {cpu}


@pytest.mark.parametrize(
    "words",
    [
        ("/nowhere", "/tmp"),
        ("--help",),
        ("--version",),
        ("-o", "no_such_option=1", "/nowhere", "/tmp"),
        ("-o", "cow", "/nowhere", "/tmp"),
        ("--no-such-option",),
        ("",),
        (),
    ],
    ids=" ".join,
)
def test_says_what_unionfs_mount_says(mountd: Mountd, words: tuple[str, ...]) -> None:
    expected = unionfs_mount(*words)
    done = mountd.mount(*words)
    assert (done.returncode, done.stdout, done.stderr) == (
        expected.returncode,
        expected.stdout,
        expected.stderr,
    )


def test_without_a_mountd(union: Union) -> None:
    for path in (union.root / "nobody", Path("/" + "x" * 200)):
        union.mountpoint.mkdir(exist_ok=True)
        done = unionfs_mount(
            union.lower,
            union.upper,
            union.mountpoint,
            name="unionfs-quickmount",
            environment={"UNIONFS_MOUNTD": str(path)},
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert program(server(union)) == "unionfs-mount"
        unmount(union)


def test_by_another_name(union: Union, mountd: Mountd) -> None:
    """A link elsewhere still finds the unionfs-mount beside the program itself."""
    link = union.root / "link"
    link.symlink_to(command("unionfs-quickmount"))
    mountd.end()
    subprocess.run(
        [link, union.lower, union.upper, union.mountpoint], env=os.environ | mountd.environment,
        check=True,
    )  # fmt: skip
    assert program(server(union)) == "unionfs-mount"


def test_the_runtime_directory_is_looked_in(union: Union) -> None:
    directory = union.root / "run"
    directory.mkdir()
    mountd = Mountd(directory / "unionfs-mountd")
    try:
        unionfs_mount(
            union.lower,
            union.upper,
            union.mountpoint,
            name="unionfs-quickmount",
            environment={"XDG_RUNTIME_DIR": str(directory)},
        )
        assert program(server(union)) == "unionfs-mountd"
    finally:
        mountd.end()


def test_in_the_foreground_it_serves_itself(union: Union, mountd: Mountd) -> None:
    process = subprocess.Popen(
        [command("unionfs-quickmount"), "-f", union.lower, union.upper, union.mountpoint],
        env=os.environ | mountd.environment,
    )
    try:
        wait_until(lambda: is_mounted(union.mountpoint), "it mounts")
        assert server(union) == process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_in_another_mount_namespace(union: Union, mountd: Mountd) -> None:
    script = 'unionfs-quickmount "$@" && cat "$3/file" && umount "$3"'
    path = f"{Path(command('unionfs-quickmount')).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{script}; findmnt --noheadings {union.mountpoint}",
         "sh", union.lower, union.upper, union.mountpoint],
        env=os.environ | mountd.environment | {"PATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("lower", "")
    assert not is_mounted(union.mountpoint)


def test_below_another_root(union: Union, mountd: Mountd) -> None:
    """Paths begin where the caller's do."""
    root = union.root / "root"
    quickmount = command("unionfs-quickmount")
    needed = subprocess.run(["ldd", quickmount], capture_output=True, text=True, check=True).stdout
    for source in [quickmount, *re.findall(r"(/\S+) \(0x", needed)]:
        target = root / source.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    for name in ("proc", "dev", "run", "a", "b", "mnt"):
        (root / name).mkdir()
    (root / "a/file").write_text("inside")
    devices, processes = bound(root / "dev", "/dev"), bound(root / "proc", "/proc")
    with devices, processes, bound(root / "run", mountd.path.parent):
        done = subprocess.run(
            [shutil.which("chroot"), root, quickmount, "/a", "/b", "/mnt"],
            env={"UNIONFS_MOUNTD": "/run/mountd"}, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (root / "mnt/file").read_text() == "inside"
        subprocess.run(["umount", root / "mnt"], check=True)
        wait_until(lambda: not (root / "b/.wh..wh.work").exists(), "the daemon ends")


@contextmanager
def bound(directory: Path, source: str | Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", source, directory], check=True)
    try:
        yield
    finally:
        detach(directory)  # a daemon that is about to end may have something of it open


def test_an_ordinary_user(union: Union, ordinary_user: OrdinaryUser) -> None:
    """By fusermount3, and as root of a namespace of his own, which the mountd then enters."""
    for directory in (union.lower, union.upper, union.mountpoint):
        assert directory is not None
        os.chown(directory, ordinary_user.uid, ordinary_user.gid)
    path = ordinary_user.home / "mountd"
    as_user = ("setpriv", f"--reuid={ordinary_user.uid}", f"--regid={ordinary_user.gid}")
    mountd = Mountd(path, *as_user, "--clear-groups")
    script = """
        unionfs-quickmount "$1" "$2" "$3"
        read -r server _ < "$2/.wh..wh.work/work/mounted-by" || test -n "$server"
        cat "$3/file"
        tr '\\0' ' ' < "/proc/$server/cmdline"
    """
    words = (str(union.lower), str(union.upper), str(union.mountpoint))
    root_of_his_own = ("unshare", "--user", "--map-root-user", "--mount")
    try:
        for enter, leave in (((), 'fusermount3 -u "$3"'), (root_of_his_own, 'umount "$3"')):
            done = ordinary_user.run(
                *enter, "sh", "-ec", script + leave, "sh", *words, environment=mountd.environment
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert re.match(r"lower\S+ .* \S+/unionfs-mountd ", done.stdout)
            unmounted(union)
    finally:
        mountd.end()


def test_another_user_is_not_served(
    union: Union, mountd: Mountd, ordinary_user: OrdinaryUser
) -> None:
    """Not even where the socket's mode lets him."""
    mountd.path.chmod(0o666)
    done = ordinary_user.run(
        "unionfs-quickmount", union.lower, union.upper, union.mountpoint,
        environment=mountd.environment,
    )  # fmt: skip
    assert done.returncode == 11, done.stderr  # as unionfs-mount says it: the upper is root's
    assert not is_mounted(union.mountpoint)


@pytest.mark.timeout(10)
def test_another_users_mountd_is_not_asked(union: Union) -> None:
    """It would get the directories and the output of whoever asks."""
    path = union.root / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        os.seteuid(65534)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        done = unionfs_mount(
            union.lower,
            union.upper,
            union.mountpoint,
            name="unionfs-quickmount",
            environment={"UNIONFS_MOUNTD": str(path)},
        )
        assert (done.returncode, program(server(union))) == (0, "unionfs-mount")
        with listener.accept()[0] as connection:
            assert connection.recv(1 << 16) == b""


@pytest.mark.parametrize("enter", [(), ("unshare", "--mount")], ids=["same", "other"])
def test_who_may_not_mount_in_his_namespace_is_not_helped(
    union: Union, mountd: Mountd, enter: tuple[str, ...]
) -> None:
    done = mountd.mount(
        union.lower, union.upper, union.mountpoint,
        wrapper=(*enter, "setpriv", "--bounding-set=-sys_admin", "--"),
    )  # fmt: skip
    assert done.returncode == 43, done.stderr
    assert not is_mounted(union.mountpoint)


def test_root_of_a_user_namespace_is_not_root(union: Union, mountd: Mountd) -> None:
    """Its ids are others, and the mountd of root is not asked to enter."""
    code, said = in_user_namespace(
        f"UNIONFS_MOUNTD={mountd.path} {command('unionfs-quickmount')} "
        f"{union.lower} {union.upper} {union.mountpoint}",
        "0 100000 65536",
    )
    assert code != 0
    assert "Traceback" not in said
    assert not is_mounted(union.mountpoint)


# --- the socket ---


def test_two_at_one_place(mountd: Mountd) -> None:
    done = subprocess.run(
        [command("unionfs-mountd"), f"--socket={mountd.path}"], capture_output=True, text=True
    )
    assert done.returncode == 52
    assert f"{mountd.path} (another unionfs-mountd listens there): end " in done.stderr
    assert mountd.path.exists()


def test_nowhere_to_listen(place: Path) -> None:
    done = subprocess.run(
        [command("unionfs-mountd"), f"--socket={place}/missing/socket"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 52
    assert "(No such file or directory): " in done.stderr


def test_a_socket_that_was_left_is_replaced(union: Union, mountd: Mountd) -> None:
    mountd.process.kill()
    mountd.process.communicate()
    assert mountd.path.exists()
    again = Mountd(mountd.path)
    wait_until(lambda: answers(again.path), "it listens")
    assert mountd.mount(union.lower, union.upper, union.mountpoint).returncode == 0
    assert program(server(union)) == "unionfs-mountd"
    again.end()


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        return connection.connect_ex(str(path)) == 0


@pytest.mark.parametrize(
    ("message", "descriptors"),
    [
        (b"", 0),
        (b"0.0.0\0--version\0", 6),
        (VERSION.encode() + b"\0--version\0", 5),
        (VERSION.encode() + b"\0--version\0", 7),
        (VERSION.encode() + b"\0--version", 6),
        (b"\xff" * 1000, 6),
        (VERSION.encode() + b"\0--version\0", 6),
    ],
)
def test_what_is_no_request_is_declined(mountd: Mountd, message: bytes, descriptors: int) -> None:
    """Also six descriptors that are none of a caller's namespaces."""
    with (
        open(os.devnull, "rb") as null,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection,
    ):
        connection.connect(str(mountd.path))
        if descriptors:
            socket.send_fds(connection, [message], [null.fileno()] * descriptors)
        else:
            connection.send(message)
        assert connection.recv(2) == b"\xff"


def test_who_goes_away_is_no_trouble(union: Union, mountd: Mountd) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(str(mountd.path))
    assert mountd.mount(union.lower, union.upper, union.mountpoint).returncode == 0


def test_a_mountd_that_ends_before_it_answers(union: Union) -> None:
    path = union.root / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        asking = subprocess.Popen(
            [command("unionfs-quickmount"), union.lower, union.upper, union.mountpoint],
            env=os.environ | {"UNIONFS_MOUNTD": str(path)},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with listener.accept()[0] as connection:
            connection.recv(1 << 16)
        _, said = asking.communicate(timeout=30)
    assert asking.returncode == 44
    assert said.startswith("unionfs-quickmount: unionfs-mountd ended before it answered")
