"""Redirects that a branch holds already: a directory whose lower content lies elsewhere."""

import os
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
