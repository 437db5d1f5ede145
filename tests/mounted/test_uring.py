"""FUSE over io_uring: what the other mounted tests show of the channel holds for the queues."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import ENOTCONN
from pathlib import Path

import pytest

from tests.mounted.harness import Union, only_unionfs, status, wait_until

# These run here once more, over io_uring.
from tests.mounted.test_data import (  # noqa: F401
    test_append_from_many_descriptors,
    test_early_readers_see_the_new_data,
    test_file_without_a_name,
    test_shared_mapping_of_a_lower_file_is_written,
)
from tests.mounted.test_progress import (  # noqa: F401
    test_a_range_is_copied_beside_other_work,
    test_copying_up_a_large_file,
    test_fsync_in_many_threads,
    test_what_changes_the_copied_file_waits_for_it,
)
from tests.mounted.test_slow_path import (  # noqa: F401
    switch,
    test_what_waited_gets_eio_and_work_goes_on,
)
from tests.mounted.trees import assert_same, build, snapshot

pytestmark = [only_unionfs, pytest.mark.timeout(120)]

OFFER = Path("/sys/module/fuse/parameters/enable_uring")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def offered(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the kernel offers io_uring to new mounts: yes, unless the test's parameter denies."""
    offer = getattr(request, "param", True)
    if not OFFER.exists():
        pytest.skip("this kernel has no FUSE over io_uring (Linux 6.14)")
    if Path("/proc/sys/kernel/io_uring_disabled").read_text().strip() != "0":
        pytest.skip("io_uring is switched off: sysctl kernel.io_uring_disabled")
    if not os.access(OFFER, os.W_OK):
        pytest.skip("only root can have the kernel offer it")
    before = OFFER.read_text()
    OFFER.write_text("Y" if offer else "N")
    try:
        yield offer
    finally:
        OFFER.write_text(before)


@pytest.mark.parametrize("offered", [True, False], indirect=True, ids=["offered", "not offered"])
def test_used_if_the_kernel_offers_it(place: Path, offered: bool) -> None:
    with Union(place) as union:
        (union.mountpoint / "file").write_text("content")
        assert (status(union.mountpoint)["queues"] > 0) == offered


def test_not_used_if_the_mount_declines(place: Path) -> None:
    with Union(place, io_uring="off") as union:
        assert status(union.mountpoint)["queues"] == 0


def test_everything_is_the_same(place: Path) -> None:
    """Types of files, long names, xattrs, links: as in a plain directory."""

    def make(root: Path) -> None:
        build(root, {"file": "content", "d/empty": b"", f"d/{'n' * 255}": "long name", "e": None})
        os.symlink("t" * 4000, root / "symlink")
        os.mkfifo(root / "fifo")
        os.link(root / "file", root / "d/link")
        os.setxattr(root / "file", "user.small", b"")
        os.setxattr(root / "d", "user.large", b"v" * 2000)
        os.rename(root / "d/empty", root / "e/moved")
        os.truncate(root / "e/moved", 70_000)
        os.chmod(root / "e", 0o750)
        (root / "gone").mkdir()
        (root / "gone").rmdir()

    (place / "plain").mkdir()
    make(place / "plain")
    with Union(place) as union:
        make(union.mountpoint)
        assert_same(snapshot(place / "plain"), snapshot(union.mountpoint))
        union.remount()
        assert_same(snapshot(place / "plain"), snapshot(union.mountpoint), "after remounting")


@pytest.mark.parametrize("size", [1, 4095, 4096, MIB - 1, MIB, MIB + 1, 5 * MIB + 3])
def test_requests_and_replies_of_every_size(place: Path, size: int) -> None:
    content = os.urandom(size)
    with Union(place) as union:
        (union.lower / "lower").write_bytes(content)
        path = union.mountpoint / "new"
        path.write_bytes(content)
        assert path.read_bytes() == content
        union.remount()
        assert path.read_bytes() == content
        assert (union.mountpoint / "lower").read_bytes() == content
        with open(union.mountpoint / "lower", "r+b", buffering=0) as file:
            file.seek(size)
            file.write(content)
        union.remount()
        assert (union.mountpoint / "lower").read_bytes() == 2 * content


def test_more_requests_at_once_than_slots(place: Path) -> None:
    """On each queue, and each of them held by a fsync while others come."""
    many = 200

    def work(number: int) -> bytes:
        path = union.mountpoint / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        with open(path, "w+b") as file:
            file.write(b"%d" % number * 1000)
            os.fsync(file.fileno())
            file.seek(0)
            return file.read()

    with Union(place, volatile=False) as union, ThreadPoolExecutor(many) as pool:
        for number, content in enumerate(pool.map(work, range(many))):
            assert content == b"%d" % number * 1000
        assert status(union.mountpoint)["malformed"] == 0


def test_killed_daemon_leaves_errors_not_waiters(place: Path) -> None:
    union = Union(place)
    (union.lower / "file").write_text("content")
    with union:
        assert (union.mountpoint / "file").read_text() == "content"
        os.kill(union.pid, signal.SIGKILL)
        wait_until(lambda: is_disconnected(union.mountpoint), "the mount ends with its daemon")
        union.clear_dead()
        union.mount()
        assert (union.mountpoint / "file").read_text() == "content"


def is_disconnected(mountpoint: Path) -> bool:
    """Whether requests fail at once: those under way at the end get ECONNABORTED before that."""
    try:
        os.listdir(mountpoint)
    except OSError as error:
        return error.errno == ENOTCONN
    return False


def test_unmounted_under_load(place: Path) -> None:
    union = Union(place)
    stop = False

    def load(number: int) -> None:
        while not stop:
            try:
                path = union.mountpoint / f"f{number}"
                path.write_bytes(bytes(10_000))
                path.read_bytes()
                path.unlink()
            except OSError:
                continue

    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            union.mount()
            stop = False
            running = [pool.submit(load, number) for number in range(8)]
            wait_until(lambda: any(union.upper.iterdir()), "the load has begun")  # type: ignore[union-attr]
            union.unmount()
            stop = True
            for future in running:
                future.result()
