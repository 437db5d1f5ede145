"""Where the cases run: a plain directory, kernel overlayfs, unionfs, as root and rootless.

A place is mounted once and serves every case in a directory of the case's own. A process, the
keeper, holds the mount in a mount namespace of its own, so that nothing is left behind on the
host whatever happens; each case is a child that enters that namespace.
"""

import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from tests import mounts
from tests.posix import calls, process, trees

#: The user an ordinary process is, where a place has users to choose from.
USER = GROUP = 4321


def _ordinary() -> tuple[int, int]:
    """Who mounts without a namespace: fusermount3 wants a user that has a name."""
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


#: What a case may need and a place may not have, with the reason told when it is skipped.
NEEDS = {
    "users": "needs rights over more than one user id",
    "devices": "needs CAP_MKNOD in the first user namespace",
    "trusted": "needs CAP_SYS_ADMIN in the first user namespace",
    "flags": "needs CAP_LINUX_IMMUTABLE in the first user namespace",
    "caches": "needs to write to /proc/sys/vm/drop_caches, which is for root",
    "acls": "has none where owners and modes are kept in attributes",
    "time": "takes long, so it runs in one place of each filesystem",
}

#: The host's first id of the user namespace's ids 0..65535.
_MAPPED = 100000


@dataclass(frozen=True)
class Layout:
    """The directories of one place on the host."""

    top: str

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return os.path.join(self.top, name)

    def make(self, owner: int, group: int) -> None:
        for name in ("upper", "lower", "lower2", "work", "mnt"):
            path = os.path.join(self.top, name)
            os.mkdir(path)
            os.chmod(path, 0o755)
            os.chown(path, owner, group)
        os.chmod(self.top, 0o755)
        os.chown(self.top, owner, -1)


Mount = Callable[[Layout, Sequence[str]], AbstractContextManager[str]]


@contextlib.contextmanager
def _plain(layout: Layout, lowers: Sequence[str]) -> Iterator[str]:
    yield layout.upper


@contextlib.contextmanager
def _overlay(layout: Layout, lowers: Sequence[str]) -> Iterator[str]:
    data = f"lowerdir={':'.join(lowers)},upperdir={layout.upper},workdir={layout.work}"
    data += ",redirect_dir=on,index=on,xino=on"  # as close to POSIX as it can be had
    calls.mount("overlay", layout.mnt, "overlay", 0, data)
    yield layout.mnt
    calls.umount(layout.mnt)


@contextlib.contextmanager
def _fuse_overlayfs(layout: Layout, lowers: Sequence[str]) -> Iterator[str]:
    data = f"lowerdir={':'.join(lowers)},upperdir={layout.upper},workdir={layout.work}"
    subprocess.run(["fuse-overlayfs", "-o", data + ",allow_other", layout.mnt], check=True)
    yield layout.mnt
    calls.umount(layout.mnt)


@contextlib.contextmanager
def _unionfs(layout: Layout, lowers: Sequence[str]) -> Iterator[str]:
    import unionfs

    with unionfs.mount(lowers, layout.upper, layout.mnt):
        yield layout.mnt


@contextlib.contextmanager
def _unionfs_passthrough(layout: Layout, lowers: Sequence[str]) -> Iterator[str]:
    """The kernel reads and writes the branches' files by itself."""
    import unionfs

    with unionfs.mount(lowers, layout.upper, layout.mnt, io="passthrough"):
        yield layout.mnt


@contextlib.contextmanager
def _unionfs_records(layout: Layout, lowers: Sequence[str]) -> Iterator[str]:
    """Owners, modes and types are kept in attributes of the upper."""
    import unionfs

    with unionfs.mount(lowers, layout.upper, layout.mnt, xattr_permissions=2):
        yield layout.mnt


@contextlib.contextmanager
def _unionfs_mapped(layout: Layout, lowers: Sequence[str]) -> Iterator[str]:
    """The branches hold the ids of a user namespace, the mount shows them as that one would."""
    import unionfs

    ids = [(_MAPPED, 0, 65536)]
    with unionfs.mount(lowers, layout.upper, layout.mnt, uid_map=ids, gid_map=ids):
        yield layout.mnt


@dataclass(frozen=True)
class Kind:
    """What a place is made of."""

    mount: Mount
    #: The branches, by their names in Layout, over which the given trees are spread.
    spread: Sequence[str]
    lowers: Sequence[str] = ("lower",)
    can: frozenset[str] = frozenset(NEEDS) - {"time"}
    #: "root", "namespace" (root of a user namespace) or "user".
    caller: str = "root"
    #: The given trees are built in a user namespace: their ids on disk start at _MAPPED.
    mapped: bool = False
    #: The topics (test_TOPIC.py) in which this place differs from another one; None: all.
    topics: frozenset[str] | None = None


_NAMESPACE = frozenset({"users", "acls"})
_ALL_BRANCHES = ("lower", "upper", "lower2")
_TWO = ("lower", "lower2")

