"""Times and numbers of files that nobody changed stay what they were."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.mounted.harness import PEER, Union, needs_root
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


def accessed(path: Path) -> int:
    return os.lstat(path).st_atime_ns


def read_all(root: Path) -> None:
    """Read everything in a fresh mount, where no cache answers for the branches."""
    for base, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(base, name)
            if path.is_symlink():
                path.readlink()
            elif path.is_file():
                path.read_bytes()


OLD = 1_000_000_000  # relatime moves an atime that is older than a day


def build_old(root: Path) -> list[Path]:
    build(root, {"file": "x", "dir/inside": "x"})
    (root / "link").symlink_to("file")
    paths = [root / name for name in ("file", "dir/inside", "dir", "link")]
    for path in paths:
        os.utime(path, (OLD, OLD), follow_symlinks=False)
    return paths


@pytest.mark.skipif(bool(PEER), reason="what others leave in a lower is not ours to test")
def test_reading_leaves_no_trace_in_a_lower(place: Path) -> None:
    union = Union(place, lowers=2)
    paths = build_old(union.lowers[1])
    with union:
        read_all(union.mountpoint)
    assert {accessed(path) for path in paths} == {OLD * 10**9}


@needs_root  # others may not clone the upper's mount: links keep its time of access
@pytest.mark.parametrize("io", ["cached", "passthrough"])
def test_noatime_holds_for_the_upper_too(place: Path, io: str) -> None:
    union = Union(place, flags=("noatime",), io=io)
    assert union.upper is not None
    paths = build_old(union.upper)
    with union:
        read_all(union.mountpoint)
        (union.mountpoint / "new").write_text("x")  # its descriptor is another one
        os.utime(union.mountpoint / "new", (OLD, OLD))
        assert (union.mountpoint / "new").read_text() == "x"
        union.remount()
        assert (union.mountpoint / "new").read_text() == "x"
    assert {accessed(path) for path in (*paths, union.upper / "new")} == {OLD * 10**9}


@needs_root  # the same
@pytest.mark.parametrize("io", ["cached", "passthrough"])
@pytest.mark.parametrize("flag", ["relatime", "strictatime"])
def test_reading_the_upper_moves_atime(place: Path, flag: str, io: str) -> None:
    """As the union's options say, not those of the mount that the upper is on."""
    union = Union(place, flags=(flag,), io=io)
    assert union.upper is not None
    build(union.upper, {"file": "x", "stale": "x"})
    later, tomorrow = time.time() + 3600, time.time() + 86400
    os.utime(union.upper / "file", (tomorrow, later))  # relatime has no reason to move it
    os.utime(union.upper / "stale", (OLD, later))
    with union:
        for name in ("file", "stale"):
            assert (union.mountpoint / name).read_text() == "x"
        assert (union.mountpoint / "stale").stat().st_atime > OLD
        moved = (union.mountpoint / "file").stat().st_atime < later
    assert moved == (flag == "strictatime")
    assert accessed(union.upper / "stale") > OLD * 10**9
