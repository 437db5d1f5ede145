"""Applications' own files whose names begin with ``.wh.``, with whiteout=overlay."""

from collections.abc import Callable
from errno import EPERM

import pytest

from tests.posix.asserts import fails
from tests.posix.calls import RENAME_EXCHANGE
from tests.tree.test_lookup import INDEXED, prepare
from tests.tree.union import Union, put

PLAIN_NAMES = (".wh.f", ".wh..opq", ".wh..wh.g")


def plain_union(make_union: Callable[..., Union], name: str, indexed: bool) -> Union:
    """A lower with a mark of that name, and in the upper a file of an application's."""
    union = make_union(whiteout="overlay")
    put(union.lower, f"d/{name}", "d/.wh..wh.other")
    put(union.upper, "d/")
    prepare(union, indexed, "", "d")
    union.create(f"d/{name}", b"text")
    if indexed:
        union.names("d")
    return union


@INDEXED
@pytest.mark.parametrize("name", PLAIN_NAMES)
@pytest.mark.parametrize("restart", [False, True], ids=["same", "next mount"])
def test_plain_names_go_and_move(
    make_union: Callable[..., Union], name: str, indexed: bool, restart: bool
) -> None:
    """Whether a lower's mark of that name is in the way once depended on the listing."""
    union = plain_union(make_union, name, indexed)
    if restart:
        union.restart()
        prepare(union, indexed, "", "d")
    union.link(f"d/{name}", f"d/{name}2")
    union.rename(f"d/{name}", "d/g")
    union.rename("d/g", f"d/{name}")
    union.create("d/other")
    union.rename("d/other", f"d/{name}")
    union.rename(f"d/{name}", f"d/{name}2", RENAME_EXCHANGE)
    union.unlink(f"d/{name}")
    union.unlink(f"d/{name}2")
    union.mkdir(f"d/{name}")
    union.create(f"d/{name}/inside")
    union.rename(f"d/{name}", f"d/{name}3")
    union.rename(f"d/{name}3", f"d/{name}")
    union.unlink(f"d/{name}/inside")
    union.rmdir(f"d/{name}")
    assert union.names("d") == []
    assert union.scratch() == set()


@INDEXED
def test_plain_name_of_a_lower_stays(make_union: Callable[..., Union], indexed: bool) -> None:
    """Hiding it would take a whiteout that looks like a whiteout of another name."""
    union = plain_union(make_union, ".wh.f", indexed)
    union.restart()
    union.lowers.insert(0, union.upper.rename(union.base / "layer"))
    union.upper.mkdir()
    prepare(union, indexed, "", "d")
    union.create("d/other")
    for call in (
        lambda: union.unlink("d/.wh.f"),
        lambda: union.rename("d/.wh.f", "d/g"),
        lambda: union.rename("d/other", "d/.wh.f"),
    ):
        with fails(EPERM):
            call()
    assert union.read("d/.wh.f") == b"text"
