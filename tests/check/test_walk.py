"""The walk itself: deep trees, links, mounts, what may not be read."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.check.upper import Upper
from tests.tree.test_copyup import NOBODY, acting_as
from unionfs.check import Finding


def make_deep(root: Path, depth: int) -> None:
    """Directories below one another, all called d, by descriptors: the path gets too long."""
    fd = os.open(root, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open(".wh..wh.x", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    finally:
        os.close(fd)


def test_deeper_than_paths_and_descriptors(upper: Upper) -> None:
    depth = 3000
    make_deep(upper.path, depth)
    try:
        (finding,) = upper.check()
        assert finding.code == "reserved-unknown"
        assert finding.path == "d/" * depth + ".wh..wh.x"
    finally:
        # shutil.rmtree would need a descriptor for each level.
        subprocess.run(["rm", "-rf", upper.path], check=True)


def test_links_are_not_followed(upper: Upper) -> None:
    (upper.base / "outside").mkdir()
    (upper.base / "outside" / ".wh..wh.x").touch()
    os.symlink(upper.base / "outside", upper.path / "absolute")
    os.symlink("../outside", upper.path / "relative")
    os.symlink("/", upper.path / ".wh.root")
    assert upper.codes() == [("whiteout-content", ".wh.root")]


def test_mounts_are_not_entered(upper: Upper) -> None:
    upper.put("d/", "f")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", upper.path / "d"], check=True)
    try:
        upper.put("d/.wh..wh.x/")
        assert upper.codes() == [("other-filesystem", "d")]
    finally:
        subprocess.run(["umount", upper.path / "d"], check=True)


def test_names_of_every_byte(upper: Upper) -> None:
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
    for name in names:
        Path(os.fsdecode(os.fsencode(upper.path) + b"/.wh." + name)).touch()
    assert upper.check() == []
    found = upper.check(lower=True)
    assert {one.code for one in found} == {"whiteout-useless"}
    assert sorted(os.fsencode(one.path) for one in found) == sorted(b".wh." + n for n in names)


def test_access_times_stay(upper: Upper) -> None:
    upper.put("d/.wh.f", "d/.wh..wh..opq")
    places = [upper.path, upper.path / "d"]
    for place in places:
        os.utime(place, ns=(5, 6))
    for repair in (False, True):
        upper.check(repair=repair)
        for place in places:
            status = place.stat()
            assert (status.st_atime_ns, status.st_mtime_ns) == (5, 6)
    assert upper.check() == []


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400])
def test_what_may_not_be_read_is_named(upper: Upper, mode: int) -> None:
    upper.put("closed/f", "open/f")
    subprocess.run(["chown", "-R", str(NOBODY), upper.base], check=True)
    (upper.path / "closed").chmod(mode)
    with acting_as(NOBODY):
        found = upper.check()
    assert found == [Finding("unreadable", "closed", "Permission denied")]
