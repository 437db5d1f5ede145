"""The work directory: what a mount makes of what is there, and of a disk that is full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Directories
from tests.mounted.commands import unionfs_mount, wait_for_nobody
from tests.mounted.harness import needs_root, only_unionfs
from tests.mounts import detach
from unionfs import errors, workdir

pytestmark = only_unionfs


@pytest.fixture
def disk(branches: Directories) -> Iterator[Path]:
    """A filesystem of 40 inodes; root only."""
    directory = branches.base / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=40", "tmpfs"]
    subprocess.run([*command, directory], check=True)
    yield directory
    detach(directory)


def fill(directory: Path, left: int) -> None:
    """Leave `left` inodes free."""
    names = (directory / f"filler{number}" for number in range(100))
    made = []
    with suppress(OSError):
        for name in names:
            name.touch()
            made.append(name)
    for name in made[len(made) - left :]:
        name.unlink()


@needs_root
@pytest.mark.parametrize("left", range(4))
@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
def test_a_disk_without_inodes(disk: Path, branches: Directories, whiteout: str, left: int) -> None:
    """The mount is there, so that something can be removed to make room."""
    upper = disk / "upper"
    (upper / ".wh..wh.work/work").mkdir(parents=True)
    # A name in use: the mount leaves the directory where it is.
    (upper / ".wh..wh.work/links").mkdir()
    (upper / "new").touch()
    fill(disk, left)
    words = ("-o", f"whiteout={whiteout}", branches.lower, upper, branches.mountpoint)
    done = unionfs_mount(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(branches.mountpoint) == ["new"]
    (branches.mountpoint / "new").unlink()
    subprocess.run(["umount", branches.mountpoint], check=True)
    wait_for_nobody(branches.base)
    assert not (upper / "new").exists()


@needs_root
def test_a_disk_without_room_for_a_work_directory(disk: Path, branches: Directories) -> None:
    (disk / "upper").mkdir()
    fill(disk, 1)
    done = unionfs_mount(branches.lower, disk / "upper", branches.mountpoint)
    assert done.returncode == errors.WorkdirUnusable.exit_code
    assert "No space left on device; make room there first" in done.stderr


@pytest.mark.parametrize("name", [workdir.SCRATCH, workdir.LINKS, workdir.ORIGINS])
@pytest.mark.parametrize("flags", [(), ("-f",)], ids=["daemon", "foreground"])
def test_something_else_in_its_place(
    branches: Directories, name: str, flags: tuple[str, ...]
) -> None:
    """It is named, and left where it is."""
    place = branches.upper / workdir.DEFAULT_NAME / name
    place.parent.mkdir()
    place.symlink_to("/etc")
    done = unionfs_mount(*flags, branches.lower, branches.upper, branches.mountpoint)
    assert done.returncode == errors.WorkdirUnusable.exit_code
    assert str(place) in done.stderr
    assert done.stderr.count("\n") == 1
    assert place.is_symlink()
