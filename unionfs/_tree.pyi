"""The typed face of the union on directories: what `_tree` shows to Python."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from unionfs.namespaces import Unmapped

ROOT: int
WHOLE: int  #: more than any file has

class NodeInfo(NamedTuple):
    """What a node is at this moment."""

    parent: int  #: 0 for the root and for a file without a name
    name: bytes
    mode: int  #: type bits only
    branch: int  #: 0 is the upper, 1 the topmost lower, ...
    size: int
    nlink: int
    merged: bool  #: a directory with content in more than one branch, or in a lower

def birth(directory: int, name: bytes) -> str:
    """When a file was created, as records of origins say it: seconds and nanoseconds."""

class Tree:
    """The union of directories, without a mount.

    Nodes are named by integers, the root is `ROOT`. Every method that returns a node takes a
    reference that `forget` gives back. Every method raises `OSError` with the errno that the
    same operation on a mount gives.

    `lowers` (topmost first), `upper` and `work` are descriptors of directories; they are
    duplicated. Without an upper everything that changes raises EROFS. `state` is the directory for
    what a later mount needs (hard links across copy-up), by default the work directory.

    `uid_map` and `gid_map` are ranges (first id on the branches, first id here, how many); with
    any, an id without a range has no counterpart: it is shown as 0xFFFFFFFF, and giving a file
    such an owner raises EINVAL, creating one as such a user EOVERFLOW. `squash_uid` and
    `squash_gid` are the owner that every file is shown with.

    A branch that keeps owners and modes in an attribute (see _override.pxd) is known by its root
    directory. Without `acls`, and where the topmost branch is such a one, there are no POSIX ACLs.
    `unmapped` is what `namespaces.unmapped` says of owners that this user namespace has no id for:
    they are shown as 0xFFFFFFFF, and a file of theirs is not copied up (EOVERFLOW).
    Files with an ACL that names such an id are copied with the help of kernel overlayfs, which
    needs `work_path`, a path of `work`.
    With `static_nlink` every directory has the link count 1.
    """

    def __init__(
        self,
        lowers: Sequence[int],
        upper: int | None = None,
        work: int | None = None,
        *,
        whiteout: str = "aufs",
        rename_dir: str = "copy",
        durable: bool = True,
        trusted: bool = True,
        keep_open: bool = False,
        noatime: bool = False,
        inline_limit: int = 0,
        fd_limit: int = 256,
        state: int | None = None,
        uid_map: Sequence[tuple[int, int, int]] = (),
        gid_map: Sequence[tuple[int, int, int]] = (),
        squash_uid: int | None = None,
        squash_gid: int | None = None,
        acls: bool = True,
        static_nlink: bool = False,
        unmapped: Unmapped | None = None,
        work_path: bytes | None = None,
    ) -> None: ...
    def close(self) -> None: ...

    # operations, as the wire performs them; uid, gid and umask are the caller's
    def lookup(self, parent: int, name: bytes) -> tuple[int, os.stat_result]: ...
    def forget(self, node: int, references: int = 1) -> None: ...
    def getattr(self, node: int) -> os.stat_result: ...
    def setattr(
        self,
        node: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        by_fd: bool = False,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> os.stat_result: ...
    def readlink(self, node: int) -> bytes: ...
    def mknod(
        self,
        parent: int,
        name: bytes,
        mode: int,
        rdev: int = 0,
        *,
        uid: int = 0,
        gid: int = 0,
        umask: int = 0,
    ) -> tuple[int, os.stat_result]: ...
    def mkdir(
        self,
        parent: int,
        name: bytes,
        mode: int = 0o777,
        *,
        uid: int = 0,
        gid: int = 0,
        umask: int = 0,
    ) -> tuple[int, os.stat_result]: ...
    def symlink(
        self, parent: int, name: bytes, target: bytes, *, uid: int = 0, gid: int = 0
    ) -> tuple[int, os.stat_result]: ...
    def link(self, source: int, parent: int, name: bytes) -> tuple[int, os.stat_result]: ...
    def unlink(self, parent: int, name: bytes) -> None: ...
    def rmdir(self, parent: int, name: bytes) -> None: ...
    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None: ...
    def read(self, node: int, size: int, offset: int = 0) -> bytes: ...
    def write(self, node: int, data: bytes, offset: int = 0, *, late: bool = False) -> int: ...
    def fsync(self, node: int, datasync: bool = False) -> None: ...
    def lseek(self, node: int, offset: int, whence: int) -> int: ...
    def fallocate(self, node: int, mode: int, offset: int, length: int) -> None: ...
    def getxattr(self, node: int, name: str) -> bytes: ...
    def setxattr(self, node: int, name: str, value: bytes, flags: int = 0) -> None: ...
    def listxattr(self, node: int) -> list[str]: ...
    def removexattr(self, node: int, name: str) -> None: ...
    def readdir(self, node: int, offset: int = 0) -> list[tuple[bytes, int, int, int]]:
        """All entries after `offset` as (name, st_ino, DT_* type, cookie)."""

    # what the slow path asks and does
    def info(self, node: int) -> NodeInfo: ...
    def copy_up(self, node: int, keep: int = ...) -> None:
        """Bring one node into the upper; its parent must be there. Waits for a copy under way.

        Of a file that is about to be truncated only the first `keep` bytes are wanted.

        Does nothing when the node is in the upper already. Raises ENOENT in the place of the
        parent that is missing, and what copying gives otherwise; the upper is then as it was.
        """

    def make_whole(self, node: int) -> None:
        """Mark a directory opaque, all of whose children are in the upper.

        Nothing visible changes.
        """

    def where(self, node: int) -> tuple[int, bytes]:
        """The branch (0: the upper) and the path in it."""

    def stats(self) -> dict[str, int]: ...
    def shrink(self, *, everything: bool = False) -> None:
        """Give memory back: descriptors kept for later, listings unread for a minute.

        With `everything` all listings; who is reading one by offsets then misses names or sees
        some twice.
        """
