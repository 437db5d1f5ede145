"""podman over each peer: what the container workloads are given instead of a mount.

An engine has a store of its own, and the images are put into it once in a run. Everything is in
namespaces that end with the run (`testbed.bed`).
"""

from __future__ import annotations

import itertools
import shutil
from contextlib import ExitStack
from pathlib import Path

from benchmarks.fixtures import SIZES, names
from benchmarks.measure import ClientError
from benchmarks.peers import Peer
from testbed.bed import Bed, Failed
from testbed.engines import MOUNT_PROGRAM, Driver, Engine, Who
from testbed.images import Layer, base_layer, write_archive

TOOLS = ("podman", "crun", "busybox", "cc", "newuidmap", "nsenter", "setpriv", "unshare")
"""What has to be there; busybox linked statically."""

DRIVERS: dict[str, Driver] = {
    "overlayfs": "overlayfs",
    "fuse-overlayfs": "fuse-overlayfs",
    "unionfs": "unionfs",
    "unionfs-mountd": "unionfs-mountd",
}
"""The peers that an engine can be told to use as they are: podman adds volatile by itself."""

LARGE = "localhost/large:latest"
"""An image of two layers, the second with as many files as the scale says below /files."""


class Engines:
    """Made on first use, below ``directory``, which who runs them as the user has to reach."""

    def __init__(self, directory: Path, files: int) -> None:
        self._directory = directory
        self._files = files
        self._stack = ExitStack()
        self._bed: Bed | None = None
        self._made: dict[tuple[str, Who], Engine] = {}
        self._large: set[Engine] = set()
        self.unused_ids = itertools.count(1000)
        """Where a map may begin that no container of the run has had yet."""

    def close(self) -> None:
        """End all processes and mounts of all engines, and remove their stores."""
        self._stack.close()

    def engine(self, peer: Peer, who: Who) -> Engine | None:
        """The engine of ``who`` over ``peer``; None if podman cannot be told to use it.

        Raises ClientError with what was said if it cannot be set up here.
        """
        if peer.name not in DRIVERS:
            return None
        if (peer.name, who) not in self._made:
            try:
                self._made[peer.name, who] = self._make(peer, who)
            except Failed as error:
                raise ClientError(str(error)) from error
        return self._made[peer.name, who]

    def _make(self, peer: Peer, who: Who) -> Engine:
        if self._bed is None:
            self._directory.mkdir(parents=True)
            self._bed = self._stack.enter_context(Bed(self._directory))
        if DRIVERS[peer.name].startswith("unionfs") and not MOUNT_PROGRAM.exists():
            raise ClientError(f"{MOUNT_PROGRAM} does not exist: install the package")
        options = {"mountopt": peer.mode} if peer.mode else {}
        return Engine(self._bed, who, DRIVERS[peer.name], options)

    def with_large_image(self, peer: Peer, who: Who) -> Engine | None:
        """The same, and the image LARGE is in its store."""
        engine = self.engine(peer, who)
        if engine is not None and engine not in self._large:
            archive = self._directory / "large.tar"
            if not archive.exists():
                write_archive(archive, LARGE, [base_layer(), _many_files(self._files)])
            place = engine.directory("large")
            shutil.copy(archive, place)
            engine.podman("load", "--quiet", f"--input={place / archive.name}", timeout=1200)
            shutil.rmtree(place)
            self._large.add(engine)
        return engine


def _many_files(count: int) -> bytes:
    layer = Layer()
    made: set[str] = set()
    for number, name in enumerate(names(count)):
        above, _, _ = f"files/{name}".rpartition("/")
        parts = above.split("/")
        for depth in range(len(parts)):
            if (directory := "/".join(parts[: depth + 1])) not in made:
                layer.directory(directory)
                made.add(directory)
        size = SIZES[number % len(SIZES)]
        layer.file(f"files/{name}", f"{name}\n".ljust(size, "x")[:size])
    return layer.close()
