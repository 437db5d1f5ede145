"""Redirects that a branch holds already: a directory whose lower content lies elsewhere."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tree.union import OPAQUE_FILE, Union, hide, put
from unionfs._tree import ROOT

REDIRECT = "trusted.overlay.redirect"


def redirect(directory: Path, target: bytes) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    os.setxattr(directory, REDIRECT, target)


def test_to_a_path_from_the_root(union: Union) -> None:
    put(union.lowers[0], "old/place/a")
    put(union.lowers[1], "old/place/b")
    redirect(union.upper / "new/home", b"/old/place")
    put(union.upper, "new/home/c")
    assert union.names("new/home") == ["a", "b", "c"]
    assert union.read("new/home/b") == b"lower2: old/place/b"


def test_to_a_name_beside(union: Union) -> None:
    put(union.lower, "d/old/a")
    put(union.lower, "d/new/hidden")
    redirect(union.upper / "d/new", b"old")
    assert union.names("d/new") == ["a"]


def test_in_a_lower_counts_from_the_branches_below_it(union: Union) -> None:
    put(union.upper, "old/upper")
    put(union.lowers[1], "old/a")
    redirect(union.lowers[0] / "new", b"/old")
    put(union.lowers[0], "old/between")
    assert union.names("new") == ["a"]


def test_that_lead_to_a_directory_with_a_redirect(union: Union) -> None:
    put(union.lowers[1], "first/a")
    redirect(union.lowers[0] / "second", b"first")
    redirect(union.upper / "third", b"/second")
    assert union.names("third") == ["a"]


def test_out_of_an_opaque_directory(union: Union) -> None:
    put(union.lower, "old/a")
    put(union.lower, "d/hidden", "d/new/hidden")
    put(union.upper, f"d/{OPAQUE_FILE}")
    redirect(union.upper / "d/new", b"/old")
    assert union.names("d") == ["new"]
    assert union.names("d/new") == ["a"]


def test_an_opaque_mark_outranks_a_redirect(union: Union) -> None:
    put(union.lower, "old/a", "new/b", "d/new/b")
    for path in ("new", "d/new"):
        redirect(union.upper / path, b"/old")
        put(union.upper, f"{path}/{OPAQUE_FILE}")
    put(union.upper, f"d/{OPAQUE_FILE}")
    assert union.names("new") == []
    assert union.names("d/new") == []


def test_an_opaque_directory_gets_nothing_of_the_redirect_before(union: Union) -> None:
    """A look-up once followed what the last redirect had left in its buffer."""
    put(union.lower, "old/a", "opaque/hidden")
    redirect(union.upper / "moved", b"/old")
    put(union.upper, f"opaque/{OPAQUE_FILE}")
    union.tree.lookup(ROOT, b"moved")
    union.tree.lookup(ROOT, b"opaque")  # with nothing between the two
    assert union.names("moved") == ["a"]
    assert union.names("opaque") == []


@pytest.mark.parametrize("target", [b"/", b"/..", b"..", b"/old/../secret", b"/x" * 200, b"/link"])
def test_never_leaves_a_branch(union: Union, target: bytes) -> None:
    put(union.base, "secret/a")
    put(union.lower, "old/a")
    os.symlink("../secret", union.lower / "link")
    redirect(union.upper / "new", target)
    try:
        shown = union.names("new")
    except OSError:
        return
    assert shown in ([], union.names(""))


@pytest.mark.parametrize("name", ["hidden", "gone"])
def test_what_is_hidden_on_the_way_stays_hidden(union: Union, name: str) -> None:
    put(union.lowers[1], "old/hidden/a", "old/gone/a")
    put(union.lowers[0], "old/gone")
    hide(union.lowers[0], "old/hidden", "aufs")
    redirect(union.upper / "new", b"/old/" + name.encode())
    assert union.names("new") == []


# --- generations: an upper becomes the topmost lower of the next one ---


def next_generation(union: Union) -> None:
    union.restart(rename_dir="redirect")
    number = len(union.lowers)
    written = union.upper.rename(union.base / f"generation{number}")
    union.lowers.insert(0, written)
    union.upper.mkdir()


def written_redirect(path: Path) -> bytes:
    return os.getxattr(path, REDIRECT)


def test_is_written_as_where_it_lies_in_the_union_of_the_lowers(formatted: Union) -> None:
    put(formatted.lower, "d/moved/a")
    formatted.restart(rename_dir="redirect")
    formatted.rename("d", "e")
    formatted.mkdir("d")
    formatted.mkdir("d/moved")
    formatted.create("d/moved/other")
    next_generation(formatted)
    formatted.rename("e/moved", "moved")
    # Not /d/moved, which is where the topmost lower that has it has it: another one is there.
    assert written_redirect(formatted.upper / "moved") == b"/e/moved"
    formatted.restart()
    assert formatted.names("moved") == ["a"]
    assert formatted.names("d/moved") == ["other"]
    assert formatted.names("e") == []


def test_of_a_generation_is_not_lost_when_its_directory_moves_on(formatted: Union) -> None:
    put(formatted.lower, "d/sub/a")
    formatted.restart(rename_dir="redirect")
    formatted.rename("d", "e")
    formatted.mkdir("x")
    formatted.rename("e", "x/f")
    formatted.rename("x/f/sub", "x/g")
    assert written_redirect(formatted.upper / "x/f") == b"/d"
    assert written_redirect(formatted.upper / "x/g") == b"/d/sub"
    formatted.restart()
    assert formatted.names("x/g") == ["a"]
    assert formatted.names("x/f") == []


@pytest.mark.parametrize("target", ["x/far", "near"])
def test_replaces_a_name_that_overlayfs_has_written(union: Union, target: str) -> None:
    """Overlayfs writes NAME alone where a directory stays in its parent."""
    put(union.lower, "top/old/sub/a", "x/")
    redirect(union.upper / "new/other", b"old")
    redirect(union.upper / "new", b"top")
    union.restart(rename_dir="redirect")
    union.rename("new/other/sub", "sub")
    assert written_redirect(union.upper / "sub") == b"/top/old/sub"
    union.rename("new/other", target)
    assert written_redirect(union.upper / target) == b"/top/old"
    union.restart()
    assert union.names("sub") == ["a"]
    assert union.names(target) == []


def test_through_any_number_of_generations(make_union: Callable[..., Union]) -> None:
    union = make_union(1)
    put(union.lower, "0/sub/0")
    for number in range(12):
        next_generation(union)
        union.rename(f"{number}", f"{number + 1}")
        union.create(f"{number + 1}/sub/{number + 1}")
    next_generation(union)
    assert union.names("12/sub") == sorted(map(str, range(13)))
    assert union.names("") == ["12"]


def test_to_a_name_beside_counts_from_what_led_there(union: Union) -> None:
    """The way to it goes by a redirect of the same branch, of whose name it is not below."""
    redirect(union.lowers[0] / "way", b"/place")
    redirect(union.lowers[0] / "way/new", b"old")
    put(union.lowers[1], "place/old/a", "way/old/hidden")
    redirect(union.upper / "moved", b"/way/new")
    assert union.names("way/new") == ["a"]
    assert union.names("moved") == ["a"]


def test_to_a_name_beside_stays_in_what_an_opaque_directory_closes(union: Union) -> None:
    redirect(union.lowers[0] / "closed/new", b"old")
    put(union.lowers[0], f"closed/{OPAQUE_FILE}", "closed/new/a")
    put(union.lowers[1], "closed/old/hidden")
    redirect(union.upper / "moved", b"/closed/new")
    assert union.names("closed/new") == ["a"]
    assert union.names("moved") == ["a"]


def test_ends_where_the_root_hides_what_is_below(union: Union) -> None:
    put(union.lowers[0], OPAQUE_FILE)
    put(union.lowers[1], "old/hidden")
    redirect(union.upper / "new", b"/old")
    redirect(union.lowers[0] / "other", b"/old")
    assert union.names("new") == []
    assert union.names("other") == []
