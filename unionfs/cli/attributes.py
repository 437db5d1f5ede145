"""Reading the attributes by which a mount tells about itself."""

import os
from errno import ENODATA, ENOTSUP, ERANGE

import xattr

from unionfs import daemons
from unionfs.errors import NotAMount, PathUnusable, explained


def read(path: str, name: str) -> str:
    """The value of attribute `name`, of a link itself where `path` is one.

    Raises `PathUnusable` when the path cannot be asked, and `NotAMount` when it is on no union:
    elsewhere a file's owner may have set the attribute to anything.
    """
    try:
        if daemons.union_on(os.lstat(path).st_dev) is not None:
            return get(os.fsencode(path), name).decode()
    except UnicodeDecodeError:
        pass  # not ours
    except OSError as error:
        if error.errno not in (ENODATA, ENOTSUP):
            raise PathUnusable(path=path, **explained(error)) from None
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
