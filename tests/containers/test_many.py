"""Many mounts at once: each small, quick to come, and gone without a trace.

UNIONFS_TEST_MOUNTS says how many; 500 is what is promised.
"""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed.memory import private_memory
from tests.containers.engines import MOUNT_PROGRAM
from tests.leftovers import processes_about
from tests.mounted.harness import needs_root, place, wait_until
from tests.mounts import mounts_below

__all__ = ["place"]

MOUNTS = int(os.environ.get("UNIONFS_TEST_MOUNTS", "50"))

pytestmark = [
    pytest.mark.container,
    pytest.mark.timeout(300 + 4 * MOUNTS),
    pytest.mark.slow(reason=f"{MOUNTS} mounts, more than once"),
]

#: What a mount at rest may hold for itself, in bytes.
PRIVATE_MEMORY = 8_000_000


@pytest.fixture
def unions(place: Path) -> list[Path]:
    """Directories for many unions over one lower, each with `upper` and `merged`."""
    (place / "lower").mkdir()
    (place / "lower/file").write_text("x")
    unions = [place / f"union{number}" for number in range(MOUNTS)]
    for union in unions:
        for name in ("upper", "merged"):
            (union / name).mkdir(parents=True)
    return unions


def mount(place: Path) -> None:
    lower = place.parent / "lower"
    subprocess.run(
        [MOUNT_PROGRAM, lower, place / "upper", place / "merged"], check=True, timeout=60
    )


def unmount(place: Path) -> None:
    subprocess.run(["fusermount3", "-u", place / "merged"], check=True, timeout=60)


def oom_score_allowed() -> str:
    """What a process started here gets when it asks for -900: that takes CAP_SYS_RESOURCE."""
    script = "echo -900 > /proc/$$/oom_score_adj; cat /proc/$$/oom_score_adj"
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout


@needs_root
def test_many_mounts_are_small_and_leave_nothing(unions: list[Path]) -> None:
    base = unions[0].parent
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(mount, unions))
        assert all((place / "merged/file").read_text() == "x" for place in unions)
        daemons = processes_about(base)
        assert len(daemons) == MOUNTS
        assert max(map(private_memory, daemons)) <= PRIVATE_MEMORY
        wanted = oom_score_allowed()
        for pid in daemons:
            assert Path(f"/proc/{pid}/oom_score_adj").read_text() == wanted
            limits = Path(f"/proc/{pid}/limits").read_text()
            (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
            soft, hard = line.split()[3:5]
            assert soft == hard
        list(pool.map(unmount, unions))
    wait_until(lambda: not processes_about(base), "the daemons end")
    assert mounts_below(base) == []
    for union in unions:
        assert os.listdir(union / "upper") == []
        mount(union)  # nobody holds its lock
        unmount(union)
    wait_until(lambda: not processes_about(base), "the daemons end")


def test_one_mount_many_times_leaves_nothing(unions: list[Path]) -> None:
    """Each comes right after the one before, whose daemon may still be ending."""
    place = unions[0]
    for number in range(MOUNTS):
        mount(place)
        (place / f"merged/file{number}").touch()
        unmount(place)
    wait_until(lambda: not processes_about(place.parent), "the daemons end")
    assert len(os.listdir(place / "upper")) == MOUNTS
    assert mounts_below(place.parent) == []
