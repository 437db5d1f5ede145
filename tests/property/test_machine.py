"""Random sequences of operations on a mounted union and on a reference: the same outcomes."""

from pathlib import Path

import pytest

from .machine import SETTINGS, compare
from .steps import Draw
from .unions import Kernel, Plain, Unionfs

pytestmark = pytest.mark.timeout(300 + SETTINGS.max_examples)
#: The tests below share the sequences.
TESTS = 7

DEFAULT = "redirect_dir=off,index=off,metacopy=off"
REDIRECTS = "redirect_dir=on,index=off,metacopy=off"
INDEX = "redirect_dir=on,index=on,xino=on,metacopy=off"


@pytest.mark.parametrize(
    ("reference", "subject"),
    [
        (Kernel(DEFAULT), Unionfs("aufs")),
        (Kernel(DEFAULT), Unionfs("overlay", copyup="open")),
        (Kernel(DEFAULT), Unionfs("aufs", io="passthrough")),
        (Kernel(REDIRECTS), Unionfs("overlay", rename_dir="redirect")),
    ],
    ids=["default", "copyup=open", "passthrough", "redirects"],
)
def test_as_kernel_overlayfs(
    arena: Path, sequences: int, reference: Kernel, subject: Unionfs
) -> None:
    compare(arena, reference, subject, sequences=sequences // TESTS)


def test_as_kernel_overlayfs_that_keeps_hard_links(arena: Path, sequences: int) -> None:
    # A name that another branch hides counts in the lower's own st_nlink: when all that are shown
    # are gone, the copy is still kept for that one.
    hidden = frozenset({"link-unreachable"})
    subject = Unionfs("overlay", rename_dir="copy", passed_over=hidden, spares_unlinked=True)
    compare(arena, Kernel(INDEX), subject, sequences=sequences // TESTS, draw=Draw(links=True))


def test_as_the_plain_tree(arena: Path, sequences: int) -> None:
    compare(arena, Plain(), Unionfs(rename_dir="copy"), sequences=sequences // TESTS)


def test_as_the_plain_tree_with_hard_links(arena: Path, sequences: int) -> None:
    # One lower: names that another branch hides would count.
    draw = Draw(links=True, branches=1)
    compare(arena, Plain(), Unionfs(rename_dir="copy"), sequences=sequences // TESTS, draw=draw)
