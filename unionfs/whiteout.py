"""Whiteouts and opaque directories: what they look like.

For callers in Python that read a branch without mounting it (tools over layers, uppers and
diffs).  The union itself recognises and writes them natively.

Formats
    =========  ==============================  ====================================  ==========
    format     NAME is hidden by               a directory is opaque by              source
    =========  ==============================  ====================================  ==========
    aufs       an entry `.wh.NAME` beside it   an entry `.wh..wh..opq` inside it     aufs(5); the
               in the same branch                                                    OCI image
                                                                                     spec, layer.md
    overlay    a character device 0/0 called   xattr `trusted.overlay.opaque` or     the kernel's
               NAME in its place               `user.overlay.opaque` = "y"           overlayfs.rst
    =========  ==============================  ====================================  ==========

    Every branch is read in both, and with fuse-overlayfs's `user.fuseoverlayfs.opaque`.  One
    format is written (`whiteout=`), except that a name too long for the prefix (more than 251
    bytes) gets a device in the format aufs as well.  A whiteout hides only what lies in the
    branches *below* its own: a name beside its own whiteout is visible (layer.md).

The order in which each operation writes them, so that a crash leaves the state before or the state
after, is the table of docs/format.md.
"""

import os
import stat
from typing import Final

from unionfs.xattrs import OPAQUE

#: Names with this prefix say something about others instead of being files of the union.
RESERVED_PREFIX: Final = ".wh."
OPAQUE_NAME: Final = ".wh..wh..opq"

#: The longest name that leaves room for the prefix in the 255 bytes that a name may have.
LONGEST_PREFIXED: Final = 255 - len(RESERVED_PREFIX)


def is_reserved(name: str) -> bool:
    """Whether an entry of a branch is bookkeeping (whiteout, opaque mark, work directory)."""
    return name.startswith(RESERVED_PREFIX)


def is_whiteout_device(status: os.stat_result) -> bool:
    """Whether these are the attributes of an overlay whiteout."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def hidden_name(name: str, status: os.stat_result) -> str | None:
    """The name that this entry of a branch hides in the branches below, or None.

    `.wh..wh.*` is never a whiteout: aufs keeps its own files under such names.
    """
    if is_reserved(name):
        hidden = name.removeprefix(RESERVED_PREFIX)
        return None if not hidden or is_reserved(hidden) else hidden
    return name if is_whiteout_device(status) else None


def is_opaque(directory: int) -> bool:
    """Whether the directory behind this descriptor hides what the branches below have.

    Raises `OSError` when it cannot be read.
    """
    try:
        os.stat(OPAQUE_NAME, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        pass
    else:
        return True
    present = os.listxattr(directory)
    return any(name in present and os.getxattr(directory, name) == b"y" for name in OPAQUE)
