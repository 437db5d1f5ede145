"""Uppers on plain directories, checked and repaired."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.check.upper import Upper

TIMEOUT = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("owners, devices and trusted.* attributes of an upper are root's to set")


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="check-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def upper(base: Path) -> Upper:
    return Upper(base)
