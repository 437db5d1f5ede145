"""Reading the attributes by which a mount tells about itself."""

import os
from errno import ENODATA, ENOTSUP

import xattr

from unionfs.errors import NotAMount, PathUnusable


def read(path: str, name: str) -> str:
    """The value of attribute `name`, of a link itself where `path` is one.

    Raises `PathUnusable` when the path cannot be looked at, and `NotAMount` when nobody answers.
    """
    try:
        value: bytes = xattr.getxattr(os.fsencode(path), name, symlink=True)
    except OSError as error:
        if error.errno in (ENODATA, ENOTSUP):
            raise NotAMount(path=path) from None
        raise PathUnusable(path=path, reason=os.strerror(error.errno or 0)) from None
    return value.decode()
