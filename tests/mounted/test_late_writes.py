"""What the page cache writes out late changes data, and nothing that was set in between.

What a mapping writes is in tests/posix/test_mmap.py; here it is also write(2), with writeback
caching.
"""

import mmap
import os
import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.mounted.harness import Union, only_unionfs
from tests.mounted.users import as_user

pytestmark = [
    only_unionfs,
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="capabilities of files are root's to give"),
]

OPTIONS = pytest.mark.parametrize("options", [{}, {"writeback": True}, {"copyup": "open"}], ids=str)
CAPABILITY = bytes.fromhex("0100000200040000") + bytes(12)  # cap_net_bind_service+ep
STAMP = 10**18 + 123456789
DATA = b"x" * (4 * mmap.PAGESIZE)
#: More than the pool has threads.
MANY = 80


def store(fd: int) -> None:
    with mmap.mmap(fd, len(DATA)) as mapping:
        mapping[:4] = b"dirt"


def write(fd: int) -> None:
    os.pwrite(fd, b"dirt", 0)


@OPTIONS
@pytest.mark.parametrize("change", [store, write])
def test_what_was_set_after_it_stays(
    place: Path, options: dict[str, object], change: Callable[[int], None]
) -> None:
    with Union(place, **options) as union:
        path = union.mountpoint / "file"
        path.write_bytes(DATA)
        fd = os.open(path, os.O_RDWR)
        try:
            with mmap.mmap(fd, len(DATA)):  # another one: unmapping it last writes out
                change(fd)
                os.chmod(path, 0o6755)
                os.setxattr(path, "security.capability", CAPABILITY)
                os.utime(path, ns=(STAMP, STAMP))
        finally:
            os.close(fd)
        assert path.stat().st_mtime_ns == STAMP
        assert stat.S_IMODE(path.stat().st_mode) == 0o6755
        assert os.getxattr(path, "security.capability") == CAPABILITY
        assert path.read_bytes() == b"dirt" + DATA[4:]


@OPTIONS
def test_write_takes_what_was_there_before(place: Path, options: dict[str, object]) -> None:
    """With writeback caching the kernel does it when write(2) is called: its pages come late."""
    with Union(place, **options) as union:
        path = union.mountpoint / "file"
        path.write_bytes(DATA)
        os.chmod(path, 0o6777)
        os.setxattr(path, "security.capability", CAPABILITY)
        fd = as_user(4321, lambda: os.open(path, os.O_RDWR))
        try:
            for change in (write, os.fsync):
                as_user(4321, partial(change, fd))
                assert stat.S_IMODE(path.stat().st_mode) == 0o777
                assert "security.capability" not in os.listxattr(path)
        finally:
            os.close(fd)


def test_capability_is_not_lost_between_others(place: Path) -> None:
    """Capabilities are set while the pages of other files, and of the same, are written out."""
    with Union(place) as union:
        path = union.mountpoint / "file"
        path.write_bytes(DATA)
        ended = threading.Event()

        def write_out() -> None:
            fd = os.open(path, os.O_RDWR)
            with mmap.mmap(fd, len(DATA)) as mapping:
                while not ended.is_set():
                    mapping[0] ^= 1
                    mapping.flush()
            os.close(fd)

        writer = threading.Thread(target=write_out)
        writer.start()
        try:
            for _ in range(200):
                os.setxattr(path, "security.capability", CAPABILITY)
                assert os.getxattr(path, "security.capability") == CAPABILITY
                os.removexattr(path, "security.capability")
                assert "security.capability" not in os.listxattr(path)
        finally:
            ended.set()
            writer.join()


def test_times_of_many_files_at_once(place: Path) -> None:
    """Who waits for the kernel to write out does not count as one of the pool's threads."""
    with Union(place) as union:
        files = [union.lower / f"file{number}" for number in range(MANY)]
        for file in files:
            file.write_bytes(DATA)
        barrier = threading.Barrier(MANY)
        seen = []

        def work(path: Path) -> None:
            fd = os.open(path, os.O_RDWR)
            with mmap.mmap(fd, len(DATA)) as mapping:
                mapping[0] = 1  # of a lower's file: its WRITE is what copies it up
                barrier.wait()
                os.utime(path, ns=(STAMP, STAMP))
            os.close(fd)
            seen.append(path.stat().st_mtime_ns)

        threads = [
            threading.Thread(target=work, args=(union.mountpoint / file.name,)) for file in files
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [STAMP] * MANY
