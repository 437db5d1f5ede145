"""A share of the soak, and that it can fail."""

import os
from pathlib import Path

import pytest

from tests.mounted.harness import memory, needs_root, only_unionfs, place
from tests.stress.soak import FILES, Sample, growth, plot, soak

__all__ = ["memory", "place"]

STEADY = [Sample(i, i, 5_000_000 + i % 7 * 4096, 100 + i % 3, 500 + i % 200) for i in range(30)]


@needs_root
@only_unionfs
@pytest.mark.slow(reason="growth shows over many creations and look-ups only")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "cycles", [24_000, pytest.param(240_000, marks=[pytest.mark.long, pytest.mark.timeout(3000)])]
)
def test_nothing_grows(memory: Path, cycles: int) -> None:
    samples = list(soak(memory, cycles=cycles, lookups=5 * cycles, rounds=24))
    assert samples[-1].cycles == cycles
    assert samples[-1].lookups > 5 * cycles
    assert growth(samples) == []


@pytest.mark.parametrize(
    ("what", "each"), [("memory", 65_536), ("descriptors", 30), ("nodes", FILES * 20)]
)
def test_growth_is_found(what: str, each: int) -> None:
    assert growth(STEADY) == []
    grown = [one._replace(**{what: getattr(one, what) + i * each}) for i, one in enumerate(STEADY)]
    assert [line.partition(":")[0] for line in growth(grown)] == [what]


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'bench' is not installed")
    plot(STEADY, tmp_path / "soak.svg")
    assert os.stat(tmp_path / "soak.svg").st_size < 40_000
