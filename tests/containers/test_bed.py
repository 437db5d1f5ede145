"""The test bed itself: the machine goes on as if it were not there, and nothing outlives it."""

import os
import signal
import subprocess
import sys

import pytest

from testbed.bed import CHECKOUT
from tests.mounted.harness import gone, needs_root, wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(60), needs_root]

_USERS = """
import os, shutil
from testbed.bed import UID, USER, Bed
with Bed() as bed:
    # As useradd, apt and adduser do: a new file takes the place of the old one.
    for name in ("passwd", "group", "subuid", "subgid"):
        assert not os.path.exists(f"/etc/{name}") or USER not in open(f"/etc/{name}").read()
        with open("/etc/new", "w") as file:
            file.write("root:x:0:0::/root:/bin/sh\\n")
        os.rename("/etc/new", f"/etc/{name}")
    print(bed.run("id", USER, uid=UID), bed.run("cat", "/etc/subuid"), end="")
"""


def test_users_are_added_to_the_machine_meanwhile() -> None:
    """In place of the machine's /etc stands a copy."""
    script = """
    copy=$(mktemp -d)
    mount -t tmpfs none "$copy"
    cp -a /etc/. "$copy"
    mount --bind "$copy" /etc
    umount "$copy"
    rmdir "$copy"
    exec "$@"
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, "-c", _USERS],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    ids = "uid=4321(unionfs-tester) gid=4321(unionfs-tester) groups=4321(unionfs-tester)\n"
    assert done.stdout == f"{ids} unionfs-tester:200000:65536\n"


_KILLED = """
import os, subprocess, time
from testbed.bed import Bed
bed = Bed().__enter__()
print(bed.base, flush=True)
subprocess.Popen(bed.command("sh", "-c", "sleep 1000 & echo here; exec sleep 1000"))
other = os.fork()
if other == 0:
    os.closerange(0, 2)
    time.sleep(60)  # with every other descriptor of its parent
print(other, flush=True)
os.read(0, 1)
"""


def test_what_runs_in_a_bed_ends_with_its_owner() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        base = owner.stdout.readline().strip()
        said = {owner.stdout.readline(), owner.stdout.readline()}
        (other,) = map(int, said - {"here\n"})
        inside = _sharing_mounts(base)
        assert len(inside) >= 3
        os.kill(owner.pid, signal.SIGKILL)
    try:
        for pid in inside:
            wait_until(lambda pid=pid: gone(pid), f"process {pid} ends", seconds=20)
    finally:
        os.kill(other, signal.SIGKILL)
    subprocess.run(["rm", "-r", base], check=True)


def _sharing_mounts(base: str) -> list[int]:
    """The processes in whose mount namespace something is mounted below `base`."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/mountinfo", "rb") as file:
                if base.encode() in file.read():
                    found.append(int(name))
        except OSError:
            continue  # it ended meanwhile
    return found
