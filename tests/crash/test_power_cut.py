"""Power loss after data was made durable: it is there, under its name.

The upper is a filesystem on a loop device that by itself commits nothing for five minutes. Its
image, copied at an instant, is what a disk would hold if the power went then.
"""

import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.harness import Union, needs_root, only_unionfs, wait_until
from tests.mounted.trees import build
from tests.posix import calls, process

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(120)]

OLD, NEW = b"o" * 65536, b"n" * 4096

#: Mount options, and the size of the image in MiB. The copy of an xfs has the UUID of the other.
FILESYSTEMS = {"ext4": ("commit=300", 32), "xfs": ("nouuid", 300), "btrfs": ("commit=300", 120)}


def _written(path: Path, flags: int = 0, sync: Callable[[int], object] = lambda fd: None) -> None:
    with mmap.mmap(-1, len(NEW)) as memory:  # aligned, for O_DIRECT
        memory[:] = NEW
        fd = os.open(path, os.O_RDWR | flags)
        assert os.pwritev(fd, [memory], 0) == len(NEW)
        sync(fd)
        os.close(fd)


def _written_by_aio(path: Path) -> None:
    ring = calls.Aio()
    fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    with mmap.mmap(-1, len(NEW)) as memory:
        memory[:] = NEW
        ring.submit(ring.WRITE, fd, memory, len(NEW), 0)
        assert ring.wait(1) == {0: len(NEW)}
    os.close(fd)
    ring.close()


def _linked(path: Path) -> None:
    """One more name, for a file that was synced before."""
    os.link(path, path.with_name("third"))
    _written(path, sync=os.fsync)


def _stored(path: Path) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), len(NEW)) as mapping:
        mapping[:] = NEW
        mapping.flush()


def _stored_later(path: Path) -> None:
    """The mapping is older than the copy."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), len(NEW)) as mapping:
        os.chmod(path, 0o600)
        mapping[:] = NEW
        mapping.flush()


DURABLE: dict[str, Callable[[Path], None]] = {
    "fsync": lambda path: _written(path, sync=os.fsync),
    "fdatasync": lambda path: _written(path, sync=os.fdatasync),
    "O_SYNC": lambda path: _written(path, os.O_SYNC),
    "O_DSYNC": lambda path: _written(path, os.O_DSYNC),
    "O_DIRECT and O_DSYNC": lambda path: _written(path, os.O_DIRECT | os.O_DSYNC),
    "AIO and O_DSYNC": _written_by_aio,
    "msync": _stored,
    "msync of an older mapping": _stored_later,
}

#: What can differ by options and filesystem.
DIFFERENT = {"fdatasync", "msync", "O_DSYNC"}

#: Where the file lies: beside others, below directories that are copied up with it, as one name of
#: two (the other one has to lead to the same data).
PLACES = {
    "{}": "{}",
    "{}-dir/sub/sub/file": "{}-dir/sub/sub/file",
    "{}-links/one": "{}-links/other/two",
}


def unmount(point: Path) -> None:
    """The daemon, or the loop device inside, lets go a moment after its own mount is gone."""
    command = ["umount", point]
    wait_until(lambda: subprocess.run(command, check=False).returncode == 0, f"{point} unmounts")


class Disk:
    """A filesystem on a loop device."""

    def __init__(self, root: Path, kind: str) -> None:
        self._options, size = FILESYSTEMS[kind]
        self._image, self._copies = root / "image", (root / f"copy{n}" for n in count())
        self.top, self._cut_top = root / "disk", root / "cut"
        self.top.mkdir()
        self._cut_top.mkdir()
        self._image.touch()
        os.truncate(self._image, size << 20)
        subprocess.run([f"mkfs.{kind}", "-q", self._image], check=True)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        with self._mounted(self._image, self.top):
            yield self.top

    @contextmanager
    def _mounted(self, image: Path, point: Path) -> Iterator[None]:
        subprocess.run(["mount", "-o", f"loop,{self._options}", image, point], check=True)
        try:
            yield
        finally:
            unmount(point)

    def sync(self) -> None:
        subprocess.run(["sync", "--file-system", self.top], check=True)

    @contextmanager
    def after_power_loss(self) -> Iterator[Path]:
        """What the disk holds at this instant. A clone is of one instant, a copy is not.

        A file of its own each time: while anybody holds an earlier mount, mounting the same file
        again shows that one.
        """
        copy = next(self._copies)
        subprocess.run(["cp", "--reflink=always", self._image, copy], check=True)
        with self._mounted(copy, self._cut_top):
            yield self._cut_top
        copy.unlink()


@contextmanager
def cloning(root: Path) -> Iterator[Path]:
    """A directory in memory, on a filesystem that can clone files."""
    memory, top = root / "memory", root / "top"
    memory.mkdir()
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", memory], check=True)
    image = memory / "image"
    image.touch()
    os.truncate(image, 1 << 30)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, top], check=True)
    try:
        yield top
    finally:
        unmount(top)
        unmount(memory)


def _tree(root: Path) -> None:
    names: dict[str, Any] = {"control": OLD, "other": b""}
    for case in DURABLE:
        for place in PLACES:
            names[place.format(case)] = OLD
    build(root, names)
    for case in DURABLE:
        for place, other in PLACES.items():
            if other != place:
                (root / other.format(case)).parent.mkdir()
                os.link(root / place.format(case), root / other.format(case))


def _cut_again_and_again(place: Path, kind: str, options: dict[str, Any]) -> list[str]:
    """The names that lead to old data after a power loss; "control" is one that has to."""
    # Whoever copies a mount namespace keeps what is mounted in it: nobody copies this one.
    calls.unshare(calls.CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    lost = []
    with cloning(place) as root:
        disk = Disk(root, kind)
        union, after = (Union(root / name, **options) for name in ("union", "after"))
        _tree(union.lower)
        after.lowers = union.lowers

        def change(how: Callable[[Path], None], name: str, *others: str) -> None:
            disk.sync()
            how(union.mountpoint / name)
            with disk.after_power_loss() as left:
                after.upper = left / "upper"
                with after:
                    for path in {name, *others}:
                        shown = after.mountpoint / path
                        if not shown.exists() or shown.read_bytes()[: len(NEW)] != NEW:
                            lost.append(path)
                        elif shown.stat().st_nlink != (union.mountpoint / path).stat().st_nlink:
                            lost.append(f"{path}: st_nlink")

        with disk.mounted() as top:
            union.upper = top / "upper"
            union.upper.mkdir()
            with union:
                (union.mountpoint / "other").write_text("the work directory is there")
                everything = kind == "ext4" and not options
                for case in DURABLE if everything else DURABLE.keys() & DIFFERENT:
                    for name, other in PLACES.items():
                        change(DURABLE[case], name.format(case), other.format(case))
                change(_linked, "fdatasync-links/one", "fdatasync-links/third")
                change(_written, "control")
    return lost


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param("ext4", {}, id="ext4"),
        pytest.param("ext4", {"copyup": "open"}, id="ext4-copyup=open"),
        pytest.param("ext4", {"io": "passthrough"}, id="ext4-passthrough"),
        pytest.param("ext4", {"writeback": True}, id="ext4-writeback"),
        pytest.param("xfs", {}, id="xfs"),
        pytest.param("btrfs", {}, id="btrfs"),
    ],
)
def test_what_is_durable_has_its_name(place: Path, kind: str, options: dict[str, Any]) -> None:
    lost = process.call(_cut_again_and_again, place, kind, options, deadline=100)
    assert lost == ["control"]
