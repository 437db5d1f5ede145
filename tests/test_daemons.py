"""What /proc tells of mounted unions, also of those that nobody outside can see."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import unionfs
from tests.conftest import Directories
from unionfs import daemons

MOUNT = str(Path(sys.executable).parent / "unionfs-mount")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def about(base: Path) -> list[daemons.Daemon]:
    """The daemons of a test: others may run beside it."""
    return [one for one in daemons.daemons() if (one.mountpoint or "").startswith(f"{base}/")]


def test_a_mount_here(branches: Directories) -> None:
    assert about(branches.base) == []
    point = branches.base / "a b\\\n"
    point.mkdir()
    with unionfs.mount([branches.lower], branches.upper, point) as mount:
        (found,) = about(branches.base)
        assert found[:4] == (mount.pid, os.stat(point).st_dev, str(point), True)
        assert daemons.daemon_of(mount.pid) == found
        assert daemons.union_on(os.stat(point).st_dev) == str(point)
        assert daemons.union_on(os.stat(branches.base).st_dev) is None
    assert about(branches.base) == []


@needs_root
def test_a_mount_that_only_its_daemon_sees(branches: Directories) -> None:
    """What a script in `unshare --mount` leaves behind when it fails."""
    subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", '"$@" && exit 3', "sh"),
            *(MOUNT, branches.lower, branches.upper, branches.mountpoint),
        ],
        timeout=30,
    )
    (found,) = about(branches.base)
    assert found.mountpoint == str(branches.mountpoint)
    assert (found.here, found.alone) == (False, True)
    assert daemons.union_on(found.device) is None
    os.kill(found.pid, signal.SIGTERM)
