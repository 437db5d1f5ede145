"""What a workload is given: one peer, one placement, one round, one fresh directory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import measure, peers
from benchmarks.engines import Engines
from benchmarks.fixtures import Fixtures, Stack
from benchmarks.measure import Placement
from benchmarks.peers import Branches, Mounted, Peer
from benchmarks.scales import Scale


@dataclass
class Session:
    peer: Peer
    placement: Placement
    scale: Scale
    fixtures: Fixtures
    engines: Engines
    directory: Path
    """Fresh, and this session's own."""
    drop: int
    """What `measure.drop_caches` drops before a cold measurement; 0 nothing."""
    strayed: set[int] = field(default_factory=set, init=False)
    """CPUs that servers chose for themselves."""
    _mounts: int = field(default=0, init=False)

    @contextmanager
    def mounted(self, stack: Stack, changes: bool = False) -> Iterator[Mounted]:
        """Mount ``stack`` under a fresh upper; nothing is dirty when the block begins.

        The plain directory is the merged content itself, or a copy of it if the workload
        ``changes`` what is there.
        """
        self._mounts += 1
        place = self.directory / str(self._mounts)
        place.mkdir(parents=True)
        if self.peer.command is None:
            mounted = Mounted(stack.merged, [], 0.0)
            if changes:
                mounted.path = place / "plain"
                subprocess.run(["cp", "-a", stack.merged, mounted.path], check=True)
                os.sync()
            yield mounted
            return
        branches = Branches(stack.lowers, *(place / name for name in ("upper", "work", "mnt")))
        cpus = {self.placement.server}
        if self.peer.places_itself:
            cpus.add(self.placement.client)
        with measure.pinned(*cpus):
            mounted = peers.mount(self.peer, branches)
        self.strayed |= mounted.cpus() - cpus
        if changes:
            os.sync()
        try:
            yield mounted
        finally:
            peers.unmount(mounted)

    def warm(self, stack: Stack) -> None:
        """Have the pages of the branches in the cache."""
        for name in stack.files:
            with open(stack.merged / name, "rb", buffering=0) as data:
                while data.read(1 << 20):
                    pass

    def chill(self) -> None:
        """Make what follows cold; called on a fresh mount."""
        if self.drop:
            measure.drop_caches(self.drop)

    def client(self, mounted: Mounted, function: Callable[..., object], *arguments: Any) -> float:
        """Seconds for ``function(*arguments)`` in a client whose directory is the mount."""
        return measure.client(mounted.path, function, *arguments)

    def command(
        self, mounted: Mounted, *arguments: str, environment: dict[str, str] | None = None
    ) -> float:
        """Seconds for a standard tool run in the mount."""
        return measure.command(arguments, mounted.path, environment)[0]

    def output(self, mounted: Mounted, *arguments: str) -> str:
        """What a standard tool run in the mount says, for tools that measure themselves."""
        return measure.command(arguments, mounted.path, output=True)[1]

    def clients(
        self,
        mounted: Mounted,
        function: Callable[..., object],
        arguments: Sequence[tuple[Any, ...]],
    ) -> float:
        """Seconds for several such clients at once, one for each of ``arguments``."""
        return measure.clients(mounted.path, function, arguments)
