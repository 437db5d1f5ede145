"""Reading the attributes by which a mount tells about itself."""

import os
from errno import ENODATA, ENOTSUP, ERANGE

import xattr

from unionfs.errors import NotAMount, PathUnusable


def read(path: str, name: str) -> str:
    """The value of attribute `name`, of a link itself where `path` is one.

    Raises `PathUnusable` when the path cannot be asked, and `NotAMount` when nobody answers.
    """
    try:
        os.lstat(path)
        return get(os.fsencode(path), name).decode()
    except OSError as error:
        if error.errno not in (ENODATA, ENOTSUP):
            raise PathUnusable(path=path, reason=os.strerror(error.errno or 0)) from None
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
