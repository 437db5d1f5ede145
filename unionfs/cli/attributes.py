"""Reading the attributes by which a mount tells about itself."""

import os
import stat
from errno import ENODATA, ENOTSUP, ERANGE

import xattr

from unionfs.errors import NotAMount, PathUnusable


def read(path: str, name: str) -> str:
    """The value of attribute `name`, of a link itself where `path` is one.

    Raises `PathUnusable` when the path cannot be asked, and `NotAMount` when nobody answers.
    """
    try:
        mode = os.lstat(path).st_mode
        return get(os.fsencode(path), name).decode()
    except OSError as error:
        if error.errno not in (ENODATA, ENOTSUP):
            raise PathUnusable(path=path, reason=os.strerror(error.errno or 0)) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        # xattr_permission() in the kernel's fs/xattr.c answers for user.* of any other type.
        raise PathUnusable(path=path, reason="only files and directories can be asked")
    raise NotAMount(path=path)


def get(path: bytes, name: str) -> bytes:
    """The attribute's value.

    The length is asked for first, and asking is counted: the second answer may have one digit
    more than the first, and is ERANGE then.
    """
    for patience in range(9, -1, -1):
        try:
            value: bytes = xattr.getxattr(path, name, symlink=True)
            break
        except OSError as error:
            if error.errno != ERANGE or not patience:
                raise
    return value
