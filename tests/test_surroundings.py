"""The tests' own footing: any machine will do, and nothing of a run outlives it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import Directories, OrdinaryUser
from tests.leftovers import leftovers
from tests.mounted.harness import gone, needs_root, wait_until
from tests.mounts import Mount, mounts_below, parse

ROOT = Path(__file__).parent.parent


def run(
    code: str, base: Path, within: Sequence[str | Path] = ()
) -> subprocess.CompletedProcess[str]:
    """Run Python code, which can import the tests, in a process of its own."""
    command = [*within, sys.executable, "-c", code, base]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("line", "mount"),
    [
        (
            rb"26 1 8:1 / /a\040b\011c\012d\134e rw,noatime shared:7 - ext4 /dev/vda rw",
            Mount(Path("/a b\tc\nd\\e"), "ext4", os.makedev(8, 1), "/dev/vda", ["rw", "noatime"]),
        ),
        (
            b"26 1 0:40 / /caf\xe9\xff\r ro - fuse.unionfs my\\040name ro,user_id=0",
            Mount(Path("/caf\udce9\udcff\r"), "fuse.unionfs", 40, "my name", ["ro"]),
        ),
        (
            "26 1 0:40 / /über rw shared:1 master:2 - tmpfs  rw".encode(),
            Mount(Path("/über"), "tmpfs", 40, "", ["rw"]),
        ),
    ],
)
def test_a_line_of_mountinfo(line: bytes, mount: Mount) -> None:
    assert parse(line) == mount


@needs_root
def test_a_name_that_is_no_text(branches: Directories) -> None:
    point = branches.base / os.fsdecode(b"caf\xe9 \\ \r")
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
    assert [mount.point for mount in mounts_below(branches.base)] == [point]
    subprocess.run(["umount", point], check=True)


#: A machine with systemd: its mounts are shared, fusectl is mounted; /dev/fuse is closed.
MACHINE = """
set -e
mount --make-rshared /
mountpoint -q /sys/fs/fuse/connections || mount -t fusectl fusectl /sys/fs/fuse/connections
mknod -m 600 "$1/node" c 10 229
mount --bind "$1/node" /dev/fuse
mkdir "$1/mounted"
mount -t tmpfs tmpfs "$1/mounted"
shift
exec "$@"
"""

ENTER = """
import os, subprocess, sys
from tests import mounts, namespace
base = sys.argv[1]
outside = open("/proc/self/mountinfo", "rb")
assert namespace.enter()
assert os.stat("/dev/fuse").st_mode & 0o777 == 0o666
os.close(os.open("/dev/fuse", os.O_RDWR))
assert os.stat(f"{base}/node").st_mode & 0o777 == 0o600
assert os.path.ismount(mounts.CONNECTIONS)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", f"{base}/lower"], check=True)
seen = {os.path.basename(mount.point) for mount in mounts.mounts_below(base)}
assert seen == {"mounted", "lower"}, seen
text = os.fsdecode(outside.read())
assert f"{base}/mounted" in text and f"{base}/lower" not in text
"""


@needs_root
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="this machine has no /dev/fuse")
def test_a_run_changes_nothing_of_the_machine(branches: Directories) -> None:
    machine = ["unshare", "--mount", "sh", "-c", MACHINE, "sh", branches.base]
    done = run(ENTER, branches.base, within=machine)
    assert (done.returncode, done.stderr) == (0, "")


@needs_root
def test_ordinary_users_may_open_the_device(ordinary_user: OrdinaryUser) -> None:
    assert ordinary_user.run("sh", "-c", "exec 3<>/dev/fuse").returncode == 0


KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
import unionfs
from tests import leftovers, namespace
base = Path(sys.argv[1])
leftovers.keep(base / "run", namespace.enter())
names = [base / "run" / name for name in ("lower", "upper", "mnt")]
for name in names:
    name.mkdir(parents=True)
mount = unionfs.mount([names[0]], names[1], names[2])
mount.__enter__()
ignore = "import signal as s; s.signal(s.SIGTERM, s.SIG_IGN); print(1, flush=True); input()"
stubborn = [sys.executable, "-c", ignore, names[2]]
reading, writing = os.pipe()
process = subprocess.Popen(stubborn, cwd=names[2], stdin=reading, stdout=subprocess.PIPE,
                           pass_fds=[writing])
process.stdout.readline()
others = [process.pid, mount.pid]
if os.geteuid() == 0:
    within = ["unshare", "--mount", "sh", "-c", "echo; exec sleep 1000"]
    process = subprocess.Popen(within, cwd=names[2], stdout=subprocess.PIPE)
    process.stdout.readline()
    others.append(process.pid)
    others.append(subprocess.Popen(["sleep", "1000"], cwd=names[2], start_new_session=True).pid)
print(*others, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_started_ends(branches: Directories) -> None:
    done = run(KILLED, branches.base)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    others = [int(pid) for pid in done.stdout.split()]
    assert len(others) >= 2
    for pid in others:
        wait_until(lambda pid=pid: gone(pid), f"process {pid} ends")
    wait_until(lambda: leftovers(branches.base) == set(), "the keeper ends")
    assert not (branches.base / "run").exists()


ENDED = """
import sys
from pathlib import Path
from tests import leftovers
leftovers.keep(Path(sys.argv[1], "run"), False)
"""


def test_the_keeper_ends_with_the_run(branches: Directories) -> None:
    began = time.monotonic()
    assert run(ENDED, branches.base).returncode == 0
    wait_until(lambda: leftovers(branches.base) == set(), "the keeper ends")
    assert time.monotonic() - began < 30
