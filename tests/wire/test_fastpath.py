"""The wire, on a socket in place of /dev/fuse: every opcode, bad requests, parking, pools."""

import errno
import json
import os
import resource
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.channel import (
    ENTRY,
    INIT,
    INIT_IN,
    OPCODE,
    READ_IN,
    Served,
    fails,
    status,
    write_in,
)
from tests.wire.conftest import Serve
from unionfs._opcodes import OPCODES

pytestmark = pytest.mark.timeout(60)

# --- the table ---


def test_the_table_has_every_opcode_once() -> None:
    numbers = [opcode.number for opcode in OPCODES]
    # 7 and 19 were never used; 53 is the last of Linux 6.18.
    assert numbers == [number for number in range(1, 54) if number not in (7, 19)]
    assert len({opcode.name for opcode in OPCODES}) == len(numbers)
    for opcode in OPCODES:
        assert opcode.how in ("native", "pool", "declined", "unanswered")
        if opcode.how in ("pool", "declined"):
            assert opcode.why


@pytest.mark.parametrize("opcode", OPCODES, ids=lambda opcode: opcode.name)
@pytest.mark.parametrize("keep_open", [False, True], ids=["no-open", "keep-open"])
def test_each_opcode_is_answered_as_the_table_says(
    serve: Serve, opcode: Any, keep_open: bool
) -> None:
    served = serve(keep_open=keep_open)
    wire = served.wire
    # Longer than any fixed part, and nearly all zeros: valid for some, refused by others, fatal
    # for none. The root stands where COPY_FILE_RANGE has its second node.
    unique = wire.send(opcode.number, 1, struct.pack("=3Q112x", 0, 0, 1))
    if opcode.how == "unanswered":
        assert wire.silent()
    else:
        answered, error, _ = wire.receive()
        assert answered == unique
        declined = opcode.how == "declined" or (not keep_open and opcode.name in ("OPEN", "CREATE"))
        # ENOSYS means "never again" to the kernel: it is given where it is meant, only.
        assert (error == errno.ENOSYS) == declined
        assert (error == errno.ENOTTY) == (opcode.name == "IOCTL")
    counted = status(wire)["requests"][opcode.name]
    plane = "pool" if opcode.how == "pool" else "fast"
    assert counted[plane]["count"] >= 1


@pytest.mark.parametrize("number", [0, 7, 19, 54, 4096, 0xFFFFFFFF])
def test_unknown_opcodes_are_declined(serve: Serve, number: int) -> None:
    wire = serve().wire
    with fails(errno.ENOSYS):
        wire.ask(number)
    assert set(status(wire)["requests"]) == {"INIT", "GETXATTR"}


# --- INIT ---

FLAGS = {
    "ASYNC_READ": 0, "ATOMIC_O_TRUNC": 3, "POSIX_LOCKS": 1, "EXPORT_SUPPORT": 4, "DONT_MASK": 6,
    "FLOCK_LOCKS": 10, "DO_READDIRPLUS": 13, "READDIRPLUS_AUTO": 14, "WRITEBACK_CACHE": 16,
    "NO_OPEN_SUPPORT": 17, "PARALLEL_DIROPS": 18, "HANDLE_KILLPRIV": 19, "POSIX_ACL": 20,
    "MAX_PAGES": 22, "CACHE_SYMLINKS": 23, "NO_OPENDIR_SUPPORT": 24, "HANDLE_KILLPRIV_V2": 28,
    "SETXATTR_EXT": 29, "INIT_EXT": 30,
}  # fmt: skip


def negotiate(served: Served, request: bytes = INIT) -> tuple[tuple[int, ...], set[str]]:
    reply = served.wire.ask("INIT", 0, request)
    assert len(reply) == 64
    fields = struct.unpack("=IIIIHHIIHHI28x", reply)
    return fields, {name for name, bit in FLAGS.items() if fields[3] & 1 << bit}


def test_init(serve: Serve) -> None:
    served = serve(init=False)
    assert not served.fastpath.initialised
    fields, flags = negotiate(served)
    major, minor, readahead, _, _, _, max_write, granularity, pages, _, flags2 = fields
    assert (major, minor, readahead, granularity) == (7, 45, 131072, 1)
    assert max_write == pages * 4096 == 1 << 20
    assert flags == set(FLAGS) - {
        "ATOMIC_O_TRUNC",  # with no-open an O_TRUNC rewrite would leave old bytes
        "POSIX_LOCKS", "FLOCK_LOCKS",  # the kernel's own are right
        "EXPORT_SUPPORT", "HANDLE_KILLPRIV", "WRITEBACK_CACHE",
    }  # fmt: skip
    assert flags2 == 1 << (38 - 32)  # NO_EXPORT_SUPPORT
    assert served.fastpath.initialised


