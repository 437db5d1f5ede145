"""The filesystems that are compared: how each is mounted, unmounted, and who serves it.

A peer is a name and the command that mounts it. Whether it works here is learnt by mounting it
once (`unavailable`), which also finds a missing kernel module, privilege or option.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from testbed.memory import private_memory

MOUNT_TIMEOUT = 30.0
UNMOUNT_TIMEOUT = 30.0

ROOT = Path(__file__).parents[1]

_OFFER = Path("/sys/module/fuse/parameters/enable_uring")

_MOUNTD = "UNIONFS_MOUNTD"  # in the environment: where unionfs-mountd listens
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class PeerError(Exception):
    """A peer could not be mounted or unmounted; the message is what it said."""


class Branches(NamedTuple):
    """The directories of one mount. ``lowers[0]`` is the topmost lower branch."""

    lowers: tuple[Path, ...]
    upper: Path
    work: Path
    mount_point: Path


@dataclass(frozen=True)
class Peer:
    name: str
    command: Callable[[Branches, str], list[str]] | None
    """The command line that mounts in ``mode``; it runs in the directory above the lowers. None:
    no union, the workload gets a plain directory with the same content."""
    mode: str = ""
    """Mount options on top of the peer's usual ones, separated by commas."""
    copies_up: bool = True
    """Can change and remove what is in a lower branch."""
    places_itself: bool = False
    """Has a thread on every CPU, and a request is served on the one where it is made."""
    only_starts: bool = False
    """Another peer as soon as it is mounted: takes part only in workloads that start mounts."""


@dataclass
class Mounted:
    """A mounted peer."""

    path: Path
    servers: list[int]
    """The processes that serve it; none for a plain directory and a kernel filesystem."""
    seconds: float
    """From starting the mount command until the mount had answered its first question."""
    said: str = ""
    """What the mount command wrote."""

    def private_memory(self) -> int:
        """Private memory of all serving processes and their descendants, in bytes."""
        return sum(map(private_memory, self.processes()))

    def cpus(self) -> set[int]:
        """The CPUs the serving threads may run on: a server may have pinned itself."""
        allowed: set[int] = set()
        for pid in self.processes():
            for task in os.listdir(f"/proc/{pid}/task"):
                with suppress(ProcessLookupError):  # ended meanwhile
                    allowed |= os.sched_getaffinity(int(task))
        return allowed

    def processes(self) -> list[int]:
        found = list(self.servers)
        for pid in found:
            found.extend(_children(pid))
        return found


def _overlayfs(branches: Branches, mode: str) -> list[str]:
    # mount(2) takes one page of options; names relative to the directory above the lowers make
    # room for hundreds of branches.
    above = branches.lowers[0].parent
    lowers = ":".join(os.path.relpath(lower, above) for lower in branches.lowers)
    text = f"lowerdir={lowers},upperdir={branches.upper},workdir={branches.work}"
    options = ["-o", mode] if mode else []
    return ["mount", "-t", "overlay", "overlay", "-o", text, *options, str(branches.mount_point)]


def _fuse_overlayfs(branches: Branches, _: str) -> list[str]:
    lowers = ":".join(map(str, branches.lowers))
    text = f"lowerdir={lowers},upperdir={branches.upper},workdir={branches.work}"
    return ["fuse-overlayfs", "-o", text, str(branches.mount_point)]


def _unionfs_fuse(branches: Branches, _: str) -> list[str]:
    text = ":".join([f"{branches.upper}=RW", *(f"{lower}=RO" for lower in branches.lowers)])
    return ["unionfs-fuse", "-o", "cow", text, str(branches.mount_point)]


def _mergerfs(branches: Branches, _: str) -> list[str]:
    # "epff", the default, creates only where the parent directory is; minfreespace (default 4G)
    # would refuse to create on a smaller disk.
    text = ":".join([f"{branches.upper}=RW", *(f"{lower}=NC" for lower in branches.lowers)])
    options = "category.create=ff,minfreespace=0,use_ino,cache.files=auto-full"
    return ["mergerfs", "-o", options, text, str(branches.mount_point)]


