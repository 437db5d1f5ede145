"""Unions for the tests that use a real mount: ours, or a peer's in its place.

With ``UNIONFS_TEST_PEER=overlay`` or ``fuse-overlayfs`` the same tests run on kernel overlayfs or
on fuse-overlayfs: what fails there too is more likely the test's fault than the mount's.
``UNIONFS_TEST_OPTIONS`` gives every mount other options: ``"{'copyup': 'open'}"``.
"""

import ast
import errno
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.mounts import abort, detach, mounts_below

PEER = os.environ.get("UNIONFS_TEST_PEER", "")

#: Options for every mount that does not say otherwise, as a Python dictionary.
OPTIONS: dict[str, Any] = ast.literal_eval(os.environ.get("UNIONFS_TEST_OPTIONS", "{}"))

#: What a request is answered whose daemon was killed. EIO: it was just being read (the kernel's
#: fuse_dev_do_read); ECANCELED: it was in an io_uring, which the machine may offer.
FROM_THE_DEAD = (errno.ECONNABORTED, errno.ENOTCONN, errno.EIO, errno.ECANCELED)

only_unionfs = pytest.mark.skipif(
    PEER != "", reason="looks into unionfs itself: what the upper holds, its daemon, its commands"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def abort_fuse_below(directory: Path) -> None:
    """End every FUSE connection mounted below `directory`: what waits there gets ECONNABORTED."""
    for mount in mounts_below(directory):
        if mount.kind.startswith("fuse"):
            abort(mount.device)


@contextmanager
def watchdog(directory: Path, seconds: float) -> Iterator[None]:
    """Abort the FUSE mounts below `directory` after `seconds`.

    A process that waits for a FUSE server ignores every signal but SIGKILL, so pytest-timeout
    alone would leave it waiting for ever, mount included.
    """
    fired = threading.Event()

    def fire() -> None:
        fired.set()
        abort_fuse_below(directory)

    timer = threading.Timer(seconds, fire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if fired.is_set():
            pytest.fail(f"nothing moved on the mount for {seconds:g} s: its connection was aborted")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Return as soon as `condition` holds; fail naming `what` when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.005)


def fails_with(number: int, call: Callable[[], object], note: object = "") -> None:
    """Fail unless `call` raises OSError with this errno."""
    try:
        result = call()
    except OSError as error:
        if error.errno != number:
            pytest.fail(f"{error} in the place of {errno.errorcode[number]} {note}")
    else:
        if hasattr(result, "close"):
            result.close()
        pytest.fail(f"nothing failed in the place of {errno.errorcode[number]} {note}")


def gone(pid: int) -> bool:
    """Whether process `pid` has ended (a zombie has)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


def status(mountpoint: Path) -> dict[str, Any]:
    """What the daemon says of itself, as `unionfs-status --json` prints it."""
    value: dict[str, Any] = json.loads(os.getxattr(mountpoint, "user.unionfs.status"))
    return value


class Union:
    """A union on the directories below `root`; it can be mounted and unmounted repeatedly.

    `lowers` are the branches from the topmost down, `upper` is the read-write one (None with
    ``writable=False``).
    """

    def __init__(
        self, root: Path, *, lowers: int = 1, writable: bool = True, **options: Any
    ) -> None:
        self.root = root
        self.lowers = [root / f"lower{number}" for number in range(lowers)]
        self.upper = root / "upper" if writable else None
        self.mountpoint = root / "mnt"
        self.options = OPTIONS | options
        self._session: Any = None
        for directory in (*self.lowers, self.upper, self.mountpoint):
            if directory is not None:
                directory.mkdir(parents=True, exist_ok=True)

    @property
    def lower(self) -> Path:
        """The topmost lower."""
        return self.lowers[0]

    @property
    def pid(self) -> int:
        """The process that serves the mount."""
        pid = self._session.pid
        assert isinstance(pid, int)
        return pid

    def mount(self) -> Path:
        """Mount and return the mount point."""
        assert self._session is None
        if PEER:
            self._mount_peer()
        else:
            import unionfs

            self._session = unionfs.mount(self.lowers, self.upper, self.mountpoint, **self.options)
            self._session.__enter__()
        return self.mountpoint

    def _mount_peer(self) -> None:
        work = self.root / "peer-work"
        work.mkdir(exist_ok=True)
        options = "lowerdir=" + ":".join(map(str, self.lowers))
        if self.upper is not None:
            options += f",upperdir={self.upper},workdir={work}"
        command = {
            "overlay": ["mount", "-t", "overlay", "overlay", "-o", options],
            "fuse-overlayfs": ["fuse-overlayfs", "-o", options],
        }[PEER]
        subprocess.run([*command, str(self.mountpoint)], check=True)
        self._session = PEER

    def unmount(self) -> None:
        """Unmount and wait until everything is written out."""
        session, self._session = self._session, None
        if session is None:
            return
        if PEER:
            subprocess.run(["umount", str(self.mountpoint)], check=True)
        else:
            session.__exit__(None, None, None)

    def remount(self) -> None:
        """Unmount and mount again: nothing is left in any cache of the mount."""
        self.unmount()
        self.mount()

    def clear_dead(self) -> None:
        """Take the mount of a daemon that was killed out of the way."""
        pid = self.pid
        wait_until(lambda: gone(pid), f"process {pid} ends")
        detach(self.mountpoint)
        session, self._session = self._session, None
        session.__exit__(None, None, None)

    def __enter__(self) -> Self:
        if self._session is None:
            self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.unmount()
        finally:
            for mount in reversed(mounts_below(self.mountpoint)):
                detach(mount.point)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory that every user can reach, under a watchdog; all below it is removed.

    (pytest's own tmp_path is closed to everybody but its owner.)
    """
    marker = request.node.get_closest_marker("timeout")
    limit = 0.8 * float(marker.args[0]) if marker else 60.0
    directory = Path(tempfile.mkdtemp(prefix="unionfs-test-"))
    directory.chmod(0o755)
    try:
        with watchdog(directory, limit):
            yield directory
    finally:
        for mount in reversed(mounts_below(directory)):
            detach(mount.point)
        # Not shutil.rmtree: trees deeper than PATH_MAX are among what is left here.
        subprocess.run(["rm", "-rf", str(directory)], check=True)


@pytest.fixture
def memory(place: Path) -> Iterator[Path]:
    """A directory in memory, for what the disk would only make slow; root only."""
    directory = place / "memory"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", directory], check=True)
    yield directory
    detach(directory)