KINDS: Mapping[str, Kind] = {
    "plain": Kind(_plain, ["upper"], can=frozenset(NEEDS)),
    "plain-namespace": Kind(_plain, ["upper"], can=_NAMESPACE, caller="namespace"),
    "plain-user": Kind(_plain, ["upper"], can=frozenset({"acls"}), caller="user"),
    "overlay-upper": Kind(_overlay, ["upper"]),
    "overlay-lower": Kind(_overlay, ["lower"]),
    "overlay-merged": Kind(_overlay, _ALL_BRANCHES, _TWO),
    "fuseoverlayfs-lower": Kind(_fuse_overlayfs, ["lower"]),
    "unionfs-upper": Kind(_unionfs, ["upper"], can=frozenset(NEEDS)),
    "unionfs-lower": Kind(_unionfs, ["lower"]),
    "unionfs-merged": Kind(_unionfs, _ALL_BRANCHES, _TWO),
    "unionfs-passthrough": Kind(
        _unionfs_passthrough,
        ["upper"],
        topics=frozenset({"direct", "mmap", "permissions", "read_write"}),
    ),
    "unionfs-namespace": Kind(_unionfs, _ALL_BRANCHES, _TWO, can=_NAMESPACE, caller="namespace"),
    "unionfs-mapped": Kind(_unionfs_mapped, _ALL_BRANCHES, _TWO, can=_NAMESPACE, mapped=True),
    "unionfs-records": Kind(
        _unionfs_records, _ALL_BRANCHES, _TWO, can=frozenset(NEEDS) - {"time", "acls"}
    ),
    "unionfs-user": Kind(_unionfs, _ALL_BRANCHES, _TWO, can=frozenset({"acls"}), caller="user"),
}


