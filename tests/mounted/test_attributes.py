"""Times and numbers of files that nobody changed stay what they were."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.mounted.harness import PEER, Union
from tests.mounted.trees import build

pytestmark = pytest.mark.timeout(60)


def times(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_mtime_ns, status.st_ctime_ns


def test_mounting_leaves_the_root_alone(place: Path) -> None:
    union = Union(place)
    assert union.upper is not None
    build(union.upper, {"file": "x"})
    os.utime(union.upper, (1_000_000_000, 1_000_000_000))
    for _ in range(2):
        with union:
            assert union.mountpoint.stat().st_mtime == 1_000_000_000
            assert (union.mountpoint / "file").read_text() == "x"
    assert union.upper.stat().st_mtime == 1_000_000_000


def test_copying_up_a_child_leaves_its_directory_alone(place: Path) -> None:
    """tar compares a directory's times before and after it reads it, and fails if they differ."""
    union = Union(place)
    build(union.lower, {f"dir/file{number}": "x" for number in range(50)} | {"dir/sub/x": "x"})
    os.utime(union.lower / "dir", (1_000_000_000, 1_000_000_000))
    with union:
        directory = union.mountpoint / "dir"
        os.utime(directory, (1_100_000_000, 1_100_000_000))
        for number in range(50):
            os.chmod(directory / f"file{number}", 0o600)
        (directory / "sub/x").chmod(0o600)
        before = times(directory)
        for name in os.listdir(directory):
            os.lstat(directory / name)
        assert times(directory) == before
        assert before[0] == 1_100_000_000 * 10**9
        union.remount()
        assert times(directory)[0] == before[0]


@pytest.mark.skipif(PEER == "fuse-overlayfs", reason="fuse-overlayfs changes numbers at copy-up")
def test_numbers_survive_copy_up_rename_and_remount(place: Path) -> None:
    union = Union(place, lowers=2)
    build(union.lower, {"file": "x", "dir/inside": "x", "big": b"x" * 3_000_000})
    build(union.lowers[1], {"dir/deep": "x", "other": "x"})
    (union.lower / "link").symlink_to("file")
    os.mkfifo(union.lower / "fifo")

    def numbers(root: Path) -> dict[str, int]:
        found = {}
        for base, directories, files in os.walk(root):
            with os.scandir(base) as entries:
                listed = {entry.name: entry.inode() for entry in entries}
            for name in directories + files:
                status = os.lstat(os.path.join(base, name))
                assert listed[name] == status.st_ino, "d_ino and st_ino differ"
                found[os.path.relpath(os.path.join(base, name), root)] = status.st_ino
        return found

    with union:
        root = union.mountpoint
        before = numbers(root)
        assert len(set(before.values())) == len(before)
        for name in ("file", "dir", "dir/inside", "dir/deep", "big", "fifo"):
            os.chmod(root / name, 0o700)
        os.chown(root / "link", 1, 1, follow_symlinks=False)
        assert numbers(root) == before
        (root / "file").rename(root / "renamed")
        before["renamed"] = before.pop("file")
        assert numbers(root) == before
        subprocess.run(["sync", "-f", root], check=True)
        union.remount()
        assert numbers(root) == before
