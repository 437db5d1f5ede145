"""The ladder: what is brought into the upper, in which order, and what needs no ladder.

One rung is `Tree.copy_up`, native and atomic; which rungs there are is decided here.  Nothing
here is locked: the tree serialises copies of one node and refuses a rung whose parent is
missing, which happens when a rename moves the node while we climb.  Then we look again.
"""

from collections.abc import Iterator
from typing import Final

from unionfs._tree import WHOLE, Tree

#: Files up to this size the fast path copies up by itself, if their directory is in the upper:
#: a round through Python costs about as much as copying so many bytes.  In bytes.
INLINE_LIMIT: Final = 1 << 20

#: How often a rename may move the node away under us.
_ATTEMPTS: Final = 100


def bring_up(tree: Tree, node: int, keep: int = WHOLE) -> None:
    """Bring a node into the upper, and before it every directory above that is missing there.

    Of a file that is about to be truncated only the first `keep` bytes are brought.
    Raises OSError as copying does; directories that were brought up before it stay, which
    changes nothing visible.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            for rung in reversed(_missing(tree, node)):
                tree.copy_up(rung, keep if rung == node else WHOLE)
        except FileNotFoundError:
            if attempt == _ATTEMPTS:
                raise
        else:
            return


def make_whole(tree: Tree, node: int) -> None:
    """Bring everything below a directory into the upper, then mark it opaque.

    Nothing visible changes: what the lowers show through it, it has itself afterwards.
    Directories below it are made whole first, since an opaque directory hides the lower parts
    of those as well.  Raises OSError as copying does.
    """
    bring_up(tree, node)
    # The way down to the directory being worked on; a list, because trees can be deeper than
    # Python's stack.  Of each but the first we hold a reference.
    way = [(node, _names(tree, node))]
    try:
        while way:
            directory, names = way[-1]
            name = next(names, None)
            if name is not None:
                child = _look_up(tree, directory, name)
                if child is not None:
                    way.append((child, iter(())))
                    tree.copy_up(child)
                    if tree.info(child).merged:
                        way[-1] = (child, _names(tree, child))
                    else:
                        _leave(tree, way)
            else:
                tree.make_whole(directory)
                _leave(tree, way)
    finally:
        while way:
            _leave(tree, way)


def _missing(tree: Tree, node: int) -> list[int]:
    """The node and the directories above it that are not in the upper, the node first."""
    rungs = []
    while node and (info := tree.info(node)).branch:
        rungs.append(node)
        node = info.parent
    return rungs


def _names(tree: Tree, directory: int) -> Iterator[bytes]:
    return (name for name, *_ in tree.readdir(directory) if name not in (b".", b".."))


def _look_up(tree: Tree, directory: int, name: bytes) -> int | None:
    """A child, with a reference; None if it has been removed since it was listed."""
    try:
        return tree.lookup(directory, name)[0]
    except FileNotFoundError:
        return None


def _leave(tree: Tree, way: list[tuple[int, Iterator[bytes]]]) -> None:
    directory, _ = way.pop()
    if way:
        tree.forget(directory)
