"""Random sequences of operations on a mounted union and on a reference: the same outcomes."""

from pathlib import Path

import pytest

from .machine import SETTINGS, compare
from .steps import Draw
from .unions import Kernel, Plain, Unionfs

pytestmark = pytest.mark.timeout(300 + 2 * SETTINGS.max_examples)
SHARE = SETTINGS.max_examples // 3


@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
def test_unionfs_does_what_kernel_overlayfs_does(arena: Path, whiteout: str) -> None:
    compare(arena, Kernel, lambda: Unionfs(whiteout), sequences=SHARE)


def test_unionfs_does_what_a_plain_tree_does(arena: Path) -> None:
    """What kernel overlayfs cannot be asked for: directories of lowers renamed."""
    compare(arena, Plain, lambda: Unionfs(rename_dir="copy"), sequences=SHARE // 2)


def test_hard_links_of_a_lower_stay_links(arena: Path) -> None:
    # One lower: a name that another branch hides still counts in the lower's own st_nlink.
    draw = Draw(links=True, branches=1)
    compare(arena, Plain, lambda: Unionfs(rename_dir="copy"), sequences=SHARE // 2, draw=draw)
