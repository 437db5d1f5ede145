"""What is compared: each union filesystem behind the same two calls."""

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import unionfs
from tests.mounted.harness import watchdog

from . import libc

#: No sequence takes this long: a mount that hangs is aborted, and the comparison fails.
LIFE_SECONDS = 60


@dataclass(frozen=True)
class Layout:
    """The directories of one mount."""

    lowers: Sequence[Path]
    upper: Path
    work: Path
    mountpoint: Path


class Union(Protocol):
    """A union filesystem that can be mounted, one mount at a time."""

    #: The format of whiteouts that it writes, and that its lowers are built in.
    whiteout: str
    #: Whether its listings show names that do not exist (stray-whiteouts in docs/differences.md).
    phantoms: bool
    #: Whether a mapping made before a file was copied up shows the old content for ever
    #: (stale-mappings in docs/differences.md).
    stale_mappings: bool

    def mount(self, layout: Layout) -> None: ...
    def unmount(self) -> None: ...


@dataclass
class Kernel:
    """Kernel overlayfs."""

    options: str = "redirect_dir=off,index=off,metacopy=off"
    whiteout: str = "overlay"
    phantoms: bool = True
    stale_mappings: bool = True
    _mounted: Path | None = None

    def mount(self, layout: Layout) -> None:
        lowers = ":".join(map(str, layout.lowers))
        options = f"lowerdir={lowers},upperdir={layout.upper},workdir={layout.work},{self.options}"
        libc.mount("overlay", layout.mountpoint, "overlay", options)
        self._mounted = layout.mountpoint

    def unmount(self) -> None:
        if self._mounted:
            libc.unmount(self._mounted)
            self._mounted = None


@dataclass
class FuseOverlayfs:
    """Debian's fuse-overlayfs, which is known to differ: it shows what the comparison finds."""

    whiteout: str = "overlay"
    phantoms: bool = False
    stale_mappings: bool = True
    _daemon: subprocess.Popen[bytes] | None = None
    _mounted: Path | None = None

    def mount(self, layout: Layout) -> None:
        lowers = ":".join(map(str, layout.lowers))
        options = f"lowerdir={lowers},upperdir={layout.upper},workdir={layout.work}"
        command = ["fuse-overlayfs", "-f", "-o", options, str(layout.mountpoint)]
        before = layout.mountpoint.stat().st_dev
        self._daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._mounted = layout.mountpoint
        while layout.mountpoint.stat().st_dev == before:
            if self._daemon.poll() is not None:
                raise RuntimeError("fuse-overlayfs did not start")

    def unmount(self) -> None:
        if self._mounted and self._daemon:
            libc.unmount(self._mounted)
            self._daemon.wait(LIFE_SECONDS)
            self._daemon = self._mounted = None


@dataclass
class Unionfs:
    """Ours. Its daemon is forked from this process: nothing has to be started."""

    whiteout: str = "aufs"
    phantoms: bool = False
    stale_mappings: bool = False
    _mounted: ExitStack = field(default_factory=ExitStack)

    def mount(self, layout: Layout) -> None:
        session = unionfs.mount(
            layout.lowers,
            layout.upper,
            layout.mountpoint,
            workdir=layout.work,
            whiteout=self.whiteout,
            rename_dir="exdev",
        )
        self._mounted.enter_context(watchdog(layout.mountpoint, LIFE_SECONDS))
        self._mounted.enter_context(session)

    def unmount(self) -> None:
        self._mounted.close()
