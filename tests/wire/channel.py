"""The kernel's end of a FUSE channel, for tests: a packet socket in place of /dev/fuse."""

import errno
import itertools
import json
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unionfs._fastpath import FastPath
from unionfs._opcodes import OPCODES
from unionfs._parking import Parking
from unionfs._tree import Tree

OPCODE = {opcode.name: opcode.number for opcode in OPCODES}

IN_HEADER = struct.Struct("=IIQQIIIHH")
OUT_HEADER = struct.Struct("=IiQ")
ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
ENTRY = struct.Struct("=QQQQII")
READ_IN = struct.Struct("=QQIIQII")
INIT_IN = struct.Struct("=IIIII44x")

#: What Linux 6.18 offers: every flag.
INIT = INIT_IN.pack(7, 45, 131072, 0xFFFFFFFF & ~(1 << 31), 0xFFFFFFFF)


class Wire:
    """Sends requests and receives replies."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self._unique = itertools.count(2, 2)
        #: What came unasked so far: the kind (NOTIFY_INVAL_INODE is 2) and what follows the header.
        self.notices: list[tuple[int, bytes]] = []

    def send(
        self,
        opcode: str | int,
        node: int = 1,
        body: bytes = b"",
        *,
        uid: int | None = None,
        pid: int | None = None,
        length: int | None = None,
        extensions: int = 0,
    ) -> int:
        """Send a request; returns its `unique`."""
        unique = next(self._unique)
        number = OPCODE[opcode] if isinstance(opcode, str) else opcode
        header = IN_HEADER.pack(
            IN_HEADER.size + len(body) if length is None else length,
            number,
            unique,
            node,
            os.geteuid() if uid is None else uid,
            os.getegid(),
            os.getpid() if pid is None else pid,
            extensions,
            0,
        )
        self.channel.send(header + body)
        return unique

    def receive(self) -> tuple[int, int, bytes]:
        """The next reply: its `unique`, its errno (0: success) and what follows the header."""
        while True:
            message = self.channel.recv(2 << 20)
            length, error, unique = OUT_HEADER.unpack_from(message)
            assert length == len(message)
            body = message[OUT_HEADER.size :]
            if error <= 0:
                return unique, -error, body
            assert unique == 0
            self.notices.append((error, body))

    def silent(self, seconds: float = 0.05) -> bool:
        """Whether no reply comes."""
        return not select.select([self.channel], [], [], seconds)[0]

    def ask(self, opcode: str | int, node: int = 1, body: bytes = b"", **more: int) -> bytes:
        """A request's reply; raises OSError for an error."""
        unique = self.send(opcode, node, body, **more)
        answered, error, reply = self.receive()
        assert answered == unique
        if error:
            raise OSError(error, os.strerror(error))
        return reply

    def lookup(self, name: bytes, parent: int = 1) -> int:
        """The node id of a name; 0: a negative entry."""
        node: int = ENTRY.unpack_from(self.ask("LOOKUP", parent, name + b"\0"))[0]
        return node

    def xattr(self, name: bytes, node: int = 1, **more: int) -> bytes:
        """An attribute's value, asked for the way getxattr(2) does: first its length."""
        body = name + b"\0"
        (length,) = struct.unpack_from("=I", self.ask("GETXATTR", node, bytes(8) + body, **more))
        value = self.ask("GETXATTR", node, struct.pack("=II", length + 64, 0) + body, **more)
        assert len(value) <= length + 64
        return value


def write_in(data: bytes, offset: int = 0, flags: int = 0) -> bytes:
    """`flags`: of the writer's open(2)."""
    return struct.pack("=QQIIQII", 0, offset, len(data), 0, 0, flags, 0) + data


def status(wire: Wire) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(wire.xattr(b"user.unionfs.status"))
    return value


@contextmanager
def fails(error: int) -> Iterator[None]:
    """What is done here must fail with this errno."""
    try:
        yield
    except OSError as caught:
        assert caught.errno == error, f"{errno.errorcode[error]} was expected, not {caught}"
    else:
        raise AssertionError(f"{errno.errorcode[error]} was expected")


@contextmanager
def opened(*paths: Path) -> Iterator[list[int]]:
    """Descriptors of directories."""
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


class Served:
    """A tree over one lower and an upper, served on a socket."""

    def __init__(self, base: Path, parking: Parking, tree: Tree, **settings: object) -> None:
        self.base = base
        self.lower = base / "lower"
        self.upper = base / "upper"
        self.tree = tree
        self.parking = parking
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        ours.settimeout(20)
        self.fastpath = FastPath(tree, theirs.detach(), parking, **settings)  # type: ignore[arg-type]
        self.wire = Wire(ours)
        self.fastpath.start()

    def close(self) -> None:
        self.fastpath.close()
        self.wire.channel.close()


@contextmanager
def union_tree(base: Path, **settings: object) -> Iterator[Tree]:
    """A tree over `base`'s directories lower, upper and work, which are made if missing."""
    paths = [base / name for name in ("lower", "upper", "work")]
    for path in paths:
        path.mkdir(exist_ok=True)
    with opened(*paths) as (lower, upper, work):
        tree = Tree([lower], upper, work, **settings)  # type: ignore[arg-type]
        try:
            yield tree
        finally:
            tree.close()
