"""The room of pyfuse3: started when the first request needs it, and again when it has died.

pyfuse3 runs on one end of a socket pair instead of /dev/fuse, the fast path's parking
(`_parking`) on the other.  libfuse takes the descriptor N of a mount point named ``/dev/fd/N``
for its channel, and negotiates as with a kernel: so we play the kernel and send it an INIT of
our own, whose reply nobody reads.

pyfuse3 keeps its state in globals: a process has one slow path, and therefore one mount.
"""

import os
import struct
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

from unionfs import log
from unionfs._parking import Parking
from unionfs._tree import Tree

if TYPE_CHECKING:
    from trio.lowlevel import TrioToken

# struct fuse_in_header (len, opcode, unique, nodeid, uid, gid, pid, extensions) and the first
# 16 bytes of struct fuse_init_in (major, minor, max_readahead, flags): <linux/fuse.h>.
_INIT = struct.Struct("=IIQQIIIIIIII")
_OPCODE_INIT = 26
# The number that _parking gives to no question of its own.
_UNIQUE = 1
# 7.13 is a protocol without splicing, which a socket could not do, and without flags2, which
# libfuse would believe. pyfuse3 does not start without FUSE_DO_READDIRPLUS.
_PROTOCOL = (7, 13)
_DO_READDIRPLUS = 1 << 13


class Relay:
    """The slow path of one mount, and the thread it lives in."""

    def __init__(self, tree: Tree) -> None:
        self.parking = Parking()  #: where the fast path leaves what needs us
        #: Of the event loop while one runs; whatever is run through it runs in that loop.
        self.token: TrioToken | None = None
        self._tree = tree
        self._closing = False
        self._served = False
        self._thread = Thread(target=self._run, name="unionfs-slow-path", daemon=True)

    def start(self) -> None:
        """Be there when the slow path is needed; this costs a sleeping thread."""
        self._thread.start()

    def close(self) -> None:
        """End the slow path, which touches the tree no more when this returns.

        To be called when nothing waits for it any more: after `FastPath.close`.  A thread that
        was never needed is not waited for: `join` does that, later, when it keeps nobody waiting.
        """
        self._closing = True
        self.parking.close()
        token = self.token
        if token is not None:
            import pyfuse3
            import trio

            with suppress(trio.RunFinishedError):  # it has just ended by itself
                token.run_sync_soon(pyfuse3.terminate)
        if self._served:
            self._thread.join()

    def join(self) -> None:
        """Wait for the thread's end; after `close`."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while self.parking.wait():
                self._served = True
                try:
                    self._serve()
                except BaseException:  # trio reports a crash in ways that are no Exception
                    log.exception(
                        "the slow path died; the next request that needs it starts it again"
                    )
                finally:
                    self.parking.detach()
        finally:
            # Whatever ends this thread, a record that cannot be written too: nothing may be
            # parked for a slow path that will not come, and what has been gets its EIO.
            self.parking.close()
            self.parking.detach()

    def _serve(self) -> None:
        """Run pyfuse3 until `close`, or until it dies."""
        import socket

        import pyfuse3
        import trio

        from unionfs.operations import Preparing

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.send(_made_up_init())
            pyfuse3.init(Preparing(self._tree), f"/dev/fd/{theirs.fileno()}", set())
            theirs.detach()  # pyfuse3.close() closes it
            try:
                self.parking.attach(ours.fileno())
                ours.detach()
                trio.run(self._main)
            finally:
                self.token = None
                pyfuse3.close(unmount=False)

    async def _main(self) -> None:
        import pyfuse3
        import trio

        self.token = trio.lowlevel.current_trio_token()
        # close() sets the flag before it looks for the token: one of us sees the other.
        if not self._closing:
            await pyfuse3.main()


def _made_up_init() -> bytes:
    major, minor = _PROTOCOL
    return _INIT.pack(
        _INIT.size, _OPCODE_INIT, _UNIQUE, 0, os.getuid(), os.getgid(), os.getpid(), 0,
        major, minor, 0, _DO_READDIRPLUS,
    )  # fmt: skip
