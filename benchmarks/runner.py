"""The order of things: interleaved rounds, each peer once in each, the order rotated."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks import measure, peers
from benchmarks.engines import Engines
from benchmarks.fixtures import Fixtures
from benchmarks.measure import ClientError, Placement
from benchmarks.peers import Peer, PeerError
from benchmarks.results import Failure, Results
from benchmarks.scales import Scale
from benchmarks.session import Session
from benchmarks.workloads import Workload


class Runner:
    """Runs workloads below ``directory``, which must be empty, and collects into ``results``."""

    def __init__(
        self,
        directory: Path,
        scale: Scale,
        placements: Sequence[Placement],
        rounds: int,
        drop: int,
        results: Results,
    ) -> None:
        self._directory = directory
        self._scale = scale
        self._placements = placements
        self._rounds = rounds
        self._drop = drop
        self._results = results
        self._fixtures = Fixtures(directory / "fixtures", scale)
        self._engines = Engines(directory / "engines", scale.image)
        self._peers: list[Peer] = []
        results.placements = [placement.name for placement in placements]

    def close(self) -> None:
        """End what the workloads have kept running between their rounds."""
        self._engines.close()

    def admit(self, candidates: Sequence[Peer]) -> None:
        """Let those take part that can be mounted here."""
        for peer in candidates:
            reason = peers.unavailable(peer, self._directory / "trial" / peer.name)
            if reason is None:
                self._peers.append(peer)
            else:
                self._results.left_out[peer.name] = reason
        self._results.peers = [peer.name for peer in self._peers]

    def run(self, workload: Workload) -> None:
        """All rounds of one workload. A peer that fails is out of the rest of it."""
        if missing := workload.missing_tools():
            self._results.left_out[workload.name] = f"{', '.join(missing)} not found"
            return
        able = [
            peer
            for peer in self._peers
            if (peer.copies_up or not workload.changes_lower)
            and (workload.starts or not peer.only_starts)
        ]
        out: set[tuple[str, str]] = set()
        place = self._directory / workload.name
        for number in range(self._rounds):
            for placement in self._placements:
                for peer in rotated(able, number):
                    if (placement.name, peer.name) in out:
                        continue
                    session = Session(
                        peer,
                        placement,
                        self._scale,
                        self._fixtures,
                        self._engines,
                        place / f"{number}-{placement.name}-{peer.name}",
                        self._drop,
                    )
                    if failure := self._measure(workload, session):
                        print(*failure, file=sys.stderr)
                        self._results.failures.append(failure)
                        out.add((placement.name, peer.name))
        # Not between the rounds: ext4 is slow to create where much was deleted a moment ago.
        if place.exists():
            shutil.rmtree(place)

    def _measure(self, workload: Workload, session: Session) -> Failure | None:
        placement, peer = session.placement.name, session.peer.name
        with (
            measure.pinned(session.placement.client),
            closing(workload.measure(session)) as samples,
        ):
            try:
                for sample in samples:
                    self._results.add(sample, placement, peer)
            except (ClientError, PeerError, OSError, ValueError) as error:
                return Failure(workload.name, placement, peer, str(error))
            finally:
                if session.strayed:
                    self._results.strayed.setdefault(peer, set()).update(session.strayed)
        return None


def rotated(peers_: Sequence[Peer], by: int) -> list[Peer]:
    """The same peers, another one first in each round: none is always after the same one."""
    start = by % len(peers_) if peers_ else 0
    return [*peers_[start:], *peers_[:start]]
