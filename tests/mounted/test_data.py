"""What is read is what was written last, whichever descriptor or mapping it went through."""

import errno
import mmap
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mounted.harness import PEER, Union, fails_with, needs_root, only_unionfs
from tests.mounted.trees import build
from tests.mounted.users import as_user

pytestmark = pytest.mark.timeout(60)

PAGE = mmap.PAGESIZE


def fill(size: int, byte: bytes = b"o") -> bytes:
    return (byte * size)[:size]


@pytest.mark.parametrize("old", [1, 100, PAGE, 3 * PAGE + 7, 300_000])
@pytest.mark.parametrize("new", [0, 1, 99, PAGE, 2 * PAGE + 5, 500_000])
@pytest.mark.parametrize("cached", [False, True], ids=["unread", "read before"])
def test_rewrite_leaves_no_old_bytes(place: Path, old: int, new: int, cached: bool) -> None:
    union = Union(place)
    build(union.lower, {"file": fill(old)})
    with union:
        path = union.mountpoint / "file"
        if cached:
            assert path.read_bytes() == fill(old)
        path.write_bytes(fill(new, b"n"))
        assert path.read_bytes() == fill(new, b"n")
        union.remount()
        assert path.read_bytes() == fill(new, b"n")
    assert union.upper is not None
    assert (union.upper / "file").read_bytes() == fill(new, b"n")
    assert (union.lower / "file").read_bytes() == fill(old)


@pytest.mark.parametrize("size", [0, 10, PAGE - 1, PAGE, 5 * PAGE])
def test_truncate_then_grow_shows_zeros(place: Path, size: int) -> None:
    union = Union(place)
    build(union.lower, {"file": fill(4 * PAGE + 100)})
    with union:
        path = union.mountpoint / "file"
        assert path.read_bytes() == fill(4 * PAGE + 100)
        os.truncate(path, size)
        os.truncate(path, 6 * PAGE)
        wanted = fill(min(size, 4 * PAGE + 100)).ljust(6 * PAGE, b"\0")
        assert path.read_bytes() == wanted
        union.remount()
        assert path.read_bytes() == wanted


@pytest.mark.skipif(
    PEER == "overlay", reason="kernel overlayfs leaves early descriptors on the lower file"
)
def test_early_readers_see_the_new_data(place: Path) -> None:
    union = Union(place)
    build(union.lower, {"file": fill(3 * PAGE)})
    with union:
        path = union.mountpoint / "file"
        reader = os.open(path, os.O_RDONLY)
        shared = mmap.mmap(reader, 3 * PAGE, prot=mmap.PROT_READ)
        try:
            assert shared[:] == os.pread(reader, 3 * PAGE, 0) == fill(3 * PAGE)
            before = os.fstat(reader)
            with open(path, "r+b") as writer:
                writer.seek(PAGE)
                writer.write(fill(PAGE, b"n"))
            wanted = fill(PAGE) + fill(PAGE, b"n") + fill(PAGE)
            assert os.pread(reader, 3 * PAGE, 0) == wanted
            assert shared[:] == wanted
            assert os.fstat(reader).st_ino == before.st_ino == path.stat().st_ino
            os.truncate(path, PAGE)
            assert os.fstat(reader).st_size == PAGE
            assert os.pread(reader, 3 * PAGE, 0) == fill(PAGE)
            path.unlink()
            assert os.pread(reader, 3 * PAGE, 0) == fill(PAGE)
        finally:
            shared.close()
            os.close(reader)


def test_shared_mapping_of_a_lower_file_is_written(place: Path) -> None:
    union = Union(place)
    build(union.lower, {"file": fill(3 * PAGE)})
    with union:
        path = union.mountpoint / "file"
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
            shared[PAGE : PAGE + 5] = b"hello"
            assert path.read_bytes()[PAGE : PAGE + 6] == b"helloo"
            shared.flush()
            shared[2 * PAGE] = ord("!")
        union.remount()
        content = path.read_bytes()
        assert content == fill(PAGE) + b"hello" + fill(PAGE - 5) + b"!" + fill(PAGE - 1)
    assert (union.lower / "file").read_bytes() == fill(3 * PAGE)


def test_mapping_outlives_its_name_and_its_descriptor(place: Path) -> None:
    union = Union(place)
    build(union.lower, {"file": fill(2 * PAGE)})
    with union:
        path = union.mountpoint / "file"
        descriptor = os.open(path, os.O_RDWR)
        shared = mmap.mmap(descriptor, 0)
        os.close(descriptor)
        path.unlink()
        shared[0:3] = b"new"
        shared.flush()
        assert shared[:4] == b"newo"
        path.write_text("another file")
        assert shared[:4] == b"newo"
        shared.close()
        assert path.read_text() == "another file"