def test_init_with_options(serve: Serve) -> None:
    _, flags = negotiate(serve(init=False, keep_open=True, writeback=True))
    assert "WRITEBACK_CACHE" in flags
    assert "NO_OPEN_SUPPORT" not in flags
    assert "ATOMIC_O_TRUNC" not in flags


def test_init_takes_only_what_is_offered(serve: Serve) -> None:
    fields, flags = negotiate(serve(init=False), INIT_IN.pack(7, 31, 4096, 1 << 0, 0)[:16])
    assert flags == {"ASYNC_READ"}
    assert (fields[1], fields[-1]) == (31, 0)


def test_io_uring_without_descriptors_for_it(serve: Serve) -> None:
    """What was begun of the queues is taken back, and the channel serves alone."""
    served = serve(init=False, queues=2)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    threads, descriptors = os.listdir("/proc/self/task"), os.listdir("/proc/self/fd")
    free = next(number for number in count() if str(number) not in descriptors)
    # One queue gets an eventfd, and neither its ring nor the other queue anything.
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
    try:
        fields, _ = negotiate(served)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not fields[-1] & 1 << (41 - 32)  # OVER_IO_URING
    assert status(served.wire)["queues"] == 0
    assert os.listdir("/proc/self/fd") == descriptors
    while os.listdir("/proc/self/task") != threads:  # the last instructions of one that has ended
        time.sleep(0.001)


def test_init_of_other_versions(serve: Serve) -> None:
    served = serve(init=False)
    # A newer major asks again with ours; an older kernel cannot be served.
    fields, _ = negotiate(served, INIT_IN.pack(8, 0, 0, 0, 0))
    assert fields[0] == 7
    assert not served.fastpath.initialised
    for version in ((6, 0), (7, 30)):
        with fails(errno.EPROTO):
            negotiate(served, INIT_IN.pack(*version, 0, 0, 0))
    assert not served.fastpath.initialised


# --- bad requests ---


def test_lengths_are_believed_only_if_they_fit(serve: Serve) -> None:
    served = serve()
    wire = served.wire
    (served.upper / "file").write_text("x")
    node = wire.lookup(b"file")

    def refused(opcode: str, body: bytes, **more: int) -> None:
        with fails(errno.EINVAL):
            wire.ask(opcode, node, body, **more)

    refused("WRITE", write_in(b"abc")[:-1])
    refused("WRITE", struct.pack("=QQIIQII", 0, 0, 0xFFFFFFFF, 0, 0, 0, 0) + b"x")
    refused("SETXATTR", struct.pack("=IIII", 9, 0, 0, 0) + b"user.a\0" + b"12345678")
    refused("SETXATTR", struct.pack("=II", 0, 0))
    refused("SETXATTR", struct.pack("=IIII", 0, 0, 0, 0) + b"user.a")
    refused("GETXATTR", bytes(8))
    refused("GETXATTR", bytes(8) + b"\0")
    refused("GETXATTR", bytes(8) + b"x" * 300 + b"\0")
    refused("REMOVEXATTR", b"user.a")
    refused("SETATTR", bytes(87))
    refused("READ", bytes(39))
    refused("GETATTR", b"", length=4096)
    refused("GETATTR", b"", extensions=1)
    refused("GETATTR", bytes(8), extensions=0xFFFF)
    with fails(errno.EINVAL):
        wire.ask("READDIR", 1, READ_IN.pack(0, 0, 10, 0, 0, 0, 0))
    assert (served.upper / "file").read_text() == "x"


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"a/b", b"/", b"no end"], ids=lambda name: name.decode() or "empty"
)
def test_names_are_names(serve: Serve, name: bytes) -> None:
    wire = serve().wire
    string = name if name == b"no end" else name + b"\0"
    requests = {
        "LOOKUP": string, "UNLINK": string, "RMDIR": string, "MKDIR": bytes(8) + string,
        "MKNOD": bytes(16) + string, "LINK": struct.pack("=Q", 1) + string,
        "SYMLINK": string + b"target\0", "RENAME": struct.pack("=Q", 1) + b"old\0" + string,
        "RENAME2": struct.pack("=QII", 1, 0, 0) + string + b"new\0",
    }  # fmt: skip
    for opcode, body in requests.items():
        with fails(errno.EINVAL):
            wire.ask(opcode, 1, body)


