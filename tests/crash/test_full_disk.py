"""A full disk: the operation fails with ENOSPC, the tree is as it was, and nothing freezes."""

import errno
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.mounted.harness import Union, fails_with, needs_root, only_unionfs, wait_until
from tests.mounted.trees import branch, build, differences, snapshot

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(120)]

MEBIBYTE = 1 << 20


def lower_tree(root: Path) -> None:
    build(
        root,
        {
            "small": "small",
            "large": b"l" * (3 * MEBIBYTE),
            "dir/file": "file",
            "dir/large": b"d" * (3 * MEBIBYTE),
            "dir/sub/file": "file",
            "empty": None,
        },
    )


@pytest.fixture
def union(place: Path, request: pytest.FixtureRequest) -> Iterator[Union]:
    """A mounted union whose upper is a filesystem of its own, made by the parameter."""
    kind, options, whiteout = request.param
    union = Union(place, whiteout=whiteout)
    assert union.upper is not None
    lower_tree(union.lower)
    disk = place / "disk"
    disk.mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
    else:
        image = place / "image"
        image.touch()
        os.truncate(image, 12 * MEBIBYTE)
        subprocess.run(["mkfs.ext4", "-q", *options.split(), image], check=True)
        subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        union.upper = disk / "upper"
        union.upper.mkdir()
        with union:
            yield union
    finally:
        subprocess.run(["umount", disk], check=True)


def disks(blocks: bool) -> pytest.MarkDecorator:
    """Uppers that run out of blocks, or of inodes."""
    tmpfs = "size=8m,nr_inodes=10k" if blocks else "size=64m,nr_inodes=40"
    ext4 = "-m 0" if blocks else "-m 0 -N 32"
    return pytest.mark.parametrize(
        "union",
        [
            pytest.param((kind, options, whiteout), id=f"{kind}-{whiteout}")
            for kind, options in (("tmpfs", tmpfs), ("ext4", ext4))
            for whiteout in ("aufs", "overlay")
        ],
        indirect=True,
    )


def room(union: Union) -> int:
    """The bytes that the upper's filesystem has left."""
    assert union.upper is not None
    status = os.statvfs(union.upper)
    return status.f_bavail * status.f_frsize


def write_until_full(write: Callable[[], object]) -> None:
    """Call `write` until the disk is full."""
    while True:
        try:
            write()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return


def fill_blocks(union: Union) -> None:
    """Leave the disk without a block, from outside, so that the kernel knows nothing of it."""
    assert union.upper is not None
    with open(union.upper.parent / "filler", "wb", buffering=0) as file:
        for size in (MEBIBYTE, 4096, 1):
            write_until_full(lambda data=b"f" * size: file.write(data))
        os.fsync(file.fileno())


def fill_inodes(union: Union) -> None:
    assert union.upper is not None
    directory = union.upper.parent / "fillers"
    directory.mkdir(exist_ok=True)
    number = count()
    write_until_full(lambda: (directory / str(next(number))).touch())


@disks(blocks=True)
def test_no_blocks(union: Union) -> None:
    root, upper = union.mountpoint, union.upper
    assert upper is not None
    (root / "mine").write_bytes(b"m" * MEBIBYTE)
    (root / "dir/own").write_text("so that dir is in the upper")
    with open(root / "mine", "r+b", buffering=0) as held:
        fill_blocks(union)
        before, upper_before = snapshot(root), branch(upper)

        def append(name: str) -> None:
            with open(root / name, "ab", buffering=0) as file:
                file.write(b"+" * 4096)

        fails_with(errno.ENOSPC, lambda: append("large"))
        fails_with(errno.ENOSPC, lambda: append("dir/large"))
        fails_with(errno.ENOSPC, lambda: os.truncate(root / "large", 2 * MEBIBYTE + 1))
        fails_with(errno.ENOSPC, lambda: os.chmod(root / "large", 0o600))
        fails_with(errno.ENOSPC, lambda: os.rename(root / "large", root / "moved"))
        fails_with(errno.ENOSPC, lambda: os.link(root / "large", root / "linked"))
        fails_with(errno.ENOSPC, lambda: os.setxattr(root / "large", "user.note", b"x"))
        fails_with(
            errno.ENOSPC, lambda: os.posix_fallocate(held.fileno(), 4 * MEBIBYTE, 4 * MEBIBYTE)
        )
        assert not differences(before, snapshot(root))
        assert branch(upper) == upper_before
        # What needs no more room goes on.
        assert os.pwrite(held.fileno(), b"M" * 4096, 0) == 4096
        os.fsync(held.fileno())
        assert (root / "mine").read_bytes()[:4097] == b"M" * 4096 + b"m"
        assert (root / "large").read_bytes() == b"l" * (3 * MEBIBYTE)
    (upper.parent / "filler").unlink()
    for name in ("large", "dir/large"):
        append(name)
        assert (root / name).stat().st_size == 3 * MEBIBYTE + 4096
    union.remount()
    assert (root / "large").read_bytes() == b"l" * (3 * MEBIBYTE) + b"+" * 4096


