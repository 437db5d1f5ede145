"""The commands as a person starts them, and the processes that they leave."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.mounted.harness import gone, wait_until
from tests.mounts import mounts_below

#: Where the commands are; tools/sanitize.py has its own.
COMMANDS = os.environ.get("UNIONFS_TEST_COMMANDS") or str(Path(sys.executable).parent)
_BIN = f"{COMMANDS}:{os.environ['PATH']}"


def command(name: str) -> str:
    """Where the console script `name` is installed."""
    found = shutil.which(name, path=_BIN)
    assert found is not None, f"{name} is not installed: pip install ."
    return found


def unionfs_mount(
    *words: str | Path,
    cwd: Path | None = None,
    wrapper: tuple[str, ...] = (),
    name: str = "unionfs-mount",
    environment: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run unionfs-mount, or what stands for it, until it returns.

    Its output goes through pipes: a daemon that kept one of them would keep this call waiting.
    """
    return subprocess.run(
        [*wrapper, command(name), *map(str, words)],
        cwd=cwd or "/",
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def program(pid: int) -> str:
    """The name of the command that a process was started as; "" if it is none of ours."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return ""
    names = (word.rpartition(b"/")[2] for word in words if word.startswith(b"/"))
    return next((name.decode() for name in names if name.startswith(b"unionfs-")), "")


def processes_naming(directory: Path) -> list[int]:
    """Processes whose arguments name `directory`, other than this one and its parents."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in (os.getpid(), os.getppid()):
            try:
                arguments = Path("/proc", entry, "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(directory) in arguments:
                found.append(int(entry))
    return found


def daemon_of(directory: Path) -> int:
    """The one process that serves the mount below `directory`."""
    found = processes_naming(directory)
    assert len(found) == 1, f"one daemon was expected: {found}"
    return found[0]


def is_mounted(mountpoint: Path) -> bool:
    return any(mount.point == mountpoint for mount in mounts_below(mountpoint))


def wait_for_nobody(directory: Path) -> None:
    """Wait until no process names `directory`: umount(8) does not wait for the daemon."""
    wait_until(lambda: not processes_naming(directory), f"nobody uses {directory}")


def wait_for_end(pid: int, mountpoint: Path) -> None:
    """Wait until the daemon has ended and its mount is gone."""
    wait_until(lambda: not is_mounted(mountpoint), f"{mountpoint} is unmounted")
    wait_until(lambda: gone(pid), f"daemon {pid} ends")
