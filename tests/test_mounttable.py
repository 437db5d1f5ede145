"""unionfs/mounttable.py: reading mountinfo, the lines of other people's mounts too."""

import os
from pathlib import Path

import pytest

from unionfs import mounttable


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b'35 2 0:31 / /a\\040b rw,nosuid shared:1 - tmpfs  rw,context="a b"',
            ("/a b", "tmpfs", "", {"rw", "nosuid", 'context="a b"'}),
        ),
        (
            b"36 2 0:31 /\\134 /x\xff ro - fuse.x a\\011- rw",
            ("/x\udcff", "fuse.x", "a\t-", {"ro", "rw"}),
        ),
    ],
)
def test_a_line(line: bytes, expected: tuple[object, ...]) -> None:
    point, kind, source, flags = expected
    assert mounttable._parse(line) == (point, kind, source, os.makedev(0, 31), flags)


def test_a_directory_by_its_other_paths(tmp_path: Path) -> None:
    (tmp_path / "proc").symlink_to("/proc")
    (tmp_path / "root").symlink_to("/proc/self")  # above which is not tmp_path
    for path in ("/proc", "/proc/", tmp_path / "proc", tmp_path / "root/../../proc"):
        found = mounttable.mounted_for(str(path))
        assert found is not None
        assert found.point == "/proc"
    assert mounttable.mounted_for(str(tmp_path / "root/..")) is not None
    assert mounttable.mounted_for(str(tmp_path)) is None
