"""What cannot be read is not known: nothing is repaired because of it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.check.upper import Upper, opened
from tests.tree.union import put
from unionfs.check import check

NOBODY = 65534


@pytest.fixture
def base() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody who may not read a directory")
    path = Path(tempfile.mkdtemp(prefix="check-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def test_records_of_unreadable_entries_stay(base: Path) -> None:
    """Without them inode numbers would change for good."""
    upper = Upper(base)
    upper.put("closed/")
    os.symlink("target", upper.path / "closed/l")
    upper.impure("closed")
    name = upper.record("closed/l", 123456789)
    (upper.path / "closed").chmod(0)
    found = check_as_nobody(upper)
    assert "unreadable closed" in found
    assert not [each for each in found if each.startswith("record-stale")]
    assert os.listdir(upper.origins) == [name]


def test_unreadable_lowers_are_named(base: Path) -> None:
    """Once the check ended there, with the name of the upper."""
    upper = Upper(base)
    upper.put("d/.wh.a")
    put(upper.lower, "d/a", "l")
    os.link(upper.lower / "l", upper.lower / "m")
    (upper.lower / "d").chmod(0)
    assert check_as_nobody(upper) == ["unreadable lowers:d"]


def check_as_nobody(upper: Upper) -> list[str]:
    for path in (upper.base, *upper.base.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    with opened(upper.path, upper.lower) as (fd, lower):
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            found = check(fd, None, [lower], repair=True)
        finally:
            os.seteuid(0)
            os.setegid(0)
    return [f"{one.code} {one.path}" for one in found]
