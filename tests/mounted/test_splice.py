"""Large reads, which go from page cache to page cache through pipes."""

import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.harness import Union, needs_root, only_unionfs
from tests.mounted.tracing import needs_strace, traced
from unionfs import daemon

pytestmark = [pytest.mark.timeout(60), only_unionfs]

MIB = 1 << 20
CAP_SYS_RESOURCE = 24
PIPE_MAX_SIZE = Path("/proc/sys/fs/pipe-max-size")
# A queue of FUSE over io_uring gives a reply a place of its own: nothing is spliced there.
NO_URING = {"io_uring": "off"}


def pattern(size: int) -> bytes:
    """Bytes that say where in the file they belong."""
    return b"".join(number.to_bytes(8, "big") for number in range(size // 8 + 1))[:size]


def pipes(pid: int) -> int:
    """How many ends of pipes of 1 MiB a process has open."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(link).startswith("pipe:"):
            fd = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
            try:
                found += fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) == MIB
            finally:
                os.close(fd)
    return found


def read_direct(path: Path, offset: int, size: int) -> bytes:
    """One read(2) with O_DIRECT, which goes to the daemon as it is."""
    with mmap.mmap(-1, size) as buffer:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            return buffer[: os.preadv(fd, [buffer], offset)]
        finally:
            os.close(fd)


@pytest.mark.parametrize("size", [32768, 100_000, MIB, 3 * MIB + 4097])
@pytest.mark.parametrize("branch", ["lower", "upper"])
def test_what_is_read(place: Path, branch: str, size: int) -> None:
    union = Union(place, threads=1, **NO_URING)
    (place / ("upper" if branch == "upper" else "lower0") / "file").write_bytes(pattern(size))
    with union:
        file = union.mountpoint / "file"
        assert pipes(union.pid) == 0
        assert file.read_bytes() == pattern(size)
        assert pipes(union.pid) == 4
        for offset in (0, 512, 4096 + 512, size - size % 512):
            wanted = pattern(size)[offset : offset + 512 * 1024]
            assert read_direct(file, offset, 512 * 1024) == wanted
        assert read_direct(file, (size // 512 + 8) * 512, 512 * 1024) == b""
        assert pipes(union.pid) == 4


def test_holes(place: Path) -> None:
    union = Union(place, **NO_URING)
    with (union.lower / "file").open("wb") as file:
        file.write(b"begin")
        file.seek(2 * MIB)
        file.write(b"end")
    with union:
        wanted = b"begin".ljust(2 * MIB, b"\0") + b"end"
        assert (union.mountpoint / "file").read_bytes() == wanted


def test_a_file_in_memory(memory: Path) -> None:
    union = Union(memory, **NO_URING)
    (union.lower / "file").write_bytes(pattern(MIB))
    with union:
        assert (union.mountpoint / "file").read_bytes() == pattern(MIB)


def test_a_file_that_changes_its_length_meanwhile(place: Path) -> None:
    """Its pages leave the pipe's hands empty: no error comes of that, and no old byte."""
    union = Union(place, **NO_URING)
    assert union.upper is not None
    content, size = pattern(2 * MIB), 512 * 1024
    (union.upper / "file").write_bytes(content)
    with union:
        file = union.mountpoint / "file"
        done = threading.Event()

        def change() -> None:
            # Behind the mount's back: through the mount the kernel would take turns.
            with (place / "upper/file").open("r+b") as same:
                while not done.is_set():
                    same.truncate(MIB // 2 + 77)
                    same.seek(0)
                    same.write(content)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            for _ in range(200):
                assert read_direct(file, 0, size) == content[:size]
                got = read_direct(file, MIB, size)
                for at in range(0, len(got), 4096):
                    page = got[at : at + 4096]
                    wanted = content[MIB + at : MIB + at + len(page)]
                    # One that is just being written is zeros still.
                    assert page == wanted or all(
                        a in (b, 0) for a, b in zip(page, wanted, strict=True)
                    )
        finally:
            done.set()
            thread.join()


def may_exceed_limits() -> bool:
    """Whether the daemon has CAP_SYS_RESOURCE, as root mostly does."""
    return daemon.has_capability(CAP_SYS_RESOURCE)


@pytest.fixture
def small_pipes() -> Iterator[None]:
    """A machine whose administrator allows 64 KiB a pipe."""
    before = PIPE_MAX_SIZE.read_text()
    PIPE_MAX_SIZE.write_text("65536")
    yield
    PIPE_MAX_SIZE.write_text(before)


@needs_root
def test_without_pipes(place: Path, small_pipes: None) -> None:
    union = Union(place, **NO_URING)
    (union.lower / "file").write_bytes(pattern(2 * MIB))
    with union:
        assert (union.mountpoint / "file").read_bytes() == pattern(2 * MIB)
        assert pipes(union.pid) == (4 if may_exceed_limits() else 0)


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENODATA", "ENOMEM"])
@pytest.mark.parametrize("call", [1, 2, 3], ids=["file", "pipe", "channel"])
def test_what_cannot_be_spliced_is_copied(place: Path, call: int, error: str) -> None:
    """Each of the three calls for a reply fails once; the next reply goes through new pipes."""
    union = Union(place, threads=1, **NO_URING)
    (union.lower / "file").write_bytes(pattern(MIB))
    with union:
        file = union.mountpoint / "file"
        injection = f"inject=splice:error={error}:when={call}"
        log = place / "trace"
        with traced(union.pid, log, "-e", "trace=splice", "-e", injection):
            assert read_direct(file, 0, 512 * 1024) == pattern(MIB)[: 512 * 1024]
            assert pipes(union.pid) == 0
            assert read_direct(file, 0, 512 * 1024) == pattern(MIB)[: 512 * 1024]
            assert pipes(union.pid) == 4
        assert log.read_text().count("INJECTED") == 1
