"""Reading and writing by node, whichever branch a file is in and becomes to be in."""

import errno
import os
import stat
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.posix.asserts import fails
from tests.tree.union import Union, put

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO = 1, 2, 8, 16  # fallocate(2)
ALPHABET = bytes(range(97, 123))

EVERYWHERE = pytest.mark.parametrize("where", ["upper", "lower1", "lower2"])


@EVERYWHERE
def test_reading(union: Union, where: str) -> None:
    put(union.base / where, "f", content=ALPHABET)
    node = union.node("f")
    read = union.tree.read
    assert read(node, 100) == ALPHABET
    assert read(node, 3, 5) == b"fgh"
    assert read(node, 100, 20) == ALPHABET[20:]
    assert read(node, 100, 26) == b""
    assert read(node, 100, 1 << 40) == b""
    assert read(node, 0) == b""


@EVERYWHERE
def test_writing(union: Union, where: str) -> None:
    put(union.base / where, "f", content=ALPHABET)
    node = union.node("f")
    assert union.tree.write(node, b"ABC") == 3
    assert union.tree.write(node, b"XYZ", 23) == 3
    assert union.tree.write(node, b"!", 30) == 1
    expected = b"ABC" + ALPHABET[3:23] + b"XYZ" + bytes(4) + b"!"
    assert union.read_node(node) == expected
    assert (union.upper / "f").read_bytes() == expected
    assert union.tree.getattr(node).st_size == 31
    assert union.tree.write(node, b"") == 0


@EVERYWHERE
@pytest.mark.parametrize("size", [0, 5, 26, 100])
def test_truncating(union: Union, where: str, size: int) -> None:
    put(union.base / where, "f", content=ALPHABET)
    node = union.node("f")
    union.tree.read(node, 1)
    assert union.tree.setattr(node, size=size).st_size == size
    expected = (ALPHABET + bytes(100))[:size]
    assert union.read_node(node) == expected
    # What was cut off does not come back.
    union.tree.setattr(node, size=26)
    assert union.read_node(node) == (expected + bytes(26))[:26]
    assert (union.upper / "f").read_bytes() == union.read_node(node)


def test_rewriting_through_truncation_leaves_no_old_bytes(union: Union) -> None:
    put(union.lower, "f", content=ALPHABET)
    node = union.node("f")
    assert union.read_node(node) == ALPHABET
    union.tree.setattr(node, size=0)
    union.tree.write(node, b"short")
    assert union.read_node(node) == b"short"
    assert (union.upper / "f").read_bytes() == b"short"


@EVERYWHERE
def test_allocating(union: Union, where: str) -> None:
    data = os.urandom(16384)
    put(union.base / where, "f", content=data)
    node = union.node("f")
    union.tree.fallocate(node, PUNCH_HOLE | KEEP_SIZE, 4096, 4096)
    data = data[:4096] + bytes(4096) + data[8192:]
    assert union.read_node(node) == data
    union.tree.fallocate(node, ZERO, 100, 50)
    data = data[:100] + bytes(50) + data[150:]
    assert union.read_node(node) == data
    union.tree.fallocate(node, 0, 0, 20000)
    assert union.read_node(node) == data + bytes(20000 - 16384)
    union.tree.fallocate(node, KEEP_SIZE, 0, 30000)
    assert union.tree.getattr(node).st_size == 20000
    for offset, length in ((0, 0), (-1 & 2**63, 1), (1, 2**63 - 1)):
        with fails(errno.EINVAL, errno.EFBIG):
            union.tree.fallocate(node, 0, offset, length)
    assert (union.upper / "f").read_bytes() == data + bytes(20000 - 16384)


@EVERYWHERE
def test_seeking(union: Union, where: str) -> None:
    with (union.base / where / "f").open("wb") as file:
        file.truncate(1 << 20)
        os.pwrite(file.fileno(), b"x" * 4096, 1 << 16)
    node = union.node("f")
    seek = union.tree.lseek
    for _ in range(2):
        assert seek(node, 0, os.SEEK_DATA) == 1 << 16
        assert seek(node, 1 << 16, os.SEEK_HOLE) == (1 << 16) + 4096
        assert seek(node, 0, os.SEEK_HOLE) == 0
        with fails(errno.ENXIO):
            seek(node, 1 << 17, os.SEEK_DATA)
        union.tree.setattr(node, mode=0o600)  # copies it up


@EVERYWHERE
def test_beyond_four_gigabytes(union: Union, where: str) -> None:
    put(union.base / where, "f", content=b"start")
    node = union.node("f")
    union.tree.write(node, b"far", 5 << 30)
    assert union.tree.getattr(node).st_size == (5 << 30) + 3
    assert union.tree.read(node, 10, (5 << 30) - 2) == b"\0\0far"
    assert union.tree.read(node, 5) == b"start"
    assert (union.upper / "f").stat().st_blocks < 100


@pytest.mark.parametrize("offset", [2**63 - 1, 2**63, 2**64 - 1])
def test_offsets_beyond_all_files(union: Union, offset: int) -> None:
    put(union.upper, "f", content=ALPHABET)
    node = union.node("f")
    for call in (
        lambda: union.tree.write(node, b"xx", offset),
        lambda: union.tree.setattr(node, size=offset),
        lambda: union.tree.fallocate(node, 0, offset, 1),
    ):
        with fails(errno.EINVAL, errno.EFBIG, errno.ENOSPC):
            call()
    try:
        assert union.tree.read(node, 10, offset) == b""
    except OSError as error:
        assert error.errno == errno.EINVAL
    assert union.read_node(node) == ALPHABET