def _unionfs(branches: Branches, mode: str) -> list[str]:
    installed = _installed("unionfs-mount")
    checkout = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "unionfs", "mount"]
    return _unionfs_by([str(installed)] if installed.exists() else checkout, branches, mode)


def _unionfs_by_mountd(branches: Branches, mode: str) -> list[str]:
    if _MOUNTD not in os.environ:
        raise PeerError("no unionfs-mountd runs: install the package")
    return _unionfs_by([str(_installed("unionfs-quickmount"))], branches, mode)


def _unionfs_by(command: list[str], branches: Branches, mode: str) -> list[str]:
    lowers = ":".join(map(str, branches.lowers))
    options = ["-o", mode] if mode else []
    return [*command, *options, lowers, str(branches.upper), str(branches.mount_point)]


def _installed(command: str) -> Path:
    return Path(sys.executable).with_name(command)


PEERS = {
    peer.name: peer
    for peer in (
        Peer("plain", None),
        Peer("overlayfs", _overlayfs),
        Peer("overlayfs-volatile", _overlayfs, "volatile"),
        Peer("fuse-overlayfs", _fuse_overlayfs),
        Peer("unionfs-fuse", _unionfs_fuse),
        Peer("mergerfs", _mergerfs, copies_up=False),
        Peer("unionfs", _unionfs, "io_uring=off"),
        Peer("unionfs-volatile", _unionfs, "volatile,io_uring=off"),
        Peer("unionfs-uring", _unionfs, "io_uring=auto", places_itself=True),
        Peer("unionfs-passthrough", _unionfs, "io=passthrough"),
        Peer("unionfs-mountd", _unionfs_by_mountd, "io_uring=off", only_starts=True),
    )
}


@contextmanager
def io_uring_offered() -> Iterator[None]:
    """Have the kernel offer FUSE over io_uring to what is mounted meanwhile, where we may."""
    with ExitStack() as undo:
        with suppress(OSError):
            before = _OFFER.read_text()
            _OFFER.write_text("Y")
            undo.callback(_OFFER.write_text, before)
        yield


@contextmanager
def mountd_running() -> Iterator[None]:
    """Have a unionfs-mountd for what is mounted meanwhile, if the package is installed."""
    command = _installed("unionfs-mountd")
    if not command.exists():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="unionfs-mountd-") as directory:
        path = Path(directory, "socket")
        mountd = subprocess.Popen([command, f"--socket={path}"], env=_environment())
        try:
            while not path.exists() and mountd.poll() is None:
                time.sleep(0.01)
            os.environ[_MOUNTD] = str(path)
            yield
        finally:
            os.environ.pop(_MOUNTD, None)
            mountd.terminate()
            mountd.wait()


