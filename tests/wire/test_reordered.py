"""Requests that no kernel sends: out of order, cut off, lying about lengths, repeated, unknown.

Nobody waits for a reply before the next request goes out, and several threads read the channel.
"""

import errno
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.mounted.harness import wait_until
from tests.wire.channel import IN_HEADER, INIT, OPCODE, Served, status, union_tree
from unionfs._opcodes import OPCODES
from unionfs._parking import Parking

pytestmark = pytest.mark.timeout(120)

UNANSWERED = {opcode.number for opcode in OPCODES if opcode.how == "unanswered"}

# Node ids are small numbers, so that these are often those of nodes there are.
nodes = st.one_of(st.integers(1, 6), st.integers(0, 12), st.just(2**64 - 1))
names = st.sampled_from([b"file", b"large", b"dir", b"link", b"new", b"newer", b"no", b"x" * 255])
numbers = st.one_of(st.integers(0, 3), st.integers(0, 2**63), st.just(2**64 - 1))
small = st.one_of(st.integers(0, 5000), st.sampled_from([2**20, 2**31, 2**32 - 1]))
modes = st.sampled_from([0o100644, 0o100755, 0o010600, 0o040755, 0o120777, 0, 0o106777])
data = st.binary(max_size=50)
#: `unique` of any request, sent or to be sent.
uniques = st.integers(0, 90)


