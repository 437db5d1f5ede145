"""Where the comparisons are mounted."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounts import detach, mounts_below

from . import libc
from .machine import SEQUENCES

#: How many sequences a search takes (--long).
SEARCH = 6000


@pytest.fixture(
    params=[
        SEQUENCES,
        pytest.param(SEARCH, marks=[pytest.mark.long, pytest.mark.timeout(SEARCH)]),
    ]
)
def sequences(request: pytest.FixtureRequest) -> int:
    """How many sequences the tests of one file take together."""
    number: int = request.param
    return number


@pytest.fixture(scope="session")
def arena() -> Iterator[Path]:
    """An empty tmpfs that every user can reach; gone at the end with all that is mounted in it."""
    if os.geteuid() != 0:
        pytest.skip("comparing with kernel overlayfs needs root, to mount it and to make devices")
    # Sequences run in a tmpfs because it is fast and has extended attributes of every kind.
    path = Path(tempfile.mkdtemp(prefix="unionfs-property-"))
    path.chmod(0o755)
    libc.mount("tmpfs", path, "tmpfs", "mode=755")
    try:
        yield path
    finally:
        for mount in reversed(mounts_below(path)):  # a sequence that was interrupted
            detach(mount.point)
        path.rmdir()
