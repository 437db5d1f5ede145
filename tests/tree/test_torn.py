"""Uppers as a crash leaves them, between two steps of docs/format.md: they behave like any other.

What is done afterwards to the names that the operation was about, until nothing is left of them,
must show what it shows where the operation was never begun, or done in one.
"""

import os
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


def mkdir(path: str) -> Step:
    return lambda union: union.mkdir(path)


def rmdir(path: str) -> Step:
    return lambda union: union.rmdir(path)


def rename(old: str, new: str, flags: int = 0) -> Step:
    return lambda union: union.rename(old, new, flags)


def emptied(path: str) -> list[Step]:
    return [unlink(f"{path}/f"), rmdir(path)]


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
    "removed-and-made": [*emptied("d"), mkdir("d")],
    "renamed-away": [rename("d", "new")],
    "renamed-away-and-back": [rename("d", "new"), rename("new", "d"), *emptied("d")],
    "replaced": [unlink("d/f"), rename("moved", "d")],
    "replaced-and-removed": [unlink("d/f"), rename("moved", "d"), *emptied("d")],
    "exchanged": [rename("d", "moved", EXCHANGE)],
    "exchanged-and-removed": [rename("d", "moved", EXCHANGE), *emptied("d"), *emptied("moved")],
    "exchanged-with-a-file": [rename("d", "other", EXCHANGE), unlink("d"), *emptied("other")],
}
#: Done to an empty directory `d`.
EMPTY: dict[str, list[Step]] = {
    "removed": [rmdir("d")],
    "removed-and-made": [rmdir("d"), mkdir("d"), create("d/f"), *emptied("d")],
    "filled": [create("d/f"), mkdir("d/below")],
    "filled-and-removed": [create("d/f"), *emptied("d"), mkdir("d")],
    "renamed-away": [rename("d", "new"), create("new/f"), mkdir("d")],
    "replaced": [rename("moved", "d"), *emptied("d")],
    "replacing": [unlink("moved/f"), rename("d", "moved"), create("moved/f"), *emptied("moved")],
    "exchanged": [rename("d", "moved", EXCHANGE), *emptied("d"), rmdir("moved")],
}
#: Done where something has left a mark for the name `new`, which nothing has, or in its place.
NEW: dict[str, list[Step]] = {
    "created": [create("new"), unlink("new"), create("new")],
    "made": [mkdir("new"), create("new/f"), *emptied("new"), create("new")],
    "renamed": [rename("f", "new"), rename("other", "new"), unlink("new")],
    "directory-renamed": [rename("d", "new"), rename("new", "d")],
    "directory-exchanged": [rename("d", "new"), rename("new", "moved", EXCHANGE)],
    "linked": [lambda union: union.link("f", "new"), unlink("f"), unlink("new")],
    "symlinked": [lambda union: union.symlink("f", "new"), unlink("new"), mkdir("new")],
    "beside": [mkdir("moved/new"), unlink("moved/f"), rmdir("moved/new"), rmdir("moved")],
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


def shown(union: Union) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in union.walk():
        st = union.stat(path)
        content = union.read(path) if stat.S_ISREG(st.st_mode) else None
        found[path] = stat.S_IFMT(st.st_mode), content, st.st_nlink if content else 0
    return found


# --- the states: each builds one union as the crash left it, one as it should look ---


def beside_its_whiteout(name: str) -> Callable[[Union, bool], None]:
    """Whiteout put down, name not removed yet; name there, whiteout not taken away yet."""
    return lambda union, torn: build(union, [name] if torn else [])


def marked_for_nothing(format_: str) -> Callable[[Union, bool], None]:
    """A directory has changed places with a whiteout, which is left where it was; a whiteout was
    put down for a name that had not come yet."""

    def make(union: Union, torn: bool) -> None:
        build(union, [])
        if torn:
            for path in ("new", "moved/new"):
                hide(union.upper, path, format_)

    return make


def half_removed(format_: str) -> Callable[[Union, bool], None]:
    """A merged directory that shows nothing: hidden as a whole, its own whiteouts gone."""

    def make(union: Union, torn: bool) -> None:
        build(union, [])
        for path in ("d/f", "d/.wh..wh..opq"):
            (union.upper / path).unlink()
        if not torn:
            for path in ("d/f", "d/below"):
                hide(union.upper, path, format_)
        elif format_ == "aufs":
            hide(union.upper, "d", "aufs")
        else:
            os.setxattr(union.upper / "d", "trusted.overlay.opaque", b"y")

    return make


def redirected(whiteout: bool) -> Callable[[Union, bool], None]:
    """A directory was about to be renamed, and says already where its lower content is."""

    def make(union: Union, torn: bool) -> None:
        build(union, [])
        union.restart(rename_dir="redirect")
        (union.upper / "d/.wh..wh..opq").unlink()
        hide(union.upper, "d/below", "aufs")
        if torn:
            os.setxattr(union.upper / "d", "trusted.overlay.redirect", b"/d")
        if torn and whiteout:
            hide(union.upper, "d", "aufs")

    return make


def among_the_links(union: Union, torn: bool) -> None:
    """The copy of a file of several names is there, and none of them leads to it yet."""
    build(union, [])
    (union.upper / "f").unlink()
    for lower in union.lowers:
        os.link(lower / "f", lower / "twin")
    union.write("f", b"L")
    union.restart()
    if torn:
        (union.upper / "f").unlink()


STATES: dict[str, tuple[Callable[[Union, bool], None], dict[str, list[Step]]]] = {
    "file-beside-whiteout": (beside_its_whiteout("f"), FILE),
    "directory-beside-whiteout": (beside_its_whiteout("d"), DIRECTORY),
    "device-of-nothing": (marked_for_nothing("overlay"), NEW),
    "file-of-nothing": (marked_for_nothing("aufs"), NEW),
    "half-removed-aufs": (half_removed("aufs"), EMPTY),
    "half-removed-overlay": (half_removed("overlay"), EMPTY),
    "redirected": (redirected(False), DIRECTORY),
    "redirected-beside-whiteout": (redirected(True), DIRECTORY),
    "among-the-links": (among_the_links, FILE),
}


@pytest.mark.parametrize("whiteout", FORMATS)
@pytest.mark.parametrize("listed", [False, True], ids=["searched", "listed"])
@pytest.mark.parametrize(
    ("state", "case"), [pair for name in STATES for pair in product([name], STATES[name][1])]
)
def test_after_a_crash(base: Path, state: str, case: str, listed: bool, whiteout: str) -> None:
    for place in ("torn", "whole"):
        (base / place).mkdir()
    torn = Union(base / "torn", whiteout=whiteout)
    whole = Union(base / "whole", whiteout=whiteout)
    make, cases = STATES[state]
    try:
        make(torn, True)
        make(whole, False)
        assert shown(torn) == shown(whole)
        torn.restart()
        look(torn, listed)
        for step in cases[case]:
            step(torn)
            step(whole)
            assert shown(torn) == shown(whole)
        torn.restart()
        assert shown(torn) == shown(whole)
    finally:
        torn.restart()
        whole.restart()