def test_long_names(serve: Serve) -> None:
    wire = serve().wire
    assert wire.lookup(b"x" * 255) == 0
    with fails(errno.ENAMETOOLONG):
        wire.lookup(b"x" * 256)


def test_nodes_that_do_not_exist(serve: Serve) -> None:
    wire = serve().wire
    body = {
        "LOOKUP": b"x\0", "RENAME": struct.pack("=Q", 1) + b"a\0b\0", "SETATTR": bytes(88),
        "LINK": struct.pack("=Q", 77) + b"x\0", "FSYNC": bytes(16), "WRITE": write_in(b"x"),
        "COPY_FILE_RANGE": struct.pack("=7Q", 0, 0, 77, 0, 0, 1, 0),
    }  # fmt: skip
    for node in (0, 77, 2**64 - 1):
        for opcode, request in body.items():
            with fails(errno.ESTALE):
                wire.ask(opcode, node, request)
        wire.send("FORGET", node, struct.pack("=Q", 2**64 - 1))
    wire.send("BATCH_FORGET", 0, struct.pack("=II", 0xFFFFFFFF, 0) + struct.pack("=QQ", 77, 1))
    assert wire.lookup(b"x") == 0


def test_scraps_are_passed_over(serve: Serve) -> None:
    wire = serve().wire
    wire.channel.send(b"x" * 39)
    assert wire.silent()
    assert status(wire)["malformed"] == 1


requests = st.tuples(
    st.sampled_from([number for name, number in OPCODE.items() if name != "INIT"]),
    st.sampled_from([0, 1, 1, 2, 3, 4, 99]),
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.one_of(
                st.sampled_from([b"\0", b"file\0", b"dir\0", b"..\0", b"user.x\0", b"new\0"]),
                st.integers(0, 5).map(lambda number: struct.pack("=Q", number)),
                st.integers(0, 2**64 - 1).map(lambda number: struct.pack("=Q", number)),
            ),
            max_size=14,
        ).map(b"".join),
    ),
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(requests, min_size=1, max_size=20))
def test_no_request_ends_the_daemon(serve: Serve, sequence: list[tuple[int, int, bytes]]) -> None:
    """Whatever comes, each request is answered once, by the next request at the latest."""
    served = serve(keep_open=True)
    wire = served.wire
    (served.lower / "file").write_text("x")
    (served.lower / "dir").mkdir(exist_ok=True)
    with suppress(OSError):
        wire.lookup(b"file")
        wire.lookup(b"dir")
    unanswered = {opcode.number for opcode in OPCODES if opcode.how == "unanswered"}
    due = set()
    for number, node, body in sequence:
        unique = wire.send(number, node, body)
        if number not in unanswered:
            due.add(unique)
    # What needs a slow path waits for ever where there is none: it fails when that is gone.
    while due:
        if wire.silent(0.05):
            served.parking.detach()
            continue
        unique, error, _ = wire.receive()
        assert error < 512
        due.remove(unique)
    assert len(wire.ask("GETATTR", 1, bytes(16))) == 104
    served.close()


# --- replies ---


def test_a_missing_name_is_a_negative_entry(serve: Serve) -> None:
    wire = serve(timeout=2.5).wire
    reply = wire.ask("LOOKUP", 1, b"missing\0")
    node, generation, valid, _, nanoseconds, _ = ENTRY.unpack_from(reply)
    assert (len(reply), node, generation) == (128, 0, 0)
    assert (valid, nanoseconds) == (2, 500_000_000)


def test_attributes_of_devices_and_early_times(serve: Serve) -> None:
    if os.geteuid() != 0:
        pytest.skip("making devices is root's")
    served = serve()
    wire = served.wire
    rdev = 70000 & 0xFF | 259 << 8 | (70000 & ~0xFF) << 12  # the kernel's new_encode_dev()
    body = struct.pack("=IIII", 0o60640, rdev, 0o022, 0) + b"device\0"
    reply = wire.ask("MKNOD", 1, body)
    node = ENTRY.unpack_from(reply)[0]
    found = (served.upper / "device").stat()
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (259, 70000)
    assert struct.unpack_from("=I", reply, 40 + 60 + 16)[0] == rdev
    # SETATTR of both times to 1901.
    early = 1 - 2**31
    setattr_in = struct.pack("=I28x3q3I20x", 1 << 4 | 1 << 5, early, early, 0, 1, 2, 0)
    reply = wire.ask("SETATTR", node, setattr_in)
    assert struct.unpack_from("=qq", reply, 16 + 24) == (early, early)
    assert found.st_mtime_ns != (served.upper / "device").stat().st_mtime_ns
    assert (served.upper / "device").stat().st_mtime_ns == early * 10**9 + 2