@pytest.mark.parametrize("where", ["lower", "upper", "both"])
def test_file_without_a_name(place: Path, where: str) -> None:
    union = Union(place)
    assert union.upper is not None
    for branch in {"lower": [union.lower], "upper": [union.upper]}.get(
        where, [union.lower, union.upper]
    ):
        build(branch, {"file": "0123456789"})
    with union:
        path = union.mountpoint / "file"
        descriptor = os.open(path, os.O_RDWR)
        early = os.open(path, os.O_RDONLY)
        try:
            path.unlink()
            assert not path.exists()
            assert os.fstat(descriptor).st_nlink == 0
            assert os.pread(descriptor, 20, 0) == b"0123456789"
            os.pwrite(descriptor, b"AB", 4)
            os.ftruncate(descriptor, 8)
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
            assert os.pread(descriptor, 20, 0) == b"0123AB67"
            assert os.fstat(descriptor).st_mode & 0o777 == 0o600
            if PEER != "overlay" or where != "lower":
                assert os.pread(early, 20, 0) == b"0123AB67"
            path.write_text("new file")
            assert path.read_text() == "new file"
            with open(path, "r+") as target:
                assert os.copy_file_range(descriptor, target.fileno(), 3, 0, 0) == 3
            assert path.read_text() == "012 file"
            with pytest.raises(FileNotFoundError):
                # The unused src_dir_fd makes Python call linkat(AT_SYMLINK_FOLLOW).
                os.link(
                    f"/proc/self/fd/{descriptor}", union.mountpoint / "back", src_dir_fd=descriptor
                )
            assert os.pread(descriptor, 20, 0) == b"0123AB67"
        finally:
            os.close(descriptor)
            os.close(early)
        union.remount()
        assert os.listdir(union.mountpoint) == ["file"]


def test_replaced_file_stays_readable(place: Path) -> None:
    union = Union(place)
    build(union.lower, {"file": "old", "new": "new"})
    with union:
        root = union.mountpoint
        with open(root / "file", "r+") as held:
            os.rename(root / "new", root / "file")
            assert held.read() == "old"
            held.write("er")
            held.flush()
            assert os.pread(held.fileno(), 10, 0) == b"older"
            assert (root / "file").read_text() == "new"


def test_directory_without_a_name(place: Path) -> None:
    union = Union(place)
    build(union.lower, {"directory/file": "x"})
    with union:
        path = union.mountpoint / "directory"
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            (path / "file").unlink()
            path.rmdir()
            path.mkdir()
            (path / "other").write_text("y")
            assert os.listdir(descriptor) == []
            with pytest.raises(FileNotFoundError):
                os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
            assert os.listdir(path) == ["other"]
        finally:
            os.close(descriptor)


@needs_root
@pytest.mark.parametrize("mode", [0o444, 0o400, 0o000, 0o200])
def test_owner_writes_what_its_mode_forbids(place: Path, mode: int) -> None:
    """open(2) checks the mode of a new file only for the next open: `git add` relies on it."""
    union = Union(place)
    build(union.lower, {"there/lower": "lower"})
    for path in (union.lower / "there", union.lower / "there/lower"):
        os.chown(path, 1234, 1234)

    with union:
        root = union.mountpoint / "there"

        def create_and_write() -> None:
            descriptor = os.open(root / "new", os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
            try:
                assert os.write(descriptor, b"one") == 3
                os.fchmod(descriptor, mode)
                assert os.write(descriptor, b"two") == 3
                os.fsync(descriptor)
                assert os.pread(descriptor, 10, 0) == b"onetwo"
            finally:
                os.close(descriptor)
            (root / "new").rename(root / "final")
            if not mode & 0o222:
                with pytest.raises(PermissionError):
                    os.open(root / "final", os.O_WRONLY)
            (root / "lower").chmod(mode)
            assert (root / "lower").stat().st_mode & 0o777 == mode
            (root / "lower").chmod(mode | 0o600)
            with open(root / "lower", "a") as file:
                file.write("+")
            assert (root / "lower").read_text() == "lower+"
            (root / "lower").unlink()

        as_user(1234, create_and_write)
        status = (root / "final").stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 1234, mode)
        assert (root / "final").read_bytes() == b"onetwo"


def test_holes_stay_holes(place: Path) -> None:
    union = Union(place)
    mebibyte = 1 << 20
    with open(union.lower / "sparse", "wb") as file:
        file.seek(40 * mebibyte)
        file.write(fill(PAGE))
        file.truncate(80 * mebibyte)
    with union:
        path = union.mountpoint / "sparse"
        with open(path, "r+b") as file:
            file.seek(20 * mebibyte)
            file.write(b"x")
            file.flush()
            if PEER != "fuse-overlayfs":
                assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 20 * mebibyte
                assert os.lseek(file.fileno(), 20 * mebibyte, os.SEEK_HOLE) == 20 * mebibyte + PAGE
        status = path.stat()
        assert status.st_size == 80 * mebibyte
        assert status.st_blocks * 512 <= 2 * mebibyte


@only_unionfs
def test_append_from_many_descriptors(place: Path) -> None:
    """O_APPEND never writes at a stale size, also when the first append copies the file up."""
    union = Union(place)
    build(union.lower, {"log": "start\n"})
    with union:
        path = union.mountpoint / "log"
        descriptors = [os.open(path, os.O_WRONLY | os.O_APPEND) for _ in range(5)]
        wanted = "start\n"
        for number in range(100):
            line = f"line {number}\n"
            os.write(descriptors[number % 5], line.encode())
            wanted += line
        for descriptor in descriptors:
            os.close(descriptor)
        assert path.read_text() == wanted


def test_running_program_is_busy(place: Path) -> None:
    union = Union(place)
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, union.lower / "program")
    with union:
        path = union.mountpoint / "program"
        with subprocess.Popen([path, "60"]) as process:
            try:
                fails_with(errno.ETXTBSY, lambda: os.open(path, os.O_WRONLY))
            finally:
                process.kill()
        with open(path, "ab") as file:
            file.write(b"x")
