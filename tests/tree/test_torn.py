"""Uppers as a crash leaves them, between two steps of docs/format.md: they behave like any other.

Between putting a `.wh.` whiteout down and removing the name, and between creating a name and
taking its whiteout away, both are there.  What is done to such a name afterwards, until nothing is
left of it, must show what it shows where only the name is there.
"""

import stat
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import pytest

from tests.tree.union import FORMATS, Union, hide, put

EXCHANGE = 2  # renameat2(2)

Step = Callable[[Union], object]


def unlink(path: str) -> Step:
    return lambda union: union.unlink(path)


def create(path: str) -> Step:
    return lambda union: union.create(path, b"new")


def rename(old: str, new: str, flags: int = 0) -> Step:
    return lambda union: union.rename(old, new, flags)


def emptied(path: str) -> list[Step]:
    return [unlink(f"{path}/f"), lambda union: union.rmdir(path)]


#: Done to a file `f`, to a directory `d` of one file `f`; others are there to be moved.
FILE: dict[str, list[Step]] = {
    "unlinked": [unlink("f")],
    "unlinked-created-unlinked": [unlink("f"), create("f"), unlink("f")],
    "renamed-away": [rename("f", "new")],
    "renamed-away-and-back": [rename("f", "new"), rename("new", "f"), unlink("f")],
    "replaced-and-unlinked": [rename("other", "f"), unlink("f")],
    "replaced-and-renamed": [rename("other", "f"), rename("f", "new"), create("f"), unlink("f")],
    "exchanged-and-unlinked": [rename("f", "other", EXCHANGE), unlink("f"), unlink("other")],
    "linked-and-unlinked": [lambda union: union.link("f", "new"), unlink("f"), unlink("new")],
    "written-and-unlinked": [lambda union: union.write("f", b"x"), unlink("f")],
}
DIRECTORY: dict[str, list[Step]] = {
    "removed": emptied("d"),
    "removed-and-made": [*emptied("d"), lambda union: union.mkdir("d")],
    "renamed-away": [rename("d", "new")],
    "renamed-away-and-back": [rename("d", "new"), rename("new", "d"), *emptied("d")],
    "replaced": [unlink("d/f"), rename("moved", "d")],
    "replaced-and-removed": [unlink("d/f"), rename("moved", "d"), *emptied("d")],
    "exchanged": [rename("d", "moved", EXCHANGE)],
    "exchanged-and-removed": [rename("d", "moved", EXCHANGE), *emptied("d"), *emptied("moved")],
    "exchanged-with-a-file": [rename("d", "other", EXCHANGE), unlink("d"), *emptied("other")],
}


def build(union: Union, torn: Sequence[str]) -> None:
    for lower in union.lowers:
        put(lower, "f", "d/f", "d/below", "moved/below", "other")
    put(union.upper, "f", "d/f", "moved/f", "other")
    # All of them hide what is below; a torn directory has not been marked yet.
    for path in ("d", "moved"):
        if path not in torn:
            hide(union.upper, f"{path}/.wh..opq", "aufs")
    for path in torn:
        hide(union.upper, path, "aufs")


def look(union: Union, listed: bool) -> None:
    if listed:
        for path in ("", "d", "moved"):
            union.entries(path)


def shown(union: Union) -> dict[str, bytes | None]:
    return {
        path: None if stat.S_ISDIR(union.stat(path).st_mode) else union.read(path)
        for path in union.walk()
    }


@pytest.mark.parametrize("whiteout", FORMATS)
@pytest.mark.parametrize("listed", [False, True], ids=["searched", "listed"])
@pytest.mark.parametrize(("name", "case"), [*product(["f"], FILE), *product(["d"], DIRECTORY)])
def test_a_name_beside_its_whiteout(
    base: Path, name: str, case: str, listed: bool, whiteout: str
) -> None:
    for place in ("torn", "whole"):
        (base / place).mkdir()
    torn = Union(base / "torn", whiteout=whiteout)
    whole = Union(base / "whole", whiteout=whiteout)
    build(torn, [name])
    build(whole, [])
    try:
        look(torn, listed)
        for step in (FILE if name == "f" else DIRECTORY)[case]:
            step(torn)
            step(whole)
            assert shown(torn) == shown(whole)
        torn.restart()
        assert shown(torn) == shown(whole)
    finally:
        torn.restart()
        whole.restart()
