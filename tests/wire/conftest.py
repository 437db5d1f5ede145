"""Unions served on a socket, and the test in the place of the slow path."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wire.channel import IN_HEADER, INIT, OUT_HEADER, Served, union_tree
from unionfs._parking import Parking

Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves a tree over `tmp_path`; without a slow path unless the test plays it."""
    parking = Parking()
    served: list[Served] = []
    with union_tree(tmp_path) as tree:

        def start(*, init: bool = True, **settings: Any) -> Served:
            served.append(Served(tmp_path, parking, tree, **settings))
            if init:
                served[-1].wire.ask("INIT", 0, INIT)
            return served[-1]

        yield start
        for one in served:
            one.close()
        parking.close()


class SlowPath:
    """The test in the place of pyfuse3: it sees each question and gives the answer."""

    def __init__(self, parking: Parking) -> None:
        self._parking = parking
        ours, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.settimeout(20)
        parking.attach(ours.detach())

    def question(self) -> tuple[int, int, int]:
        """(`unique`, opcode, node)"""
        header = IN_HEADER.unpack_from(self.end.recv(4096))
        return header[2], header[1], header[3]

    def answer(self, unique: int, error: int = 0) -> None:
        self.end.send(OUT_HEADER.pack(OUT_HEADER.size, -error, unique))

    def close(self) -> None:
        self._parking.detach()
        self.end.close()


@pytest.fixture
def slow_path() -> Iterator[Callable[[Served], SlowPath]]:
    played: list[SlowPath] = []

    def start(served: Served) -> SlowPath:
        played.append(SlowPath(served.parking))
        return played[-1]

    yield start
    for one in played:
        one.close()
