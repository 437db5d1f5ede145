"""One operation that takes long stops nobody else."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.mounted.harness import Union, only_unionfs
from tests.mounted.tracing import needs_known_machine, needs_strace, traced, wait_for_threads_in
from tests.mounted.trees import build

pytestmark = [only_unionfs, needs_strace, needs_known_machine, pytest.mark.timeout(120)]

#: The held system call would last an hour (in microseconds): the watchdog ends who waits for it.
HELD = "delay_enter=3600000000"

#: More than any fixed pool of threads would hold.
MANY = 40


def make_elsewhere(lower: Path) -> None:
    build(lower, {f"elsewhere/d{number}/file": str(number) for number in range(100)})


@contextmanager
def held_in(
    union: Union, calls: list[str], work: list[Callable[[], object]]
) -> Iterator[list[Future[object]]]:
    """Start `work`, each in a thread, and hold it in one of the daemon's system `calls`.

    On leaving, the calls go on and all of the work must succeed.
    """
    with ThreadPoolExecutor(len(work)) as pool:
        injection = f"inject={','.join(calls)}:{HELD}"
        log = union.root / "strace"
        with traced(union.pid, log, "-e", f"trace={','.join(calls)}", "-e", injection):
            futures = [pool.submit(step) for step in work]
            wait_for_threads_in(union.pid, *calls)
            yield futures
        for future in futures:
            future.result()


def test_fsync_in_many_threads(place: Path) -> None:
    union = Union(place)
    make_elsewhere(union.lower)
    with union:
        root = union.mountpoint

        def write_and_sync(number: int) -> None:
            with open(root / f"file{number}", "w") as file:
                file.write("x" * 1000)
                file.flush()
                os.fsync(file.fileno())

        (root / "elsewhere/d0/copied").write_text("the directories that are changed are copied up")
        work = [lambda number=number: write_and_sync(number) for number in range(MANY)]
        with held_in(union, ["fsync", "fdatasync"], work) as futures:
            for number in range(100):
                assert (root / f"elsewhere/d{number}/file").read_text() == str(number)
                assert os.listdir(root / f"elsewhere/d{number}")
            for number in range(200):
                path = root / f"elsewhere/new{number}"
                path.write_text("new")
                path.rename(root / f"elsewhere/newer{number}")
            assert not any(future.done() for future in futures)


@pytest.mark.parametrize("copies", [1, 3])
def test_copying_up_a_large_file(place: Path, copies: int) -> None:
    """Reads of the file that is copied, and everything elsewhere, go on meanwhile."""
    size = 16 << 20
    union = Union(place)
    tmpfs = place / "tmpfs"
    tmpfs.mkdir()
    # Another filesystem, so that the copy can be no reflink.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", tmpfs], check=True)
    union.lowers = [tmpfs / "lower"]
    union.lower.mkdir()
    make_elsewhere(union.lower)
    for number in range(copies):
        build(union.lower, {f"large{number}/file": bytes([number + 65]) * size})
    with union:
        root = union.mountpoint

        def append(number: int) -> None:
            with open(root / f"large{number}/file", "ab") as file:
                file.write(b"!")

        work = [lambda number=number: append(number) for number in range(copies)]
        with held_in(union, ["copy_file_range"], work) as futures:
            for number in range(100):
                assert (root / f"elsewhere/d{number}/file").read_text() == str(number)
                assert os.listdir(root / f"elsewhere/d{number}") == ["file"]
            for number in range(copies):
                path = root / f"large{number}/file"
                assert path.stat().st_size == size
                with open(path, "rb") as file:
                    file.seek(size - 10)
                    assert file.read() == bytes([number + 65]) * 10
                assert os.listdir(path.parent) == ["file"]
            for number in range(30):
                (root / f"elsewhere/new{number}").write_text("new")
                (root / f"elsewhere/d{number}/file").unlink()
            assert not any(future.done() for future in futures)
        for number in range(copies):
            content = (root / f"large{number}/file").read_bytes()
            assert content == bytes([number + 65]) * size + b"!"
    subprocess.run(["umount", tmpfs], check=True)


@pytest.mark.parametrize("asked", [1 << 20, 1 << 62])
def test_a_range_is_copied_beside_other_work(place: Path, asked: int) -> None:
    """copy_file_range(2) of more than a little; cp asks for as much as there can be."""
    size = 1 << 20
    union = Union(place)
    make_elsewhere(union.lower)
    build(union.lower, {"file": b"r" * size})
    with union:
        root = union.mountpoint

        def copy(number: int) -> None:
            with open(root / "file", "rb") as source, open(root / f"copy{number}", "wb") as target:
                while os.copy_file_range(source.fileno(), target.fileno(), asked):
                    pass

        copies = range((os.cpu_count() or 1) + 1)  # more than there are threads that read requests
        work = [lambda number=number: copy(number) for number in copies]
        with held_in(union, ["copy_file_range"], work) as futures:
            for number in range(100):
                assert (root / f"elsewhere/d{number}/file").read_text() == str(number)
            (root / "elsewhere/new").write_text("new")
            assert not any(future.done() for future in futures)
        for number in copies:
            assert (root / f"copy{number}").read_bytes() == b"r" * size


def test_what_changes_the_copied_file_waits_for_it(place: Path) -> None:
    """Beside a copy-up nothing is lost or done twice: rename, unlink, a second writer."""
    size = 16 << 20
    union = Union(place)
    tmpfs = place / "tmpfs"
    tmpfs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", tmpfs], check=True)
    union.lowers = [tmpfs / "lower"]
    names = ["renamed", "unlinked", "written", "chmodded", "parent"]
    build(union.lower, {f"{name}/file": b"o" * size for name in names})
    with union:
        root = union.mountpoint

        def write(name: str, text: bytes, offset: int) -> None:
            with open(root / name / "file", "r+b") as file:
                file.seek(offset)
                file.write(text)

        reached = threading.Barrier(len(names))
        first = [lambda name=name: write(name, b"first", 0) for name in names]

        def then(change: Callable[[], object]) -> Callable[[], object]:
            def call() -> None:
                reached.wait()
                change()

            return call

        with ThreadPoolExecutor(len(names)) as pool:
            with held_in(union, ["copy_file_range"], first) as futures:
                changes = [
                    then(lambda: os.rename(root / "renamed/file", root / "renamed/moved")),
                    then(lambda: os.unlink(root / "unlinked/file")),
                    then(lambda: write("written", b"second", 1000)),
                    then(lambda: os.chmod(root / "chmodded/file", 0o600)),
                    then(lambda: (root / "parent/sibling").write_text("sibling")),
                ]
                waiting = [pool.submit(change) for change in changes]
                assert not any(future.done() for future in futures)
            for future in waiting:
                future.result()
        for _ in range(2):
            wanted = b"first" + b"o" * (size - 5)
            assert (root / "renamed/moved").read_bytes() == wanted
            assert os.listdir(root / "renamed") == ["moved"]
            assert os.listdir(root / "unlinked") == []
            assert (root / "written/file").read_bytes()[:1010] == wanted[
                :1000
            ] + b"second" + b"oooo"
            assert (root / "chmodded/file").read_bytes() == wanted
            assert (root / "chmodded/file").stat().st_mode & 0o777 == 0o600
            assert (root / "parent/file").read_bytes() == wanted
            assert sorted(os.listdir(root / "parent")) == ["file", "sibling"]
            union.remount()
    subprocess.run(["umount", tmpfs], check=True)


def test_a_name_removed_while_it_is_brought_up(place: Path) -> None:
    """The names of a copied file come to the upper one after the other; none comes back."""
    # While a file is opened nothing of it is locked in the kernel, as it is when it is changed.
    union = Union(place, copyup="open")
    build(union.lower, {"changed": "twins", "d": None})
    os.link(union.lower / "changed", union.lower / "d/removed")
    with union:
        root = union.mountpoint
        (root / "d/new").touch()
        (root / "d/removed").stat()

        def write() -> None:
            with open(root / "changed", "a") as file:
                file.write("!")

        # Into the links, to the name that is changed, to the other one.
        last = f"inject=linkat:{HELD}:when=3"
        with ThreadPoolExecutor(2) as pool:
            with traced(union.pid, place / "strace", "-e", "trace=linkat", "-e", last):
                changes = [pool.submit(write)]
                wait_for_threads_in(union.pid, "linkat")
                changes.append(pool.submit((root / "d/removed").unlink))
                wait(changes[1:], timeout=1)  # who does not wait for the name is done by then
            for change in changes:
                change.result()
        for _ in range(2):
            assert os.listdir(root / "d") == ["new"]
            assert (root / "changed").read_text() == "twins!"
            assert (root / "changed").stat().st_nlink == 1
            union.remount()


@pytest.mark.parametrize("over", [False, True], ids=["removed", "replaced"])
def test_a_file_copied_up_while_it_is_removed(place: Path, over: bool) -> None:
    """Who removes a file has opened it, to keep it for who uses it, when its copy-up begins."""
    union = Union(place, copyup="open", threads=2)
    build(union.lower, {"removed": "lower"})
    with union:
        root = union.mountpoint
        (root / "new").write_text("new")
        (root / "removed").stat()

        def change() -> None:
            with suppress(FileNotFoundError), open(root / "removed", "r+") as file:
                file.write("L")

        def remove() -> None:
            if over:
                (root / "new").rename(root / "removed")
            else:
                (root / "removed").unlink()

        # The removal makes one such call before its steps on disk, the copy-up two.
        slowly = "inject=openat2:delay_enter=200000"
        with (
            ThreadPoolExecutor(2) as pool,
            traced(union.pid, place / "strace", "-e", "trace=openat2", "-e", slowly),
        ):
            changes = [pool.submit(remove)]
            wait_for_threads_in(union.pid, "openat2")
            changes.append(pool.submit(change))
            for each in changes:
                each.result()
        for _ in range(2):
            names = ["removed"] if over else ["new"]
            assert os.listdir(root) == names
            assert (root / names[0]).read_text() == "new"
            union.remount()


def test_deleting_large_files(place: Path) -> None:
    """A file's blocks are freed when its last descriptor is closed, which may take seconds."""
    union = Union(place, threads=1, io_uring="off")
    build(union.lower, {f"d/file{number}": str(number) for number in range(100)})

    def pin(path: str, _: int) -> int:
        return os.open(path, os.O_PATH)

    with union, ExitStack() as pins:
        # Every close is held below, and the thread that serves closes what belongs to a node that
        # the kernel forgets: nothing elsewhere, an hour here. A write to drop_caches by another
        # process did that, and the test waited for its watchdog. What is pinned is not forgotten.
        kept = [union.mountpoint / f"d/file{number}" for number in range(100)]
        large = [union.mountpoint / f"d/large{number}" for number in range(MANY)]
        for path in large:
            path.write_text("pretends to be")
        pinned = {
            path: pins.enter_context(open(path, "rb", buffering=0, opener=pin))
            for path in kept + large
        }

        def delete() -> None:
            for path in large:
                path.unlink()
                pinned[path].close()

        with held_in(union, ["close"], [delete]) as futures:
            futures[0].result()
            for number, path in enumerate(kept):
                assert path.read_text() == str(number)
            assert not list(union.mountpoint.glob("d/large*"))


def test_mounting_again_while_the_disk_is_busy(place: Path) -> None:
    """The daemon that ends has given the upper back before it waits for the disk."""
    before, after = Union(place), Union(place)
    before.mount()
    try:
        (before.mountpoint / "file").write_text("content")
        pid = before.pid
        with traced(pid, place / "strace", "-e", "trace=syncfs", "-e", f"inject=syncfs:{HELD}"):
            subprocess.run(["umount", before.mountpoint], check=True)
            wait_for_threads_in(pid, "syncfs")
            with after:
                assert (after.mountpoint / "file").read_text() == "content"
    finally:
        before.unmount()
