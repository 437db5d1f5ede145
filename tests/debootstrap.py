"""Debian roots made by debootstrap, from where this machine's apt gets its packages.

What is downloaded is downloaded once in a run. A root is made without a network then.
"""

import atexit
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

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


@functools.cache
def archived_root() -> Path:
    """A tar archive of such a root, without what /dev holds."""
    place = _place()
    make_root(place / "root")
    archive = place / "root.tar"
    # By numbers: that other users may be called the same here must change nothing.
    options = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*")
    subprocess.run(["tar", *options, "-C", place / "root", "-cf", archive, "."], check=True)
    shutil.rmtree(place / "root")
    return archive


def _place() -> Path:
    """A new directory that is there until this process ends."""
    place = Path(tempfile.mkdtemp(prefix="debootstrap-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


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
    place = _place()
    archive = place / "packages.tar"
    options = (_VARIANT, f"--make-tarball={archive}")
    done = _debootstrap(*options, suite, str(place / "work"), mirror)
    if done.returncode != 0:
        errors = re.findall(r"^E: (.*)$", done.stdout, flags=re.M)
        return None, f"the packages cannot be downloaded: {'; '.join(errors)}"
    return archive, ""


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
