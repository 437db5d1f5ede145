"""The typed face of the wire: one mount's channel, and the threads that serve it."""

from collections.abc import Sequence

from unionfs._parking import Parking
from unionfs._tree import Tree

class FastPath:
    """Serves the requests that arrive on a FUSE channel, without the GIL.

    `fd` is an opened /dev/fuse on which the mount has been made (or, in tests, one end of a
    SOCK_SEQPACKET pair); it becomes ours.  What needs the slow path waits in `parking`.
    `readers` threads, 64 at most, read the channel.  With `keep_open` OPEN and CREATE are served,
    otherwise the kernel opens by itself.  With `passthrough`, if the kernel can, OPEN is served
    too, and the kernel reads and writes by itself what it may.  With `splice` large replies are
    not copied, which takes a channel that is really /dev/fuse.  The kernel may cache names and
    attributes for `timeout` seconds.  `queues` is how many queues the kernel has for FUSE over
    io_uring, which is used if the kernel offers it; 0: it is not.  `branches` are the branches'
    host paths, the upper first.
    """

    def __init__(
        self,
        tree: Tree,
        fd: int,
        parking: Parking,
        *,
        readers: int = 1,
        keep_open: bool = False,
        writeback: bool = False,
        timeout: float = 1e9,
        debug: bool = False,
        passthrough: bool = False,
        splice: bool = False,
        queues: int = 0,
        branches: Sequence[bytes] = (),
    ) -> None: ...
    @property
    def done_fd(self) -> int:
        """A descriptor that becomes readable when the mount is gone: nothing is read any more."""

    @property
    def initialised(self) -> bool:
        """Whether the kernel and we have agreed on a protocol."""

    def start(self) -> None:
        """Start serving.  Raises OSError if no thread can be had."""

    def stop(self) -> None:
        """Stop reading the channel, whether or not the mount is gone; returns when that is so."""

    def close(self) -> None:
        """Stop, finish what runs and what waits, and close the channel."""