def body(form: str, *fields: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return st.tuples(*fields).map(lambda values: struct.pack("=" + form, *values))


def strings(count: int) -> st.SearchStrategy[bytes]:
    return st.lists(names, min_size=count, max_size=count).map(
        lambda some: b"\0".join(some) + b"\0"
    )


def joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


def padded(size: int, start: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return start.map(lambda text: text.ljust(size, b"\0"))


def written(content: bytes) -> bytes:
    """What follows the offset in a WRITE."""
    return struct.pack("=IIQII", len(content), 0, 0, 0, 0) + content


def batch(count: int, forgets: Sequence[tuple[int, int]]) -> bytes:
    return struct.pack("=II", count, 0) + b"".join(struct.pack("=QQ", *one) for one in forgets)


forgets = st.lists(st.tuples(nodes, numbers), max_size=5)
read = body("QQIIQII", numbers, small, small, st.just(0), numbers, st.just(0), st.just(0))
BODIES = {
    "LOOKUP": strings(1),
    "FORGET": body("Q", numbers),
    "BATCH_FORGET": st.builds(batch, st.one_of(st.integers(0, 6), small), forgets),
    "INTERRUPT": body("Q", uniques),
    "GETATTR": body("IIQ", st.integers(0, 1), st.just(0), numbers),
    "SETATTR": padded(88, body("IIQQ", st.integers(0, 2**12), st.just(0), numbers, small)),
    "READLINK": st.just(b""),
    "SYMLINK": strings(2),
    "MKNOD": joined(body("IIII", modes, small, small, st.just(0)), strings(1)),
    "MKDIR": joined(body("II", modes, small), strings(1)),
    "UNLINK": strings(1),
    "RMDIR": strings(1),
    "RENAME": joined(body("Q", nodes), strings(2)),
    "RENAME2": joined(body("QII", nodes, st.integers(0, 7), st.just(0)), strings(2)),
    "LINK": joined(body("Q", nodes), strings(1)),
    "OPEN": body("II", st.sampled_from([0, 1, 2, 0o2002]), st.just(0)),
    "READ": read,
    "WRITE": joined(body("QQ", numbers, small), data.map(written)),
    "STATFS": st.just(b""),
    "RELEASE": body("QIIQ", numbers, small, small, numbers),
    "FSYNC": body("QII", numbers, st.integers(0, 1), st.just(0)),
    "SETXATTR": joined(
        data.map(lambda value: struct.pack("=IIII", len(value), 0, 0, 0)),
        st.sampled_from([b"user.a\0", b"system.posix_acl_access\0", b"trusted.unionfs.origin\0"]),
        data,
    ),
    "GETXATTR": joined(body("II", small, st.just(0)), st.sampled_from([b"user.a\0", b"user.b\0"])),
    "LISTXATTR": body("II", small, st.just(0)),
    "REMOVEXATTR": st.just(b"user.a\0"),
    "OPENDIR": body("II", small, st.just(0)),
    "READDIR": read,
    "READDIRPLUS": read,
    "CREATE": joined(body("IIII", small, modes, small, st.just(0)), strings(1)),
    "FALLOCATE": body("QQQII", numbers, small, small, st.integers(0, 0x7F), st.just(0)),
    "LSEEK": body("QQII", numbers, small, st.integers(0, 5), st.just(0)),
    "COPY_FILE_RANGE": body("QQQQQQQ", numbers, small, nodes, numbers, small, small, st.just(0)),
    "TMPFILE": joined(body("IIII", small, modes, small, st.just(0)), strings(1)),
    "STATX": body("IIQII", small, st.just(0), numbers, small, small),
    "DESTROY": st.just(b""),
}  # fmt: skip


class Request(NamedTuple):
    opcode: int
    node: int
    body: bytes
    again: int | None = None  #: the `unique` of another request in the place of a new one
    length: int = 0  #: what the header says too much
    extensions: int = 0


@st.composite
def requests(draw: st.DrawFn) -> Request:
    name = draw(st.sampled_from(sorted(BODIES)))
    request = Request(OPCODE[name], draw(nodes), draw(BODIES[name]))
    match draw(st.sampled_from(["well", "well", "well", "cut", "more", "lie", "twice", "unknown"])):
        case "cut":
            cut = draw(st.integers(0, len(request.body)))
            return request._replace(body=request.body[:cut])
        case "more":
            return request._replace(body=request.body + draw(data))
        case "lie":
            length = draw(st.one_of(st.integers(-40, 40), st.just(2**31)))
            return request._replace(length=length, extensions=draw(st.integers(0, 0xFFFF)))
        case "twice":
            return request._replace(again=draw(uniques))
        case "unknown":
            return request._replace(opcode=draw(st.sampled_from([0, 7, 19, 54, 4096, 2**32 - 1])))
    return request


def send(served: Served, unique: int, request: Request) -> None:
    length = (IN_HEADER.size + len(request.body) + request.length) % 2**32
    header = IN_HEADER.pack(
        length, request.opcode, unique, request.node, 0, 0, 0, request.extensions, 0
    )
    served.wire.channel.send(header + request.body)


def answer_all(served: Served, due: Counter[int]) -> None:
    while due.total():
        if served.wire.silent(0.05):
            # What needs a slow path waits for ever where there is none.
            served.parking.detach()
            continue
        unique, error, _ = served.wire.receive()
        assert 0 <= error < 512
        assert error != errno.EFAULT
        assert due[unique] > 0, f"request {unique} is answered once too often"
        due[unique] -= 1


LOOKUP, FORGET, INTERRUPT = (OPCODE[name] for name in ("LOOKUP", "FORGET", "INTERRUPT"))


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    sequence=st.lists(requests(), min_size=1, max_size=40),
    readers=st.sampled_from([1, 3]),
    keep_open=st.booleans(),
    inline_limit=st.sampled_from([0, 1 << 20]),
)
@example(
    # forgotten before it is known, and more often than it was looked up
    sequence=[
        Request(FORGET, 2, struct.pack("=Q", 5)),
        Request(LOOKUP, 1, b"file\0"),
        Request(FORGET, 2, struct.pack("=Q", 2**64 - 1)),
        Request(LOOKUP, 1, b"file\0", again=2),
        Request(INTERRUPT, 0, struct.pack("=Q", 2)),
    ],
    readers=3,
    keep_open=False,
    inline_limit=0,
)
def test_whatever_comes_in_whatever_order(
    tmp_path: Path, sequence: Sequence[Request], readers: int, keep_open: bool, inline_limit: int
) -> None:
    """Each request has its one reply, and a tree that is forgotten leaves nothing behind."""
    build(tmp_path / "lower")
    parking = Parking()
    with union_tree(tmp_path, inline_limit=inline_limit) as tree:
        served = Served(tmp_path, parking, tree, readers=readers, keep_open=keep_open)
        try:
            served.wire.ask("INIT", 0, INIT)
            due: Counter[int] = Counter()
            for number, request in enumerate(sequence):
                unique = 2 + 2 * number if request.again is None else request.again
                if request.opcode not in UNANSWERED:
                    due[unique] += 1
                send(served, unique, request)
            answer_all(served, due)
            if not keep_open:
                for node in range(2, status(served.wire)["nodes"] + 60):
                    served.wire.send("FORGET", node, struct.pack("=Q", 2**64 - 1))
                # They have no reply, and one of a file without a name is done by the pool.
                wait_until(lambda: status(served.wire)["nodes"] == 1, "all nodes are forgotten")
        finally:
            served.close()
    parking.close()


def build(lower: Path) -> None:
    if lower.exists():
        return
    (lower / "dir").mkdir(parents=True)
    for name in ("file", "dir/file"):
        (lower / name).write_bytes(b"content")
    (lower / "large").write_bytes(bytes(10_000))
    (lower / "link").symlink_to("file")
