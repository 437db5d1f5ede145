"""What cannot be read is not known: nothing is repaired because of it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.check.upper import Upper, opened
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
    for path in (base, *base.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    with opened(upper.path) as (fd,):
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            found = check(fd, None, [], repair=True)
        finally:
            os.seteuid(0)
            os.setegid(0)
    assert "unreadable closed" in [f"{one.code} {one.path}" for one in found]
    assert "record-stale" not in [one.code for one in found]
    assert os.listdir(upper.origins) == [name]
