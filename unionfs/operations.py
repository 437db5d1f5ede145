"""The slow path: a pyfuse3.Operations whose handlers prepare what the fast path then does.

Only three requests ever come this way (see _parking): OPEN asks for a node to be brought into the
upper, SETATTR with a size for as much of it as a truncation leaves, OPENDIR for a directory to be
made whole.  They are answered when that is done; nothing is opened or set by them.
"""

from collections.abc import Callable
from errno import EIO

import pyfuse3
import trio

from unionfs import copyup, log
from unionfs._tree import Tree

#: How many preparations may run at once; the fast path asks for no more (IN_FLIGHT in _parking).
_WORKERS = 64


class Preparing(pyfuse3.Operations):
    """Prepares one tree."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tree = tree
        self._limiter = trio.CapacityLimiter(_WORKERS)

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        """Bring a node, and the directories above it, into the upper."""
        await self._prepare(copyup.bring_up, inode)
        return pyfuse3.FileInfo()

    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """The same, of a file of which only the first `st_size` bytes are wanted."""
        await self._prepare(copyup.bring_up, inode, attr.st_size)
        return pyfuse3.EntryAttributes()

    async def opendir(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileHandleT:
        """Make a directory whole in the upper, and opaque."""
        await self._prepare(copyup.make_whole, inode)
        return pyfuse3.FileHandleT(0)

    async def _prepare(self, what: Callable[..., None], node: int, *rest: int) -> None:
        """Run `what` in a worker thread; its errors become errnos, and a bug becomes EIO."""
        try:
            await trio.to_thread.run_sync(what, self._tree, node, *rest, limiter=self._limiter)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or EIO) from None
        except Exception:
            log.exception(f"{what.__name__} of node {node} failed")
            raise pyfuse3.FUSEError(EIO) from None
