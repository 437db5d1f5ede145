"""Fixtures of the tests that do real work on a mount."""

from pathlib import Path

import pytest

from tests.mounted.harness import memory, place
from tests.work.twins import PLACEMENTS, Twins

__all__ = ["memory", "place"]


@pytest.fixture(params=PLACEMENTS)
def twins(place: Path, request: pytest.FixtureRequest) -> Twins:
    """A plain directory and a union whose content lies in a lower, in the upper, or in several."""
    return Twins(place, request.param)
