"""When memory is short, a mount gives back what it keeps for later."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounted.harness import Union, needs_root, only_unionfs, status, wait_until
from tests.mounted.trees import build

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(120)]

FILES = 100
LIMIT = 16 << 20
#: Control groups of version 2, then of version 1: the file that limits their memory.
LIMITS = {"/sys/fs/cgroup": "memory.max", "/sys/fs/cgroup/memory": "memory.limit_in_bytes"}


@contextmanager
def small_group() -> Iterator[Path]:
    """A control group whose processes may have LIMIT bytes."""
    for root, limit in LIMITS.items():
        group = Path(root, f"unionfs-test-{os.getpid()}")
        if not Path(root, "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
        except OSError:
            continue  # a file system that is mounted read-only
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(LIMIT))
                yield group
                return
        finally:
            wait_until(lambda group=group: (group / "cgroup.procs").read_text() == "", "it empties")
            group.rmdir()
    pytest.skip("control groups for memory cannot be made here")


#: Reads pages of a file that does not fit, for ever: each was there a moment ago.
WANDER = """
import mmap, os, random, sys
name, group = sys.argv[1:]
with open(group + "/cgroup.procs", "w") as processes:
    processes.write(str(os.getpid()))
with open(name, "rb") as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
pages.madvise(mmap.MADV_RANDOM)
while True:
    pages[random.randrange(len(pages))]
"""


@pytest.mark.skipif(
    not os.access("/proc/pressure/memory", os.W_OK), reason="the kernel counts no pressure (PSI)"
)
def test_descriptors_are_given_back(place: Path) -> None:
    union = Union(place)
    build(union.lower, {f"d/file{number}": "content" for number in range(FILES)})
    # On a disk: pages that have to be read again are what somebody waits for.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as disk, union, small_group() as group:
        large = Path(disk, "large")
        large.write_bytes(bytes(8 * LIMIT))
        with large.open("rb") as file:
            os.fsync(file)
        for number in range(FILES):
            (union.mountpoint / f"d/file{number}").read_text()
        assert status(union.mountpoint)["fds"] > FILES
        hogs: list[subprocess.Popen[bytes]] = []

        def given_back() -> bool:
            # How many it takes depends on the disk: on a fast one nobody waits for long.
            if len(hogs) < 40:
                hogs.append(
                    subprocess.Popen([sys.executable, "-I", "-S", "-c", WANDER, large, group])
                )
                time.sleep(0.25)
            return status(union.mountpoint)["fds"] < 10

        try:
            wait_until(given_back, "descriptors are closed", 60)
            assert hogs[0].poll() is None
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        for number in range(FILES):
            assert (union.mountpoint / f"d/file{number}").read_text() == "content"
