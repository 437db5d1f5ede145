"""The seed of the random tests: another one for each commit, so that each gate tries new sequences.

``--hypothesis-seed=N`` repeats those of another run, which printed its N.
"""

import random
import subprocess
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

from unionfs.version import VERSION

ROOT = Path(__file__).parent.parent

_seed = pytest.StashKey[str]()


def configure(config: pytest.Config) -> None:
    """Have Hypothesis draw from the seed; to be called before its own plugin is configured."""
    # Hypothesis' own profile for CI draws the same examples each time.
    settings.register_profile(
        "seeded",
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("seeded")
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(of_the_checkout(ROOT))
    config.stash[_seed] = str(config.option.hypothesis_seed)


def of_the_checkout(root: Path) -> int:
    """A number made of the commit that is checked out, or of the version where there is no git."""
    # The owner does not matter to a question that runs nothing of the repository.
    command = ["git", "-c", "safe.directory=*", "-C", root, "rev-parse", "--verify", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return crc32(VERSION.encode())
    return crc32((done.stdout.strip() if done.returncode == 0 else VERSION).encode())


def how_to_repeat(config: pytest.Config) -> str:
    seed = config.stash[_seed]
    return f"random tests: seed {seed}, repeat with --hypothesis-seed={seed}"


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """A source of choices for one test, made of the run's seed and the test's name."""
    return random.Random(f"{request.config.stash[_seed]} {request.node.nodeid}")
