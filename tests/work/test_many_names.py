"""100,000 entries in one directory: all are there, all go, and the daemon stays small."""

import os
import random
from pathlib import Path

import pytest

from testbed.memory import private_memory
from tests.mounted.harness import PEER, Union, needs_root

COUNT = 100_000
#: What the daemon may hold for 100,000 names that the kernel may ask for again, in bytes: about
#: 2 KiB each, as much as the kernel itself spends on a dentry, an inode and their FUSE part.
MEMORY = 200 << 20

pytestmark = pytest.mark.timeout(300)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def names(count: int = COUNT) -> list[str]:
    return [f"entry-{number:06}" for number in range(count)]


def look_up_at_random(directory: Path) -> None:
    chosen = random.Random(1)
    for _ in range(5000):
        number = chosen.randrange(2 * COUNT)
        path = directory / f"entry-{number:06}"
        assert path.exists() == (number < COUNT), path


def check_and_remove(union: Union, directory: Path) -> None:
    found = os.listdir(directory)
    assert len(found) == len(set(found))
    assert sorted(found) == names()
    look_up_at_random(directory)
    # While being listed: neither aborts nor skips, however the names before the offset go.
    with os.scandir(directory) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(directory) == []
    directory.rmdir()
    if not PEER:
        assert private_memory(union.pid) < MEMORY
        assert descriptors(union.pid) < 1024


@needs_root
@pytest.mark.slow(reason="what goes wrong with many names shows with many names only")
def test_in_the_upper(memory: Path) -> None:
    with Union(memory) as union:
        directory = union.mountpoint / "many"
        directory.mkdir()
        for name in names():
            os.close(os.open(directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        check_and_remove(union, directory)


@pytest.mark.slow(reason="makes, looks up and removes 100,000 names")
@needs_root
def test_in_a_lower(memory: Path) -> None:
    union = Union(memory, lowers=2)
    for lower, share in zip(union.lowers, (names()[::2], names()[1::2]), strict=True):
        (lower / "many").mkdir()
        for name in share:
            (lower / "many" / name).touch()
    with union:
        check_and_remove(union, union.mountpoint / "many")
        union.remount()
        assert not (union.mountpoint / "many").exists()
        assert os.listdir(union.mountpoint) == []