def test_all_nodes_of_old_see_the_copy(union: Union) -> None:
    """I/O goes by node: a descriptor opened before the copy-up sees what is written after it."""
    put(union.lower, "d/f", content=ALPHABET)
    node = union.node("d/f")
    assert union.read_node(node) == ALPHABET
    for where in ("write", "shrink", "rename"):
        union.tree.write(node, where.encode())
        assert union.tree.read(node, len(where)) == where.encode()
        if where == "shrink":
            union.tree.shrink(everything=True)
        elif where == "rename":
            union.rename("d", "e")
        assert union.tree.read(node, len(where)) == where.encode()
    assert (union.upper / "e/f").read_bytes()[:6] == b"rename"


def test_data_of_what_is_no_file(union: Union) -> None:
    put(union.lower, "d/")
    os.mkfifo(union.lower / "fifo")
    os.mknod(union.lower / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for path, error in (("d", errno.EISDIR), ("fifo", errno.EINVAL), ("null", errno.EINVAL)):
        node = union.node(path)
        calls: tuple[Callable[[], object], ...] = (
            lambda node=node: union.tree.read(node, 1),  # type: ignore[misc]
            lambda node=node: union.tree.lseek(node, 0, os.SEEK_DATA),  # type: ignore[misc]
        )
        for call in calls:
            with fails(error):
                call()


def test_syncing(union: Union) -> None:
    put(union.lower, "d/f")
    for path in ("", "d", "d/f"):
        union.tree.fsync(union.node(path))
        union.tree.fsync(union.node(path), datasync=True)
    union.write("d/f", b"x")
    for path in ("", "d", "d/f"):
        union.tree.fsync(union.node(path))
        union.tree.fsync(union.node(path), datasync=True)


def test_times_follow_the_data(union: Union) -> None:
    put(union.lower, "f", content=ALPHABET)
    node = union.node("f")
    for change in (
        lambda: union.tree.write(node, b"x"),
        lambda: union.tree.setattr(node, size=3),
        lambda: union.tree.fallocate(node, 0, 0, 100),
    ):
        union.tree.setattr(node, mtime_ns=1, atime_ns=1)
        change()
        assert union.tree.getattr(node).st_mtime_ns > 1
    # Attributes alone are no change of the data.
    union.tree.setattr(node, mtime_ns=1)
    union.tree.setattr(node, mode=0o600)
    assert union.tree.getattr(node).st_mtime_ns == 1


SIZE = 20_000
offsets = st.integers(0, SIZE)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), offsets, st.integers(1, 9000), st.integers(1, 255)),
        st.tuples(st.just("truncate"), offsets, st.none(), st.none()),
        st.tuples(st.just("punch"), offsets, st.integers(1, 9000), st.none()),
        st.tuples(st.just("read"), offsets, st.integers(0, 9000), st.none()),
        st.tuples(st.sampled_from(["rename", "shrink", "restart", "link"]), *[st.none()] * 3),
    ),
    max_size=20,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=STEPS,
    pieces=st.lists(st.tuples(offsets, st.integers(1, 5000)), max_size=4),
    inline=st.sampled_from([0, 4096, 1 << 20]),
)
def test_like_bytes_in_memory(
    union: Union,
    steps: list[tuple[str, int, int, int]],
    pieces: list[tuple[int, int]],
    inline: int,
) -> None:
    union.restart(inline_limit=inline)
    for directory in (union.lower, union.upper, union.work):
        for path in directory.iterdir():
            path.unlink()
    model = bytearray()
    with (union.lower / "a").open("wb") as file:
        for offset, length in pieces:
            os.pwrite(file.fileno(), b"l" * length, offset)
            model.extend(bytes(max(0, offset + length - len(model))))
            model[offset : offset + length] = b"l" * length
    name, other = "a", "b"
    for what, offset, length, byte in steps:
        node = union.node(name)
        match what:
            case "write":
                union.tree.write(node, bytes([byte]) * length, offset)
                model.extend(bytes(max(0, offset + length - len(model))))
                model[offset : offset + length] = bytes([byte]) * length
            case "truncate":
                union.tree.setattr(node, size=offset)
                model[offset:] = bytes(max(0, offset - len(model)))
            case "punch":
                union.tree.fallocate(node, PUNCH_HOLE | KEEP_SIZE, offset, length)
                end = min(offset + length, len(model))
                model[offset:end] = bytes(max(0, end - offset))
            case "read":
                assert union.tree.read(node, length, offset) == model[offset : offset + length]
            case "rename":
                union.rename(name, other)
                name, other = other, name
            case "link":
                union.link(name, other)
                union.unlink(name)
                name, other = other, name
            case "shrink":
                union.tree.shrink(everything=True)
            case "restart":
                union.restart()
        assert union.read(name) == model
    union.restart()
    assert union.read(name) == model
    assert union.names() == [name]
    lower = (union.lower / "a").read_bytes()
    assert set(lower) <= {0, ord("l")}


@EVERYWHERE
@pytest.mark.skipif(os.geteuid() != 0, reason="capabilities of files are root's to give")
def test_late_writing_leaves_capabilities(union: Union, where: str) -> None:
    capability = bytes.fromhex("0100000200040000") + bytes(12)
    put(union.base / where, "f", content=ALPHABET)
    os.setxattr(union.base / where / "f", "security.capability", capability)
    node = union.node("f")
    assert union.tree.write(node, b"ABC", late=True) == 3
    assert os.getxattr(union.upper / "f", "security.capability") == capability
    union.tree.write(node, b"ABC")
    assert "security.capability" not in os.listxattr(union.upper / "f")
