"""A few seconds of the load on the union, over content of a lower."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.commands import unionfs_mount, wait_for_nobody
from tests.mounted.harness import needs_root, place
from tests.mounts import detach
from tests.posix import trees
from tests.posix.places import KINDS, Mounted
from tests.stress import tree
from tests.stress.run import may_drop_caches, stress

__all__ = ["place"]

PROCESSES = 10


@pytest.fixture(params=["plain", "unionfs-lower", "unionfs-merged"])
def mounted(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    if os.geteuid() != 0 and KINDS[request.param].caller == "root":
        pytest.skip("mounting in a namespace of its own needs root")
    mounted = Mounted(request.param, {"stress": tree.initial(PROCESSES)})
    yield mounted
    mounted.close()


def test_mixed_load(mounted: Mounted, chance: random.Random) -> None:
    seed = chance.randrange(1 << 20)
    top = mounted.place("stress").path
    seconds = 3 if mounted.name == "plain" else 8

    def act() -> int:
        counts = stress(top, PROCESSES, seconds, seed, dropping=may_drop_caches())
        tree.remove(top)
        return counts.total()

    assert mounted.run(act, deadline=seconds + 200) > 1000


@pytest.mark.slow(reason="ten processes work for 8 s, and what they left is looked through")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("options", ["copyup=open", "rename_dir=redirect,whiteout=overlay"])
@needs_root
def test_mixed_load_on_four_threads(place: Path, options: str, chance: random.Random) -> None:
    """By the command, and with no name or attribute cached: much happens at a time."""
    for name in ("lower", "upper", "mnt"):
        (place / name).mkdir()
    trees.build([str(place / "lower")], tree.initial(PROCESSES))
    mountpoint = place / "mnt"
    branches = f"lowerdir={place}/lower,upperdir={place}/upper"
    assert unionfs_mount("-o", f"{branches},threads=4,timeout=0,{options}", mountpoint).stderr == ""
    try:
        seed = chance.randrange(1 << 20)
        counts = stress(str(mountpoint), PROCESSES, 8, seed, dropping=may_drop_caches())
    finally:
        detach(mountpoint)
        wait_for_nobody(place)
    assert counts.total() > 1000


def test_check_finds_a_wrong_link_count(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself is able to fail."""
    for name in ("one", "two"):
        with open(f"{tmp_path}/{name}", "w"):
            pass
    tree.check(str(tmp_path))
    os.link(f"{tmp_path}/one", f"{os.path.dirname(str(tmp_path))}/outside")
    with pytest.raises(AssertionError, match="nlink 2, names 1"):
        tree.check(str(tmp_path))
