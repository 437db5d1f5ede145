"""Large files that are read in sequence are in memory once: in the mount's page cache."""

import os
import subprocess
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


@pytest.mark.parametrize("branch", ["lower0", "upper"])
@pytest.mark.parametrize("io_uring", ["auto", "off"])
def test_no_second_copy_stays(place: Path, branch: str, io_uring: str) -> None:
    with Union(place, io_uring=io_uring) as union:
        path = place / branch / "file"
        content = large_file(path, LARGE)
        assert (union.mountpoint / "file").read_bytes() == content
        assert cached(path) <= LARGE // 2
        assert cached(union.mountpoint / "file") >= len(content)


def test_what_was_in_memory_stays_there(place: Path) -> None:
    with Union(place) as union:
        path = place / "lower0" / "file"
        content = large_file(path, 40 * MIB)
        assert path.read_bytes() == content
        assert (union.mountpoint / "file").read_bytes() == content
        assert cached(path) >= len(content)


def test_what_is_small_is_cached_in_the_branch_too(place: Path) -> None:
    with Union(place) as union:
        path = place / "lower0" / "file"
        content = large_file(path, 8 * MIB)
        assert (union.mountpoint / "file").read_bytes() == content
        assert cached(path) >= len(content)


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
        with (union.mountpoint / "file").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert (union.mountpoint / "file").read_bytes() == content
