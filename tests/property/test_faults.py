"""The comparison finds faults that were planted: kernel overlayfs against itself with a damage."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unionfs.check import Finding

from . import trees
from .comparison import Difference
from .machine import compare
from .trees import Dir
from .unions import Kernel, Layout, Plain
from .unmounted import Unmounted


class Damaged(Kernel):
    """Kernel overlayfs whose upper is damaged at each unmount."""

    def __init__(self, damage: Callable[[Path], None]) -> None:
        super().__init__()
        self._damage = damage
        self._upper: Path | None = None

    def mount(self, layout: Layout) -> None:
        super().mount(layout)
        self._upper = layout.upper

    def unmount(self) -> None:
        super().unmount()
        if self._upper:
            for path in list(trees.walk(self._upper, phantoms=False)):
                self._damage(path)
            self._upper = None


class Reversed(Kernel):
    """Kernel overlayfs with the branches the wrong way round."""

    def mount(self, layout: Layout) -> None:
        super().mount(replace(layout, lowers=layout.lowers[::-1]))


class Littered(Unmounted):
    """Leaves a whiteout that hides nothing: no look at the union can tell."""

    def findings(self, layout: Layout) -> list[Finding]:
        (layout.upper / ".wh.litter").touch()
        return super().findings(layout)


def lose_whiteout(path: Path) -> None:
    if trees.is_whiteout(path):
        path.unlink()


def lose_opaque_mark(path: Path) -> None:
    if path.is_dir() and "trusted.overlay.opaque" in os.listxattr(path):
        os.removexattr(path, "trusted.overlay.opaque")


def lose_setid(path: Path) -> None:
    if not path.is_symlink():
        path.chmod(path.stat().st_mode & 0o1777)


def lose_time(path: Path) -> None:
    if path.is_file() and not path.is_symlink():
        os.utime(path)


def lose_last_byte(path: Path) -> None:
    if path.is_file() and not path.is_symlink() and path.stat().st_size == 4097:
        os.truncate(path, 4096)


FAULTS = (lose_whiteout, lose_opaque_mark, lose_setid, lose_time, lose_last_byte)


def test_no_fault(arena: Path) -> None:
    compare(arena, Kernel(), Kernel())


@pytest.mark.parametrize("damage", FAULTS, ids=lambda damage: damage.__name__)
def test_damage_is_found(arena: Path, damage: Callable[[Path], None]) -> None:
    with pytest.raises(Difference):
        compare(arena, Kernel(), Damaged(damage), sequences=3000)


def test_wrong_order_is_found(arena: Path) -> None:
    with pytest.raises(Difference):
        compare(arena, Kernel(), Reversed(), sequences=3000)


def test_litter_is_found(arena: Path) -> None:
    with pytest.raises(Difference, match=r"unionfs-check: note whiteout-useless .wh.litter"):
        compare(arena, Plain(), Littered("aufs"), sequences=1)


def test_failure_is_cut_to_its_cause(arena: Path) -> None:
    """A name, its removal, and at the most a remount and a look: what shows a lost whiteout."""
    with pytest.raises(Difference) as caught:
        compare(arena, Kernel(), Damaged(lose_whiteout))
    found = caught.value
    assert len(found.steps) <= 3
    assert len(found.lowers) == 1
    assert len(trees.merged(found.lowers, Dir()).children) == 1
