"""Names neither vanish nor go stale when the kernel drops its caches beside the work."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounted.harness import Union, needs_root
from tests.mounted.trees import build

pytestmark = [needs_root, pytest.mark.timeout(120)]

WORKERS = 4
ROUNDS = 150


@contextmanager
def dropping_caches() -> Iterator[Callable[[], int]]:
    """Have the kernel forget dentries, inodes and pages all the time; yields how often it did."""
    stop = threading.Event()
    times = 0

    def drop() -> None:
        nonlocal times
        with open("/proc/sys/vm/drop_caches", "w") as control:
            while not stop.is_set():
                control.write("3\n")
                control.flush()
                times += 1

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        yield lambda: times
    finally:
        stop.set()
        thread.join()


def lower_tree(root: Path) -> None:
    build(
        root,
        {
            f"stable/d{a}/d{b}/f{c}": f"{a}{b}{c}"
            for a in range(3)
            for b in range(3)
            for c in range(5)
        },
    )
    for worker in range(WORKERS):
        build(root, {f"own{worker}/lower{number}": str(number) for number in range(ROUNDS)})


def check_stable(root: Path) -> None:
    """What nobody changes is there at every moment, with its content, listed and looked up."""
    for a in range(3):
        for b in range(3):
            directory = root / f"stable/d{a}/d{b}"
            assert sorted(os.listdir(directory)) == [f"f{c}" for c in range(5)]
            for c in range(5):
                assert (directory / f"f{c}").read_text() == f"{a}{b}{c}"


def change(root: Path, worker: int) -> None:
    """Every kind of change of a name, and a look at what it must have left."""
    own = root / f"own{worker}"
    held = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in range(ROUNDS):
            lower, moved = own / f"lower{number}", own / f"moved{number}"
            with open(lower, "a") as file:
                file.write("+")
                inode = os.fstat(file.fileno()).st_ino
            assert lower.read_text() == f"{number}+"
            assert lower.stat().st_ino == inode
            lower.rename(moved)
            assert not lower.exists()
            assert moved.read_text() == f"{number}+"
            lower.mkdir()
            (lower / "inside").write_text("new")
            assert os.listdir(lower) == ["inside"]
            names = set(os.listdir(held))
            assert {lower.name, moved.name} <= names
            if number % 3 == 0:
                (lower / "inside").unlink()
                lower.rmdir()
                moved.unlink()
                assert not lower.exists()
                assert not {lower.name, moved.name} & set(os.listdir(held))
            if number % 10 == worker:
                check_stable(root)
    finally:
        os.close(held)


def check_changed(root: Path) -> None:
    for worker in range(WORKERS):
        own = root / f"own{worker}"
        wanted = {
            name
            for number in range(ROUNDS)
            if number % 3
            for name in (f"lower{number}", f"moved{number}")
        }
        assert set(os.listdir(own)) == wanted
        for number in range(ROUNDS):
            assert (own / f"lower{number}/inside").exists() == bool(number % 3)
            assert (own / f"moved{number}").exists() == bool(number % 3)


def test_parallel_changes(place: Path) -> None:
    union = Union(place, lowers=2)
    lower_tree(union.lowers[1])
    with union:
        root = union.mountpoint
        with dropping_caches() as times, ThreadPoolExecutor(WORKERS) as pool:
            for future in [pool.submit(change, root, worker) for worker in range(WORKERS)]:
                future.result()
        assert times() > 0
        for _ in range(2):
            check_stable(root)
            check_changed(root)
            union.remount()


def test_what_is_held_survives(place: Path) -> None:
    """Descriptors, working directories and files without a name outlive the caches."""
    union = Union(place)
    build(union.lower, {"a/b/c/file": "lower", "a/b/doomed": "doomed", "a/b/gone/x": "x"})
    with union:
        root = union.mountpoint
        directory = os.open(root / "a/b/c", os.O_RDONLY | os.O_DIRECTORY)
        file = os.open(root / "a/b/c/file", os.O_RDWR)
        doomed = os.open(root / "a/b/doomed", os.O_RDWR)
        gone = os.open(root / "a/b/gone", os.O_RDONLY | os.O_DIRECTORY)
        try:
            (root / "a/b/doomed").unlink()
            (root / "a/b/gone/x").unlink()
            (root / "a/b/gone").rmdir()
            inode = os.fstat(file).st_ino
            with dropping_caches() as times:
                for number in range(200):
                    done = times()
                    assert os.listdir(directory) == ["file"]
                    assert os.stat("file", dir_fd=directory).st_ino == inode
                    assert os.fstat(file).st_ino == inode
                    os.pwrite(file, b"%05d" % number, 0)
                    assert os.pread(file, 10, 0) == b"%05d" % number
                    os.pwrite(doomed, b"%06d" % number, 0)
                    assert os.pread(doomed, 10, 0) == b"%06d" % number
                    assert os.fstat(doomed).st_nlink == 0
                    assert os.listdir(gone) == []
                    with pytest.raises(FileNotFoundError):
                        os.stat("x", dir_fd=gone)
                    while number < 5 and times() == done:
                        pass
        finally:
            for descriptor in (directory, file, doomed, gone):
                os.close(descriptor)
        assert (root / "a/b/c/file").read_text() == "00199"
