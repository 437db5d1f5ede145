"""Debian roots made by debootstrap, from where this machine's apt gets its packages.

What is downloaded is kept in build/debootstrap of the checkout for all runs, and so is an archive
of a root made of it: remove the directory for newer packages. A root is made without a network.
"""

import fcntl
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

KEPT = Path(__file__).parent.parent / "build/debootstrap"

#: What differs from run to run: the log tells the time, the cache has inode numbers in it.
CHANGING = ("var/log/bootstrap.log", "var/log/dpkg.log", "var/log/alternatives.log",
            "var/cache/ldconfig/aux-cache")  # fmt: skip

_VARIANT = "--variant=minbase"


class Unavailable(Exception):
    """There can be no such root here; the message is why."""


def packages() -> Path:
    """An archive of all packages of a smallest root.

    Raises `Unavailable` where debootstrap, root's privileges or a mirror are missing.
    """
    archive, reason = _downloaded()
    if archive is None:
        raise Unavailable(reason)
    return archive


def make_root(target: Path) -> None:
    """Have debootstrap make a root in an empty directory."""
    options = (_VARIANT, f"--unpack-tarball={packages()}")
    done = _debootstrap(*options, _release()[0], str(target))
    assert done.returncode == 0, done.stdout[-3000:]


def archived_root() -> Path:
    """A tar archive of such a root, without what /dev holds."""
    packages()

    def make(archive: Path, place: Path) -> str:
        make_root(place)
        # By numbers: that other users may be called the same here must change nothing.
        options = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*")
        subprocess.run(["tar", *options, "-C", place, "-cf", archive, "."], check=True)
        return ""

    return _kept(f"root-{_release()[0]}.tar", make)[0]


def _kept(name: str, make: Callable[[Path, Path], str]) -> tuple[Path, str]:
    """A file in KEPT, made if it is not there, and why there is none, or nothing.

    `make` writes the file, which takes its place when it is whole, with an empty directory to work
    in, or returns why it cannot. Runs side by side wait for each other: one makes it for all.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    file, partial = KEPT / name, KEPT / f"{name}.new"
    with open(KEPT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            return file, ""
        with tempfile.TemporaryDirectory(prefix="debootstrap-") as place:
            if reason := make(partial, Path(place, "root")):
                return file, reason
        partial.rename(file)
    return file, ""


@functools.cache
def _downloaded() -> tuple[Path | None, str]:
    """The archive, or why there is none. (A cache forgets exceptions, and asks in vain again.)"""
    if os.geteuid() != 0:
        return None, "needs root, as debootstrap does"
    if shutil.which("debootstrap") is None:
        return None, "not installed: debootstrap"
    suite, mirror = _release()
    if not mirror:
        return None, "apt knows no mirror of Debian here, or has not been updated"

    def download(archive: Path, place: Path) -> str:
        done = _debootstrap(_VARIANT, f"--make-tarball={archive}", suite, str(place), mirror)
        errors = re.findall(r"^E: (.*)$", done.stdout, flags=re.M)
        return f"the packages cannot be downloaded: {'; '.join(errors)}" if done.returncode else ""

    archive, reason = _kept(f"packages-{suite}.tar", download)
    return (None, reason) if reason else (archive, "")


def _debootstrap(*words: str) -> subprocess.CompletedProcess[str]:
    # Its own settings, not the caller's, decide where things are and what is said.
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["debootstrap", *words],
        env=environment,
        umask=0o022,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )


@functools.cache
def _release() -> tuple[str, str]:
    """The code name of the Debian release that apt uses, and its mirror; empty if there is none."""
    if shutil.which("apt-get") is None:
        return "", ""
    fields = "$(ORIGIN) $(LABEL) $(CODENAME) $(REPO_URI)"
    command = ["apt-get", "indextargets", f"--format={fields}", "Created-By: Packages"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in said.splitlines():
        origin, label, suite, mirror = line.split(maxsplit=3)
        if (origin, label) == ("Debian", "Debian") and "-" not in suite:
            return suite, mirror
    return "", ""
