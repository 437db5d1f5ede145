"""Large files that are read in sequence are in memory once: in the mount's page cache."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import Union, only_unionfs
from tests.mounted.test_splice import pattern

pytestmark = [pytest.mark.timeout(120), only_unionfs]

MIB = 1 << 20
#: The beginning stays in memory twice, and so does what a disk's read-ahead has brought by then.
LARGE = 96 * MIB + 4097


def cached(path: Path) -> int:
    """How many bytes of a file are in the page cache."""
    command = ["fincore", "--bytes", "--noheadings", "--output=RES", path]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def large_file(path: Path, size: int) -> bytes:
    """A file that is on the disk and not in memory; its content."""
    content = pattern(size)
    path.write_bytes(content)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if cached(path):
            pytest.skip("this filesystem keeps in memory what nobody needs")
    return content


def drop(path: Path) -> None:
    """Take a file's clean pages out of memory."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_memory_after(read: Callable[[], None], path: Path) -> bool:
    """Whether all of a file is, at the latest after some times: others may drop the caches."""
    for _ in range(5):
        read()
        if cached(path) >= path.stat().st_size:
            return True
    return False


@pytest.mark.parametrize("branch", ["lower0", "upper"])
@pytest.mark.parametrize("io_uring", ["auto", "off"])
def test_no_second_copy_stays(place: Path, branch: str, io_uring: str) -> None:
    with Union(place, io_uring=io_uring) as union:
        path, shown = place / branch / "file", union.mountpoint / "file"
        content = large_file(path, LARGE)

        def read() -> None:
            assert shown.read_bytes() == content
            assert cached(path) <= LARGE // 2

        assert in_memory_after(read, shown)


def test_what_was_in_memory_stays_there(place: Path) -> None:
    with Union(place) as union:
        path, shown = place / "lower0" / "file", union.mountpoint / "file"
        content = large_file(path, 40 * MIB)

        def read() -> None:
            drop(shown)
            assert path.read_bytes() == shown.read_bytes() == content

        assert in_memory_after(read, path)


def test_what_is_small_is_cached_in_the_branch_too(place: Path) -> None:
    with Union(place) as union:
        path, shown = place / "lower0" / "file", union.mountpoint / "file"
        content = large_file(path, 8 * MIB)

        def read() -> None:
            drop(shown)
            assert shown.read_bytes() == content

        assert in_memory_after(read, path)


def test_what_was_just_written_is_read(place: Path) -> None:
    """Pages of the upper that are not on the disk yet."""
    with Union(place) as union:
        path = place / "upper" / "file"
        content = bytearray(large_file(path, 40 * MIB))
        with (union.mountpoint / "file").open("r+b") as file:
            for offset in range(9 * MIB, 39 * MIB, 3 * MIB):
                file.seek(offset)
                file.write(b"changed")
                content[offset : offset + 7] = b"changed"
        drop(union.mountpoint / "file")
        assert (union.mountpoint / "file").read_bytes() == content
