"""What is compared: each union filesystem behind the same three calls."""

import errno
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import unionfs
from tests.check.upper import opened
from tests.mounted.harness import watchdog
from unionfs.check import Finding, check

from . import libc
from .operations import Operations, Outcome, Step
from .trees import Attributes, Found

#: No sequence takes this long: a mount that hangs is aborted, and the comparison fails.
LIFE_SECONDS = 60

#: The row of docs/differences.md after which the two sides have different files open.
UNLINKED_DIRECTORY = "unlinked-directory"
_CHANGING_OPENED = {"fchmod", "fchown", "futimens", "fsetxattr"}


@dataclass(frozen=True)
class Layout:
    """The directories of one mount."""

    lowers: Sequence[Path]
    upper: Path
    work: Path
    mountpoint: Path


class Program(Protocol):
    """What uses a mount: it performs steps, and holds files open between them."""

    @property
    def opened(self) -> list[int]: ...
    def perform(self, step: Step) -> Outcome: ...
    def scan(self) -> dict[str, Found]: ...
    def inodes(self) -> dict[str, int]: ...
    def close_all(self) -> None: ...


class Union(Protocol):
    """A union filesystem that can be mounted, one mount at a time."""

    #: The format of whiteouts that it writes and that its lowers are built in: "aufs", "overlay",
    #: or "none" for a plain tree in the place of the mount.
    whiteout: str

    def mount(self, layout: Layout) -> None: ...
    def unmount(self) -> None: ...
    def program(self, layout: Layout) -> Program: ...


class Reference(Union, Protocol):
    """A union that another one is compared with."""

    @property
    def portable(self) -> bool:
        """Whether the other side can read its upper, and it the other's."""

    def explains(self, step: Step, own: Outcome, other: Outcome) -> str | None:
        """Why a step's outcome may differ: a row of docs/differences.md, or its own fault."""


class Checked:
    """A union that writes what unionfs-check knows."""

    #: Findings that do not count, by code.
    passed_over: frozenset[str] = frozenset()

    def findings(self, layout: Layout) -> list[Finding]:
        """What is wrong with the upper, and what an interrupted operation would have left."""
        with opened(layout.upper, layout.work, *layout.lowers) as (upper, work, *lowers):
            found = check(upper, work, lowers)
        return [one for one in found if one.code not in self.passed_over]


@dataclass
class Plain:
    """What the union of the lowers shows, as one plain tree of the filesystem below."""

    whiteout: str = "none"
    _mounted: Path | None = None

    def mount(self, layout: Layout) -> None:
        # On itself, so that leaving it by ".." is as it is with a filesystem of its own.
        tree = layout.mountpoint
        libc.mount(str(tree), tree, "", "", libc.MS_BIND)
        self._mounted = tree

    def unmount(self) -> None:
        if self._mounted:
            libc.unmount(self._mounted)
            self._mounted = None

    def program(self, layout: Layout) -> Program:
        return Operations(layout.mountpoint, keeps_time=True)

    @property
    def portable(self) -> bool:
        return False

    def explains(self, step: Step, own: Outcome, other: Outcome) -> str | None:
        if step[0] == "readdir" and other == ([], []):
            return "tmpfs gives names twice when others come and go meanwhile"
        return None


@dataclass
class Kernel:
    """Kernel overlayfs."""

    options: str = "redirect_dir=off,index=off,metacopy=off"
    whiteout: str = "overlay"
    _mounted: Path | None = None

    def mount(self, layout: Layout) -> None:
        lowers = ":".join(map(str, layout.lowers))
        options = f"lowerdir={lowers},upperdir={layout.upper},workdir={layout.work},{self.options}"
        deadline = time.monotonic() + LIFE_SECONDS
        while True:
            try:
                libc.mount("overlay", layout.mountpoint, "overlay", options)
                break
            except OSError as error:
                # With index=on: a mount namespace that another process made still has the mount
                # before this one.
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._mounted = layout.mountpoint

    def unmount(self) -> None:
        if self._mounted:
            libc.unmount(self._mounted)
            self._mounted = None

    def program(self, layout: Layout) -> Program:
        return Operations(
            layout.mountpoint,
            phantoms=True,
            stale_mappings=True,
            keeps_time=True,
            spares_unlinked="index=on" in self.options,
        )

    @property
    def portable(self) -> bool:
        return "index=on" not in self.options  # an index belongs to one work directory

    def explains(self, step: Step, own: Outcome, other: Outcome) -> str | None:
        if step[0] == "fstat" and isinstance(own, Attributes) and own.nlink == 1:
            return "unlinked-nlink" if other == own._replace(nlink=0) else None
        if step[0] in _CHANGING_OPENED and own == "ENOENT" and other is None:
            return UNLINKED_DIRECTORY
        return None


@dataclass
class InTurns(Checked):
    """Several unions of one format, of which each writes a generation: what one has written in the
    upper is a lower of the next one."""

    unions: Sequence[Union]
    whiteout: str = "overlay"
    _mounted: Union | None = None

    def _of(self, layout: Layout) -> Union:
        return self.unions[len(layout.lowers) % len(self.unions)]

    def mount(self, layout: Layout) -> None:
        self._mounted = self._of(layout)
        self._mounted.mount(layout)

    def unmount(self) -> None:
        if self._mounted:
            self._mounted.unmount()
            self._mounted = None

    def program(self, layout: Layout) -> Program:
        return self.unions[0].program(layout)

    def findings(self, layout: Layout) -> list[Finding]:
        writer = self._of(layout)
        return writer.findings(layout) if isinstance(writer, Checked) else []


@dataclass
class FuseOverlayfs:
    """Debian's fuse-overlayfs, which is known to differ: it shows what the comparison finds."""

    whiteout: str = "overlay"
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

    def program(self, layout: Layout) -> Program:
        return Operations(layout.mountpoint, stale_mappings=True)


@dataclass
class Unionfs(Checked):
    """Ours. Its daemon is forked from this process: nothing has to be started."""

    whiteout: str = "aufs"
    rename_dir: str = "exdev"
    copyup: str = "change"
    io: str = "cached"
    passed_over: frozenset[str] = frozenset()
    spares_unlinked: bool = False
    _mounted: ExitStack = field(default_factory=ExitStack)

    def mount(self, layout: Layout) -> None:
        session = unionfs.mount(
            layout.lowers,
            layout.upper,
            layout.mountpoint,
            workdir=layout.work,
            whiteout=self.whiteout,
            rename_dir=self.rename_dir,
            copyup=self.copyup,
            io=self.io,
        )
        self._mounted.enter_context(watchdog(layout.mountpoint, LIFE_SECONDS))
        self._mounted.enter_context(session)

    def unmount(self) -> None:
        self._mounted.close()

    def program(self, layout: Layout) -> Program:
        return Operations(layout.mountpoint, spares_unlinked=self.spares_unlinked)