@disks(blocks=False)
def test_no_inodes(union: Union) -> None:
    root, upper = union.mountpoint, union.upper
    assert upper is not None
    (root / "mine").write_text("mine")
    fill_inodes(union)
    before, upper_before = snapshot(root), branch(upper)
    changes: list[Callable[[], object]] = [
        lambda: (root / "new").touch(),
        lambda: (root / "new").mkdir(),
        lambda: (root / "new").symlink_to("small"),
        lambda: os.mkfifo(root / "new"),
        lambda: (root / "dir/new").touch(),
        lambda: os.chmod(root / "small", 0o600),
        lambda: os.chmod(root / "dir", 0o700),
        lambda: os.utime(root / "dir/sub/file"),
        lambda: os.rename(root / "small", root / "moved"),
        lambda: os.rename(root / "dir/file", root / "dir/moved"),
        lambda: (root / "dir/file").unlink(),
        lambda: (root / "dir/sub/file").unlink(),
        lambda: os.open(root / "small", os.O_WRONLY | os.O_TRUNC),
    ]
    for number, change in enumerate(changes):
        fails_with(errno.ENOSPC, change, number)
    assert not differences(before, snapshot(root))
    assert branch(upper) == upper_before
    # In the root a whiteout is needed, and an inode for it.
    fails_with(errno.ENOSPC, lambda: (root / "small").unlink())
    fails_with(errno.ENOSPC, lambda: (root / "empty").rmdir())
    assert not differences(before, snapshot(root))
    (root / "mine").write_text("still mine")
    subprocess.run(["rm", "-r", upper.parent / "fillers"], check=True)
    for change in (lambda: (root / "small").unlink(), lambda: (root / "empty").rmdir()):
        change()
    union.remount()
    assert sorted(os.listdir(root)) == ["dir", "large", "mine"]


@disks(blocks=True)
def test_writing_until_it_is_full(union: Union) -> None:
    """Data written before the disk was full stays, and removing it makes room again."""
    root = union.mountpoint
    written = 0
    with open(root / "grows", "wb", buffering=0) as file:

        def write() -> None:
            nonlocal written
            written += file.write(bytes([written >> 16 & 255]) * 65536)

        write_until_full(write)
    assert written > MEBIBYTE
    content = (root / "grows").read_bytes()
    assert len(content) >= written
    for start in range(0, written - 65535, 65536):
        assert content[start : start + 65536] == bytes([start >> 16 & 255]) * 65536
    (root / "grows").unlink()
    # The kernel forgets the file, and the daemon closes it, a moment after its last name went.
    wait_until(lambda: room(union) > 5 * MEBIBYTE, "there is room again")
    (root / "again").write_bytes(b"a" * 4 * MEBIBYTE)
    union.remount()
    assert (root / "again").read_bytes() == b"a" * 4 * MEBIBYTE


@disks(blocks=True)
def test_stores_through_a_mapping(union: Union) -> None:
    """Each place where the kernel can say that they are lost says so: msync, close, fsync.

    A `mmap` has a descriptor of its own, whose close says it to nobody: it stays open.
    """
    root = union.mountpoint
    size = 12 * MEBIBYTE
    fd = os.open(root / "mapped", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, size)
    with mmap.mmap(fd, size) as mapping:
        mapping[:] = b"x" * size
        fails_with(errno.ENOSPC, mapping.flush)
        mapping[:] = b"y" * size
        fails_with(errno.ENOSPC, lambda: os.close(fd))
        other = os.open(root / "mapped", os.O_RDWR)
        mapping[:] = b"z" * size
        fails_with(errno.ENOSPC, lambda: os.fsync(other))
        os.close(other)
        os.truncate(root / "mapped", 0)
