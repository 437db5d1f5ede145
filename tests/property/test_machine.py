"""Random sequences of operations on unionfs and on kernel overlayfs: the same outcome each time."""

from pathlib import Path

import pytest

from .machine import SETTINGS, compare
from .unions import Kernel, Unionfs


@pytest.mark.timeout(300 + SETTINGS.max_examples)
@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
def test_unionfs_does_what_the_kernel_does(arena: Path, whiteout: str) -> None:
    compare(arena, Kernel, lambda: Unionfs(whiteout), sequences=SETTINGS.max_examples // 2)