class Place:
    """The directory of one case, and who may act in it."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path

    def __truediv__(self, name: str) -> str:
        return os.path.join(self.path, name)

    def drop_caches(self) -> None:
        """Make the kernel forget every clean page, name and inode that nobody uses."""
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")

    def as_user(
        self,
        function: Callable[..., Any],
        *args: Any,
        uid: int = USER,
        gid: int = GROUP,
        groups: Sequence[int] = (),
    ) -> Any:
        """Call the function as an ordinary user, in a child; its result or its exception."""

        def act() -> Any:
            process.become(uid, gid, groups)
            return function(*args)

        return process.call(act, deadline=process.DEADLINE / 2)


def remounted(check: Callable[[Place, Any], object]) -> pytest.MarkDecorator:
    """Mark a case: the place is mounted anew after it, then check(place, its result) must hold."""
    return pytest.mark.remounted.with_args(check)


class Mounted:
    """A place of one kind, with the trees of all its cases; `close` undoes everything."""

    def __init__(self, name: str, cases: Mapping[str, trees.Tree] | None = None) -> None:
        self.name = name
        self.kind = KINDS[name]
        self.layout = Layout(tempfile.mkdtemp(prefix=f"unionfs-posix-{name}-"))
        self._caller = self.kind.caller if os.geteuid() == 0 else "self"
        try:
            owner = self._owner()
            # A file whose group the mount cannot show is nobody's to change.
            self.layout.make(owner, owner if self.kind.mapped else -1)
            self._start(cases or {})
        except BaseException:
            shutil.rmtree(self.layout.top)
            raise

    def _owner(self) -> int:
        if self.kind.mapped:
            return _MAPPED
        if self._caller == "user":
            return _ordinary()[0]
        return {"namespace": _MAPPED, "root": 0, "self": os.geteuid()}[self._caller]

    def place(self, case: str) -> Place:
        return Place(self.name, os.path.join(self.root, case))

    def run(
        self, function: Callable[..., Any], *args: Any, deadline: float = process.DEADLINE
    ) -> Any:
        """Call the function in a child that lives inside the place."""

        def act() -> Any:
            self._enter()
            return function(*args)

        return process.call(act, deadline=deadline, on_hang=self.abort)

    def worker(self, function: Callable[[Any], Any]) -> process.Worker:
        """A child inside the place that calls the function again and again."""
        return process.Worker(function, enter=self._enter, on_hang=self.abort)

    def _enter(self) -> None:
        if self._caller == "namespace":
            calls.setns(self._user_namespace, calls.CLONE_NEWUSER)
        if self._caller != "self":
            calls.setns(self._mount_namespace, calls.CLONE_NEWNS)
        if self._caller == "namespace":
            process.become(0, 0)
        if self._caller == "user":
            process.become(*_ordinary())

    def remount(self) -> None:
        """Unmount and mount again; a plain directory stays as it is."""
        os.write(self._leash, b"r")
        self._await_mount()

    def close(self) -> None:
        os.close(self._leash)
        self._ready.close()
        _, status = os.waitpid(self._keeper, 0)
        os.close(self._mount_namespace)
        os.close(self._user_namespace)
        shutil.rmtree(self.layout.top)
        if status:
            raise RuntimeError(f"{self.name} was not unmounted cleanly, wait status {status}")

    # -- the keeper ---------------------------------------------------------------------------

    def _start(self, cases: Mapping[str, trees.Tree]) -> None:
        leash, self._leash = os.pipe2(os.O_CLOEXEC)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._keeper = os.fork()
        if self._keeper == 0:
            status = 1
            try:
                os.close(self._leash)
                os.close(reader)
                self._keep(cases, leash, writer)
                status = 0
            except BaseException as error:
                import traceback

                traceback.print_exc()
                with contextlib.suppress(OSError):
                    os.write(writer, f"{error!r}\n".encode())
            finally:
                os._exit(status)
        os.close(leash)
        os.close(writer)
        self._ready = os.fdopen(reader, "rb")
        try:
            self._await_mount()
        except RuntimeError:
            os.close(self._leash)
            os.waitpid(self._keeper, 0)
            raise
        self._mount_namespace = os.open(f"/proc/{self._keeper}/ns/mnt", os.O_RDONLY)
        self._user_namespace = os.open(f"/proc/{self._keeper}/ns/user", os.O_RDONLY)

    def _await_mount(self) -> None:
        said = self._hear()
        if said == "namespace":
            # Only a process outside may map more than one id.
            for which in ("uid_map", "gid_map"):
                with open(f"/proc/{self._keeper}/{which}", "w") as file:
                    file.write(f"0 {_MAPPED} 65536\n")
            os.write(self._leash, b"m")
            said = self._hear()
        if not said.startswith("mounted "):
            raise RuntimeError(f"{self.name} cannot be mounted: {said}")
        _, device, self.root = said.split(" ", 2)
        self.device = int(device)

    def _hear(self) -> str:
        """One line from the keeper."""
        if not select.select([self._ready], [], [], process.DEADLINE)[0]:
            os.kill(self._keeper, signal.SIGKILL)
            raise RuntimeError(f"{self.name} is not mounted within {process.DEADLINE} s")
        return self._ready.readline().decode().rstrip("\n")

    def _keep(self, cases: Mapping[str, trees.Tree], leash: int, ready: int) -> None:
        """In the keeper: build, mount, say so, wait for the end of the leash, unmount."""
        if self._caller != "self":
            _private_mounts()
        if self._caller in ("namespace", "user"):
            _open_to_all(sys.base_prefix, sys.prefix, os.path.dirname(os.path.abspath("unionfs")))
        if self._caller == "namespace":
            calls.unshare(calls.CLONE_NEWUSER | calls.CLONE_NEWNS)
            os.write(ready, b"namespace\n")
            os.read(leash, 1)
            process.become(0, 0)
        if self._caller == "user":
            process.become(*_ordinary())
        os.umask(0o022)
        branches = [getattr(self.layout, name) for name in self.kind.spread]
        if self.kind.mapped:
            _in_user_namespace(lambda: _build(cases, branches))
        else:
            _build(cases, branches)
        lowers = [getattr(self.layout, name) for name in self.kind.lowers]
        again = True
        while again:
            with self.kind.mount(self.layout, lowers) as root:
                os.write(ready, f"mounted {os.stat(root).st_dev} {root}\n".encode())
                again = os.read(leash, 1) == b"r"

    def abort(self) -> None:
        """Free whoever is stuck in a request that a FUSE daemon does not answer."""
        mounts.abort(self.device)


def _build(cases: Mapping[str, trees.Tree], branches: Sequence[str]) -> None:
    for case, tree in cases.items():
        here = [os.path.join(branch, case) for branch in branches]
        for path in here:
            os.mkdir(path)
        trees.build(here, tree)
        for path in here:
            os.chmod(path, 0o777)


def _in_user_namespace(function: Callable[[], object]) -> None:
    """Call the function as root of a user namespace, in a child; root only."""
    inside, entered = os.pipe()
    go, mapped = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            calls.unshare(calls.CLONE_NEWUSER)
            os.write(entered, b"e")
            os.read(go, 1)
            process.become(0, 0)
            function()
            status = 0
        finally:
            os._exit(status)
    os.read(inside, 1)
    for which in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{which}", "w") as file:
            file.write(f"0 {_MAPPED} 65536\n")
    os.write(mapped, b"m")
    _, status = os.waitpid(pid, 0)
    for fd in (inside, entered, go, mapped):
        os.close(fd)
    if status:
        raise RuntimeError(f"building in a user namespace failed, wait status {status}")


def _private_mounts() -> None:
    """A mount namespace within the run's."""
    calls.unshare(calls.CLONE_NEWNS)
    calls.mount("none", "/", "none", calls.MS_REC | calls.MS_PRIVATE)


def _open_to_all(*paths: str) -> None:
    """Make the interpreter and the package reachable where root keeps them in a home of its own.

    The mount starts processes as whoever mounts. A directory on the way that others may not
    search is covered, in this mount namespace, by one that holds the path and nothing else.
    """
    for path in paths:
        above = path
        while (above := os.path.dirname(above)) != "/":
            if not os.stat(above).st_mode & 0o001:
                inside = os.open(path, os.O_PATH)
                calls.mount("cover", above, "tmpfs", 0, "mode=755")
                os.makedirs(path)
                calls.mount(f"/proc/self/fd/{inside}", path, "none", calls.MS_BIND)
                os.close(inside)
                break
