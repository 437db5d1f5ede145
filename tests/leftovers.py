"""What a test or a killed run can leave: processes, mounts, loop devices, files."""

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.mounts import detach, mounts_below


def processes_about(directory: Path) -> set[int]:
    """Processes, other than this one and those above it, whose arguments name `directory`."""
    found = set()
    needle = os.fsencode(directory)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                if needle in Path("/proc", entry, "cmdline").read_bytes():
                    found.add(int(entry))
    return found - {os.getpid(), os.getppid()}


def loop_devices_in(directory: Path) -> list[str]:
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = backing.read_text(errors="surrogateescape")
        except OSError:
            continue  # detached between the listing and the reading
        if file.startswith(f"{directory}/"):
            found.append(f"/dev/{backing.parts[3]}")
    return found


def leftovers(directory: Path) -> set[str]:
    return {
        *(f"mount {mount.point}" for mount in mounts_below(directory)),
        *(f"process {pid}" for pid in processes_about(directory)),
        *(f"loop device {device}" for device in loop_devices_in(directory)),
    }


def clean_up(directory: Path) -> None:
    """Take away mounts and loop devices below `directory`."""
    for mount in reversed(mounts_below(directory)):
        if os.geteuid() == 0:
            detach(mount.point)
        else:
            subprocess.run(["fusermount3", "-uz", mount.point], check=True)
    for device in loop_devices_in(directory):
        subprocess.run(["losetup", "--detach", device], check=True)


def remove(directory: Path) -> None:
    """Take away a directory with all that is mounted there."""
    clean_up(directory)
    # Not shutil.rmtree: it gives up at trees deeper than the descriptors it may hold.
    subprocess.run(["rm", "-rf", directory], check=True)


# --- of a run that was killed ---


def keep(directory: Path, own_namespace: bool) -> None:
    """Start the keeper: a process that clears away what this one leaves when it is killed.

    A run that ends by itself has removed `directory`, and the keeper has nothing to do. Otherwise
    it ends all processes of the run and removes what they held. With `own_namespace` nobody but
    the run is in this mount namespace.
    """
    run = os.pidfd_open(os.getpid())
    if os.fork():
        os.close(run)
        return
    try:
        os.setsid()  # what interrupts the run at its terminal does not reach the keeper
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        quiet = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(quiet, standard)
        os.chdir("/")
        os.dup2(run, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        poll = select.poll()
        poll.register(3, select.POLLIN)
        poll.poll()
        if directory.exists():
            _end_all(directory, own_namespace)
            remove(directory)
    finally:
        os._exit(0)


def _end_all(directory: Path, own_namespace: bool, seconds: float = 30) -> None:
    """Kill the processes of the run whose keeper this is, until some looks find none.

    One look is not enough: one that was just entering a namespace of its own has been missed.
    """
    deadline = time.monotonic() + seconds
    looks = 0
    while looks < 4 and time.monotonic() < deadline:
        left = _of_the_run(directory, own_namespace)
        looks = 0 if left else looks + 1
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _of_the_run(directory: Path, own_namespace: bool) -> set[int]:
    """Processes that name `directory`, and those of the run's namespace.

    Those of namespaces made within it are told by the run's mounts, which nobody else has.
    """
    found = processes_about(directory)
    if own_namespace:
        mine, needle = os.readlink("/proc/self/ns/mnt"), os.fsencode(directory)
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile
                if (
                    os.readlink(process / "ns/mnt") == mine
                    or needle in (process / "mountinfo").read_bytes()
                ):
                    found.add(int(process.name))
    return found - {os.getpid()}