def test_times_wait_for_pages_that_may_be_mapped(serve: Serve) -> None:
    """Only then the kernel is asked to write out: whoever writes and sets times pays nothing."""
    served = serve()
    wire = served.wire
    (served.upper / "file").write_bytes(b"x" * 8192)
    node = wire.lookup(b"file")
    mtime, both_now = 1 << 5, 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8

    def asked(opcode: str, body: bytes, valid: int = mtime) -> bool:
        wire.ask(opcode, node, body)
        wire.notices.clear()
        wire.ask("SETATTR", node, struct.pack("=I84x", valid))
        assert wire.notices in ([], [(2, struct.pack("=Qqq", node, 0, 0))])
        return bool(wire.notices)

    page = b"y" * 4096
    assert not asked("WRITE", write_in(page, flags=os.O_WRONLY))
    assert not asked("WRITE", write_in(b"part", flags=os.O_WRONLY))
    assert asked("WRITE", write_in(page, flags=os.O_RDWR))
    assert not asked("GETATTR", bytes(16))
    assert asked("WRITE", write_in(page, flags=os.O_WRONLY)), "it may be mapped by the other"
    assert not asked("READ", READ_IN.pack(0, 0, 4096, 0, 0, 0, 0), both_now)
    assert asked("GETATTR", bytes(16)), "of the READ"


def test_statx(serve: Serve) -> None:
    served = serve()
    reply = served.wire.ask("STATX", 1, struct.pack("=IIQII", 0, 0, 0, 0, 0xFFF))
    assert len(reply) == 32 + 256
    mask, _, _, nlink, uid = struct.unpack_from("=IIQII", reply, 32)
    assert mask & ~0xFFF == 0
    assert mask & 0x7FF == 0x7FF
    assert (uid, bool(nlink)) == (os.geteuid(), True)


def entries(reply: bytes, plus: bool) -> list[tuple[bytes, int, int, int]]:
    """(name, offset, inode number, node)"""
    found = []
    at = 0
    while at < len(reply):
        node = 0
        if plus:
            node = ENTRY.unpack_from(reply, at)[0]
            at += 128
        ino, offset, length, _ = struct.unpack_from("=QQII", reply, at)
        found.append((reply[at + 24 : at + 24 + length], offset, ino, node))
        at += (24 + length + 7) & ~7
    return found


@pytest.mark.parametrize("plus", [False, True], ids=["READDIR", "READDIRPLUS"])
@pytest.mark.parametrize("size", [512, 4096, 1 << 20])
def test_listings(serve: Serve, plus: bool, size: int) -> None:
    served = serve()
    wire = served.wire
    names = {f"{number}{'x' * (number % 50)}".encode() for number in range(200)}
    for name in names:
        (served.lower / name.decode()).touch()
    (served.upper / "upper").touch()
    opcode = "READDIRPLUS" if plus else "READDIR"
    seen: list[bytes] = []
    offset = 0
    while reply := wire.ask(opcode, 1, READ_IN.pack(0, offset, size, 0, 0, 0, 0)):
        assert len(reply) <= size
        found = entries(reply, plus)
        for name, next_offset, ino, node in found:
            offset = next_offset
            seen.append(name)
            assert ino
            assert bool(node) == (plus and name not in (b".", b".."))
            if node:
                assert wire.lookup(name) == node
        # An offset continues after its own entry.
        if len(found) > 1:
            again = wire.ask(opcode, 1, READ_IN.pack(0, found[0][1], size, 0, 0, 0, 0))
            assert entries(again, plus)[0][0] == found[1][0]
    assert seen[:2] == [b".", b".."]
    assert sorted(seen[2:]) == sorted([*names, b"upper"])


def test_a_listing_whose_names_are_all_gone_is_not_the_end(serve: Serve) -> None:
    """An empty reply would say so; names can go between the listing and the look-ups."""
    served = serve()
    for number in range(100):
        (served.lower / f"{number:03}").touch()
    read = READ_IN.pack(0, 2, 512, 0, 0, 0, 0)
    assert len(entries(served.wire.ask("READDIR", 1, read), False)) > 3
    for number in range(99):
        (served.lower / f"{number:03}").unlink()
    left = entries(served.wire.ask("READDIRPLUS", 1, read), True)
    assert [name for name, *_ in left] == [b"099"]


