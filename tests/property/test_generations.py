"""Random sequences over generations of uppers: each becomes a lower of the next one.

What one generation has written, whiteouts, opaque marks and redirects, the next ones read as what
a branch below them says. Every one is compared with the reference, and read by it.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import strategies as st

from .machine import SETTINGS, compare
from .steps import Draw
from .test_machine import DEFAULT, REDIRECTS
from .trees import NOWHERE
from .unions import InTurns, Kernel, Plain, Unionfs
from .unmounted import TreeOperations, Unmounted

pytestmark = pytest.mark.timeout(300 + SETTINGS.max_examples)

SHARE = max(1, SETTINGS.max_examples // 10)
FEW = max(1, SETTINGS.max_examples // 50)
SEARCH = 2000

DRAW = Draw(TreeOperations, targets=st.just(NOWHERE), branches=2, generations=True)
MOUNTED = Draw(branches=2, generations=True)

each_extent = pytest.mark.parametrize(
    "sequences", [SHARE, pytest.param(SEARCH, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)


@each_extent
@pytest.mark.parametrize("modes", [["redirect"], ["copy", "redirect"]], ids="-".join)
@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
def test_generations_are_the_plain_tree(
    arena: Path, whiteout: str, modes: Sequence[str], sequences: int
) -> None:
    compare(arena, Plain(), Unmounted(whiteout, modes), sequences=sequences, draw=DRAW)


@each_extent
@pytest.mark.parametrize(
    ("options", "mode"),
    [(REDIRECTS, "redirect"), (REDIRECTS, "copy"), (DEFAULT, "exdev")],
    ids=["redirect", "copy", "exdev"],
)
def test_kernel_reads_the_generations_and_is_read(
    arena: Path, options: str, mode: str, sequences: int
) -> None:
    compare(arena, Kernel(options), Unmounted("overlay", [mode]), sequences=sequences, draw=DRAW)


@pytest.mark.parametrize(
    "sequences", [FEW, pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_each_goes_on_with_what_the_other_has_written(arena: Path, sequences: int) -> None:
    both = InTurns([Kernel(REDIRECTS), Unionfs("overlay", rename_dir="redirect")])
    compare(arena, Kernel(REDIRECTS), both, sequences=sequences, draw=MOUNTED)
