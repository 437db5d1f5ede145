"""podman and buildah for one user over one driver, with settings and a store of their own."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from testbed.bed import UID, Bed
from testbed.images import BASE, write_base

Who = Literal["root", "user"]
#: "unionfs-mountd" is unionfs, started by a unionfs-mountd of the user.
Driver = Literal["unionfs", "unionfs-mountd", "overlayfs", "fuse-overlayfs"]

COMMANDS = Path(sys.executable).parent
MOUNT_PROGRAM = COMMANDS / "unionfs-mount"

_PROGRAMS: Mapping[Driver, str | None] = {
    "unionfs": str(MOUNT_PROGRAM),
    "unionfs-mountd": str(COMMANDS / "unionfs-quickmount"),
    "overlayfs": None,  # podman then mounts the kernel's
    "fuse-overlayfs": shutil.which("fuse-overlayfs"),
}

#: Nothing may need systemd, a network, or a cgroup.
CONTAINERS_CONF = """
[containers]
netns = "host"
cgroups = "disabled"
default_ulimits = []
default_sysctls = []
log_driver = "k8s-file"
[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{home}/engine"
"""

_STORAGE_CONF = """
[storage]
driver = "overlay"
graphroot = "{home}/graph"
rootless_storage_path = "{home}/graph"
runroot = "{run}/root"
[storage.options.overlay]
{options}
"""

_START_MOUNTD = """
"$0" --socket="$1" > mountd.log 2>&1 &
until [ -S "$1" ]; do
    kill -0 $! || { cat mountd.log >&2; exit 1; }
    sleep 0.01
done
"""


class Engine:
    """One user's engine over one driver; the base image of images.py is there from the start.

    ``options`` are what a storage.conf may tell the driver besides, as its ``mountopt``.
    A bed can have one engine of each ``name``: without one that of the user over the driver.
    """

    def __init__(
        self,
        bed: Bed,
        who: Who,
        driver: Driver,
        options: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        self.bed = bed
        self.who = who
        self.driver = driver
        self.uid = 0 if who == "root" else UID
        name = name or f"{who}-{driver}"
        self.home = bed.directory(name, self.uid)
        # podman cleans up only where the path of its state has no more than 50 characters.
        self._run = f"/dev/shm/{name}"
        bed.run("install", "--directory", "--mode=700", f"--owner={self.uid}", self._run)
        self._configure()
        if driver == "unionfs-mountd":
            self._start_mountd()
        self.use(driver, options)
        self.restore_base()

    def use(self, driver: Driver, options: Mapping[str, str] | None = None) -> None:
        """Go on with the same store over another driver."""
        self.driver = driver
        program = _PROGRAMS[driver]
        said = ({"mount_program": program} if program else {}) | dict(options or {})
        lines = "\n".join(f'{name} = "{value}"' for name, value in said.items())
        text = _STORAGE_CONF.format(home=self.home, run=self._run, options=lines)
        (self.home / "storage.conf").write_text(text)

    def _configure(self) -> None:
        policy = {"default": [{"type": "insecureAcceptAnything"}]}
        files = {
            "containers.conf": CONTAINERS_CONF.format(home=self.home),
            "registries.conf": "unqualified-search-registries = []\n",
            ".config/containers/policy.json": json.dumps(policy),
        }
        for name, text in files.items():
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name in ("tmp", "engine"):
            (self.home / name).mkdir(mode=0o700)
        for above, _, names in os.walk(self.home):
            for owned in (above, *(os.path.join(above, name) for name in names)):
                os.chown(owned, self.uid, self.uid)
        self.environment = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": self._run,
            "TMPDIR": f"{self.home}/tmp",
            "CONTAINERS_CONF": f"{self.home}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{self.home}/storage.conf",
            "CONTAINERS_REGISTRIES_CONF": f"{self.home}/registries.conf",
            "BUILDAH_ISOLATION": "chroot",
        }

    def _start_mountd(self) -> None:
        """Have one where the engine's mount program looks for it; it ends with the bed."""
        program, socket = COMMANDS / "unionfs-mountd", f"{self._run}/unionfs-mountd"
        self.run("sh", "-ec", _START_MOUNTD, program, socket)

    def directory(self, name: str) -> Path:
        """A new directory that belongs to the engine's user."""
        return self.bed.directory(name, self.uid)

    def command(self, *words: str | Path) -> list[str]:
        """The words that run a command as the engine's user, from wherever they are run."""
        return self.bed.command(
            *words, uid=self.uid, environment=self.environment, directory=self.home
        )

    def run(
        self, *words: str | Path, status: int = 0, stdin: str = "", timeout: float = 120
    ) -> str:
        """Run a command as the engine's user; what it wrote to standard output."""
        return self.bed.run(
            *words, uid=self.uid, environment=self.environment, directory=self.home,
            status=status, stdin=stdin, timeout=timeout,
        )  # fmt: skip

    def podman(self, *words: str | Path, **how: object) -> str:
        return self.run("podman", *words, **how).strip()  # type: ignore[arg-type]

    def buildah(self, *words: str | Path) -> str:
        return self.run("buildah", *words).strip()

    def inside(self, script: str, *arguments: str | Path) -> str:
        """Run a shell script where the engine's files and mounts are: as root of its namespace."""
        enter = ("podman", "unshare") if self.uid else ()
        return self.run(*enter, "sh", "-ec", script, "sh", *arguments)

    # --- images ---

    def restore_base(self) -> None:
        """Put the base image into the store."""
        archive = self.directory("base") / "base.tar"
        write_base(archive)
        self.podman("import", "--quiet", archive, BASE)

    def build(self, steps: str, *options: str, files: Mapping[str, str] | None = None) -> str:
        """Build an image with a layer for each step; its identity."""
        context = self.directory("context")
        for name, text in (files or {}).items():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            (context / name).write_text(text)
        (context / "Containerfile").write_text(steps)
        return self.podman(
            "build", "--quiet", "--network=host", "--layers", *options, context
        ).splitlines()[-1]