# --- what a mount tells about itself ---


def test_status_counts(serve: Serve) -> None:
    wire = serve(readers=2).wire
    for _ in range(5):
        wire.lookup(b"missing")
    with fails(errno.ENOENT):
        wire.ask("RMDIR", 1, b"missing\0")
    wire.ask("FSYNCDIR", 1, bytes(16))
    found = status(wire)
    assert found["requests"]["LOOKUP"]["fast"]["count"] == 5
    assert found["requests"]["LOOKUP"]["fast"]["errors"] == 0
    assert found["requests"]["RMDIR"]["fast"]["errors"] == 1
    assert found["requests"]["FSYNCDIR"]["pool"]["count"] == 1
    assert found["requests"]["LOOKUP"]["fast"]["ns"] > 0
    assert (found["readers"], found["parked"], found["pool_threads"]) == (2, 0, 1)
    assert found["nodes"] >= 1


def test_status_is_the_roots(serve: Serve) -> None:
    served = serve()
    (served.upper / "file").touch()
    node = served.wire.lookup(b"file")
    with fails(errno.ENODATA):
        served.wire.xattr(b"user.unionfs.status", node)


def test_the_answers_cannot_be_stored(serve: Serve) -> None:
    wire = serve().wire
    for name in (b"user.unionfs.status\0", b"user.unionfs.where\0", b"security.unionfs.where\0"):
        for opcode, body in (
            ("SETXATTR", struct.pack("=IIII", 1, 0, 0, 0) + name + b"x"),
            ("REMOVEXATTR", name),
        ):
            with fails(errno.EPERM):
                wire.ask(opcode, 1, body)
    assert wire.ask("LISTXATTR", 1, struct.pack("=II", 4096, 0)) == b""


def test_an_answer_larger_than_asked_for(serve: Serve) -> None:
    wire = serve().wire
    with fails(errno.ERANGE):
        wire.ask("GETXATTR", 1, struct.pack("=II", 10, 0) + b"user.unionfs.status\0")


@pytest.mark.parametrize(
    "name",
    [
        b"plain",
        b'q"b\\s\tt\x7f',
        "gr\u00fc\u00dfe \u4e16 \U0001f600".encode(),
        # Not UTF-8: overlong, a surrogate, beyond the last character, cut short, stray.
        b"\xc0\xaf \xed\xa0\x80 \xf4\x90\x80\x80 \xe2\x82 \xff\x80",
    ],
)
def test_where_any_name_is_readable(serve: Serve, name: bytes) -> None:
    served = serve(branches=[b"/up\xff", b"/low"])
    (served.lower / os.fsdecode(name)).touch()
    node = served.wire.lookup(name)
    found = json.loads(served.wire.xattr(b"user.unionfs.where", node))
    assert found == {"branch": 1, "path": os.fsdecode(name), "branch_path": "/low"}
    root = json.loads(served.wire.xattr(b"user.unionfs.where", 1))
    assert (root["branch"], root["path"]) == (0, "")
    assert os.fsencode(root["branch_path"]) == b"/up\xff"


def test_host_paths_are_told_to_the_owner_only(serve: Serve, tmp_path: Path) -> None:
    served = serve(branches=[b"/up", b"/low"])

    def told(**more: int) -> bool:
        return "branch_path" in json.loads(served.wire.xattr(b"user.unionfs.where", 1, **more))

    assert told()
    assert not told(uid=os.geteuid() + 1)
    assert not told(pid=0)  # from outside the daemon's pid namespace
    assert not told(pid=2**22 - 1 if not Path(f"/proc/{2**22 - 1}").exists() else 2**22 - 2)
    if os.geteuid() != 0:
        pytest.skip("changing a process's root is root's")
    elsewhere = tmp_path / "root"
    elsewhere.mkdir()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.chroot(elsewhere)
        os.write(write_end, b"x")
        threading.Event().wait()
    try:
        os.read(read_end, 1)
        assert not told(pid=pid)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(read_end)
        os.close(write_end)


def test_debug_writes_a_line_for_each_request(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from tests.wire.channel import *
with union_tree(Path({str(tmp_path)!r})) as tree:
    served = Served(Path({str(tmp_path)!r}), Parking(), tree, debug=True)
    served.wire.lookup(b"new\\nline")
    served.wire.ask("FSYNCDIR", 1, bytes(16))
    served.close()
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("LOOKUP node=1 name=new?line plane=fast result=128 us=")
    assert lines[1].startswith("FSYNCDIR node=1 name= plane=pool result=0 us=")
