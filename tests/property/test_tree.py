"""Random sequences on the union without a mount, and on the plain tree that it stands for."""

from pathlib import Path

import pytest
from hypothesis import strategies as st

from .machine import SETTINGS, compare
from .steps import Draw
from .trees import NOWHERE
from .unions import Plain
from .unmounted import TreeOperations, Unmounted

DRAW = Draw(TreeOperations, targets=st.just(NOWHERE))


@pytest.mark.timeout(300 + SETTINGS.max_examples)
@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
def test_union_is_the_plain_tree_that_it_shows(arena: Path, sequences: int, whiteout: str) -> None:
    compare(arena, Plain(), Unmounted(whiteout), sequences=sequences, draw=DRAW)
