"""What the lowers show, asked of the union itself."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Final

from unionfs._tree import ROOT, Tree

#: The longest name, in bytes.
_NAME_MAX: Final = 255
_DT_DIR = 4  # <dirent.h>


class Lowers:
    """The lowers below an upper, by descriptors, topmost first."""

    def __init__(self, upper: int, lowers: Sequence[int]) -> None:
        self._upper = upper
        self._lowers = lowers
        self._tree = Tree(lowers)

    def close(self) -> None:
        self._tree.close()

    def names(self, path: str) -> frozenset[str] | None:
        """The names that the lowers alone show in a directory; None if it is none there."""
        node, held = ROOT, []
        with suppress(FileNotFoundError, NotADirectoryError):
            try:
                for name in filter(None, path.split("/")):
                    if len(os.fsencode(name)) > _NAME_MAX:  # a redirect may say anything
                        return None
                    node, _ = self._tree.lookup(node, os.fsencode(name))
                    held.append(node)
                return frozenset(os.fsdecode(name) for name, *_ in self._tree.readdir(node))
            finally:
                for node in held:
                    self._tree.forget(node)
        return None

    def count_names(self, copies: Mapping[int, int], *, trusted: bool) -> Counter[int]:
        """How many names of the union lead to each number.

        `copies`: by the inode of a copy in the upper the number that its names show.  `trusted`:
        which redirects are followed.
        """
        # With the upper as the topmost lower every name shows the inode it has in its branch, and
        # numbers of lower files are what they are on a mount.
        found: Counter[int] = Counter()
        with closing(Tree([self._upper, *self._lowers], trusted=trusted)) as tree:
            way = [(ROOT, iter(tree.readdir(ROOT)))]
            while way:
                node, entries = way[-1]
                entry = next(entries, None)
                if entry is None:
                    way.pop()
                    if node != ROOT:
                        tree.forget(node)
                    continue
                name, number, kind, _ = entry
                if name in (b".", b".."):
                    continue
                if kind == _DT_DIR:
                    child, _ = tree.lookup(node, name)
                    way.append((child, iter(tree.readdir(child))))
                else:
                    found[copies.get(number, number)] += 1
        return found
