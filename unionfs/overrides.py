"""Uppers that keep owners, modes and types in an extended attribute of each file.

Which attribute is what the root directory of a branch has; how it is read and written is in
_override.pxd.  Here an upper is marked for it.
"""

import os
import stat
from errno import EACCES, ENODATA, ENOTSUP, EPERM
from typing import Final

from unionfs.branches import Branch
from unionfs.errors import FilesystemLacks, OverridesElsewhere

#: In the order in which a branch is asked for them.  The last is what containers/storage and
#: newer fuse-overlayfs write, the one before it what fuse-overlayfs 1.10 does.
NAMES: Final = (
    "security.fuseoverlayfs.override_stat",
    "user.fuseoverlayfs.override_stat",
    "user.containers.override_stat",
)


def name_of(root: int | str) -> str | None:
    """The attribute that the branch of this root directory uses; None: it uses none."""
    for name in NAMES:
        try:
            os.getxattr(root, name)
        except OSError as error:
            if error.errno not in (ENODATA, ENOTSUP):
                raise
        else:
            return name
    return None


def mark(upper: Branch, level: int) -> None:
    """Have an upper keep owners in attributes as ``xattr_permissions=level`` asks.

    With 0 it stays as it is.  Raises `OverridesElsewhere` if it uses an attribute of the other
    kind already, and `FilesystemLacks` if it cannot have one.
    """
    if level == 0:
        return
    wanted = NAMES[:1] if level == 1 else NAMES[1:]
    present = name_of(upper.fd)
    if present is not None:
        if present not in wanted:
            raise OverridesElsewhere(path=upper.path, attribute=present, level=level)
        return
    status = os.fstat(upper.fd)
    record = f"{status.st_uid}:{status.st_gid}:0{stat.S_IMODE(status.st_mode):o}:dir"
    try:
        os.setxattr(upper.fd, wanted[-1], record.encode())
    except OSError as error:
        if error.errno not in (EACCES, ENOTSUP, EPERM):
            raise
        raise FilesystemLacks(
            path=upper.path,
            feature=f"the attribute {wanted[-1]} ({error.strerror})",
            advice="use xattr_permissions=2" if level == 1 else "use another filesystem",
        ) from None
