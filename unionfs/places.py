"""Which branches have a name, also where one above hides it or it was removed.

Each branch is asked as a union of its own, so that its whiteouts, which say nothing of it itself,
are no entries.  The name is looked up as the union shows it: what a redirect has moved is found
only in the branch where it is called so.
"""

import os
from collections.abc import Sequence
from contextlib import closing, suppress

from unionfs._tree import ROOT, Tree


def branches_with(branches: Sequence[str], path: str) -> list[int]:
    """The numbers of the branches that have `path`, topmost first.

    `branches` are their paths by number; one without a path, or that this user may not read, is
    left out.
    """
    return [number for number, branch in enumerate(branches) if branch and _has(branch, path)]


def _has(branch: str, path: str) -> bool:
    with suppress(OSError):
        fd = os.open(branch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with closing(Tree([fd])) as tree:
                node = ROOT
                for name in filter(None, path.split("/")):
                    node, _ = tree.lookup(node, os.fsencode(name))
                return True
        finally:
            os.close(fd)
    return False
