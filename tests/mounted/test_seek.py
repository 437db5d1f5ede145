"""SEEK_DATA and SEEK_HOLE where only the kernel's pages know that there is data."""

import errno
import mmap
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.mounted.harness import Union, fails_with, only_unionfs
from unionfs import copyup
from unionfs._tree import Tree

pytestmark = [only_unionfs, pytest.mark.timeout(60)]

BLOCK = 64 << 10
SIZE = 64 * BLOCK
#: As many as the pool has threads: all of them wait for the kernel at once.
THREADS = 64
MANY = 80


def sparse(path: Path) -> None:
    """Data in the first block of 64 and in one in the middle."""
    with path.open("wb") as file:
        file.truncate(SIZE)
        for block in (0, 32):
            file.seek(block * BLOCK)
            file.write(b"x" * BLOCK)


@contextmanager
def mapped(path: Path) -> Iterator[tuple[int, mmap.mmap]]:
    fd = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(fd, SIZE) as mapping:
            yield fd, mapping
    finally:
        os.close(fd)


def data(fd: int) -> list[int]:
    """The blocks that are data."""
    found, at = [], 0
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            return found
        end = os.lseek(fd, at, os.SEEK_HOLE)
        found += range(at // BLOCK, -(-end // BLOCK))
        at = end


@pytest.mark.parametrize("options", [{}, {"writeback": True}, {"copyup": "open"}], ids=str)
@pytest.mark.parametrize("where", ["lower", "upper"])
def test_pages_that_a_mapping_has_changed(
    place: Path, where: str, options: dict[str, object]
) -> None:
    union = Union(place, **options)
    sparse((union.lower if where == "lower" else place / "upper") / "file")
    with union, mapped(union.mountpoint / "file") as (fd, mapping):
        assert data(fd) == [0, 32]
        for block in (1, 2, 40, 63):
            mapping[block * BLOCK] = 1
        assert data(fd) == [0, 1, 2, 32, 40, 63]
        mapping[40 * BLOCK + mmap.PAGESIZE] = 1  # the hole that the last answer gave, and its end
        assert os.lseek(fd, 40 * BLOCK, os.SEEK_HOLE) == 40 * BLOCK + 2 * mmap.PAGESIZE
        mapping[50 * BLOCK] = 1
        assert os.lseek(fd, 45 * BLOCK, os.SEEK_DATA) == 50 * BLOCK
        fails_with(errno.ENXIO, lambda: os.lseek(fd, SIZE, os.SEEK_DATA))
        fails_with(errno.ENXIO, lambda: os.lseek(fd, SIZE, os.SEEK_HOLE))
        mapping[SIZE - 1] = 1
        assert os.lseek(fd, SIZE - 1, os.SEEK_HOLE) == SIZE


def test_looking_for_holes_changes_nothing(place: Path) -> None:
    union = Union(place)
    sparse(union.lower / "file")
    with union, mapped(union.mountpoint / "file") as (fd, mapping):
        assert mapping[40 * BLOCK] == 0  # a page, and a clean one
        assert data(fd) == [0, 32]
    assert union.upper is not None
    assert not (union.upper / "file").exists()


def test_what_is_written_and_not_sent_yet(place: Path) -> None:
    """With writeback caching the daemon does not even know the file's length."""
    union = Union(place, writeback=True)
    with union:
        fd = os.open(union.mountpoint / "new", os.O_CREAT | os.O_RDWR)
        try:
            os.pwrite(fd, b"x" * BLOCK, 0)
            os.pwrite(fd, b"x", 10 * BLOCK)
            assert os.lseek(fd, 0, os.SEEK_DATA) == 0
            assert os.lseek(fd, 0, os.SEEK_HOLE) == BLOCK
            assert os.lseek(fd, BLOCK, os.SEEK_DATA) == 10 * BLOCK
            os.pwrite(fd, b"x", 20 * BLOCK)
            assert os.lseek(fd, 15 * BLOCK, os.SEEK_DATA) == 20 * BLOCK
            assert os.lseek(fd, 20 * BLOCK, os.SEEK_HOLE) == 20 * BLOCK + 1
            fails_with(errno.ENXIO, lambda: os.lseek(fd, 21 * BLOCK, os.SEEK_DATA))
        finally:
            os.close(fd)


@pytest.mark.parametrize("options", [{}, {"threads": 1}], ids=str)
def test_many_at_once_do_not_wait_for_each_other(
    place: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    """Each makes the kernel write a page, which makes a copy-up, which needs a thread."""
    together = threading.Barrier(THREADS)
    bring_up = copyup.bring_up

    def patched(tree: Tree, node: int) -> None:
        with suppress(threading.BrokenBarrierError):  # the rest, which is too few
            together.wait(3)
        bring_up(tree, node)

    # The daemon is a fork of this process and has what was patched before the mount.
    monkeypatch.setattr(copyup, "bring_up", patched)
    union = Union(place, **options)
    for number in range(MANY):
        sparse(union.lower / f"file{number}")

    def change(number: int) -> list[int]:
        with mapped(union.mountpoint / f"file{number}") as (fd, mapping):
            mapping[50 * BLOCK] = 1
            return data(fd)

    with union, ThreadPoolExecutor(MANY) as pool:
        assert all(found == [0, 32, 50] for found in pool.map(change, range(MANY)))