def mount(peer: Peer, branches: Branches) -> Mounted:
    """Mount ``peer`` over empty ``upper``, ``work`` and ``mount_point``, which are created.

    The caller's CPU affinity is inherited by the servers. Raises PeerError with what the command
    said when it fails.
    """
    assert peer.command is not None
    _adopt_orphans()
    for directory in (branches.upper, branches.work, branches.mount_point):
        directory.mkdir(parents=True)
    before = set(_children(os.getpid()))
    # A file, not a pipe: a server that keeps its descriptors would hold a pipe open for ever.
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        try:
            command = subprocess.Popen(
                peer.command(branches, peer.mode),
                cwd=branches.lowers[0].parent,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
            status = _wait(command, MOUNT_TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            _end(_new_children(before))
            raise PeerError(str(error)) from error
        if status == 0:
            os.listdir(branches.mount_point)
        seconds = time.perf_counter() - started
        said.seek(0)
        text = said.read().decode(errors="replace").strip()
    servers = _new_children(before)
    if status == 0 and peer.only_starts:
        servers = [_server_by_note(branches)]
    mounted = Mounted(branches.mount_point, servers, seconds, text)
    if status != 0 or not os.path.ismount(branches.mount_point):
        _end(mounted.servers)
        raise PeerError(text or f"exit status {status} and nothing mounted")
    return mounted


def _wait(command: subprocess.Popen[bytes], seconds: float) -> int:
    """The exit status of a command, as soon as it has one.

    Popen.wait() with a timeout sleeps, twice as long each time: what took 40 ms is seen after 64.
    Raises subprocess.TimeoutExpired.
    """
    ended = os.pidfd_open(command.pid)
    try:
        if not select.select([ended], [], [], seconds)[0]:
            raise subprocess.TimeoutExpired(command.args, seconds)
    finally:
        os.close(ended)
    return command.wait()


def unmount(mounted: Mounted) -> None:
    """Unmount and wait until the servers have ended; what will not end is killed.

    Raises PeerError if force was needed: such a peer's numbers are not to be trusted.
    """
    root = os.geteuid() == 0
    deadline = time.monotonic() + UNMOUNT_TIMEOUT
    while refusal := _umount(mounted.path, ["umount"] if root else ["fusermount3", "-u"]):
        # Others may be looking at every mount of the machine for a moment.
        if "busy" not in refusal or time.monotonic() > deadline:
            _umount(mounted.path, ["umount", "-l"] if root else ["fusermount3", "-u", "-z"])
            _end(mounted.servers)
            raise PeerError(refusal)
        time.sleep(0.05)
    while running := [pid for pid in mounted.servers if _runs(pid)]:
        mounted.servers = running
        if time.monotonic() > deadline:
            _end(running)
            raise PeerError(f"still running {UNMOUNT_TIMEOUT:.0f} s after the unmount")
        time.sleep(0.005)


def _umount(path: Path, command: list[str]) -> str:
    """What the command said when it refused; nothing if the mount is gone."""
    done = subprocess.run([*command, str(path)], capture_output=True, text=True)
    return (done.stderr.strip() or f"status {done.returncode}") if done.returncode else ""


def unavailable(peer: Peer, directory: Path) -> str | None:
    """Mount ``peer`` once below ``directory``, a new one: None, or why it cannot take part.

    A mount that succeeds with a warning about its mode does not count: an option that was passed
    over is a mode that is not there.
    """
    if peer.command is None:
        return None
    lower = directory / "lower"
    lower.mkdir(parents=True)
    names = (directory / name for name in ("upper", "work", "mnt"))
    try:
        mounted = mount(peer, Branches((lower,), *names))
        queues = "io_uring=auto" not in peer.mode or _queues(mounted.path)
        unmount(mounted)
    except PeerError as error:
        return str(error)
    if not queues:
        return f"the kernel does not offer it: echo 1 > {_OFFER}"
    asked = [option.partition("=")[0] for option in peer.mode.split(",") if option]
    return mounted.said if any(option in mounted.said for option in asked) else None


def _environment() -> dict[str, str]:
    """Ours, but that Python keeps what it has compiled, as it does for what is installed."""
    return {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _queues(mount_point: Path) -> int:
    """How many queues of FUSE over io_uring a union has."""
    status = json.loads(os.getxattr(mount_point, "user.unionfs.status"))
    return int(status["queues"])


def _adopt_orphans() -> None:
    """Make servers that detach our children, so that they can be found and waited for."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.extend(map(int, (task / "children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended meanwhile; unionfs-fuse starts and ends them all the time
    return found


def _new_children(before: set[int]) -> list[int]:
    """Our children that are not in ``before`` and still run; the ended ones are reaped."""
    new = (pid for pid in _children(os.getpid()) if pid not in before)
    return [pid for pid in new if os.waitpid(pid, os.WNOHANG)[0] == 0]


def _server_by_note(branches: Branches) -> int:
    """The process that serves a union and is no child of ours, as it says in the upper."""
    note = branches.upper / ".wh..wh.work/work/mounted-by"
    return int(note.read_text().split()[0])


def _runs(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:  # a child of unionfs-mountd
        return Path(f"/proc/{pid}").exists()


def _end(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        while _runs(pid):
            time.sleep(0.001)
