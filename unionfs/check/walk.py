"""Every directory of a tree, one descriptor at a time.

Down by one name that must not be a link, up by `..` and a comparison with where the walk came
from: no path is ever resolved, and a tree may be deeper than PATH_MAX or the number of descriptors.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ESTALE
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Level(NamedTuple, Generic[T]):
    name: str
    identity: tuple[int, int]
    below: Iterator[tuple[str, T]]


def walk(
    root: int,
    visit: Callable[[int, str, T], list[tuple[str, T]]],
    first: T,
    failed: Callable[[str, OSError], None],
) -> None:
    """Call `visit` with a descriptor and the path of each directory, those above others first.

    It returns the subdirectories to go on to, each with a value that comes back as the third
    argument; that of the root is `first`.  A directory that cannot be opened or searched goes
    to `failed`.  Raises OSError (ESTALE) when a directory is moved meanwhile.
    """
    fd = open_directory(root, ".")
    try:
        levels = [_Level("", _identity(fd), iter(visit(fd, "", first)))]
        while levels:
            below = next(levels[-1].below, None)
            if below is None:
                levels.pop()
                if levels:
                    fd = _change(fd, "..")
                    if _identity(fd) != levels[-1].identity:
                        raise OSError(ESTALE, "the tree changes while it is checked")
                continue
            name, value = below
            path = "/".join([*(level.name for level in levels[1:]), name])
            try:
                fd = _change(fd, name)
            except OSError as error:
                failed(path, error)
                continue
            levels.append(_Level(name, _identity(fd), iter(visit(fd, path, value))))
    finally:
        os.close(fd)


def open_directory(parent: int, name: str) -> int:
    """Open a directory for reading, without a trace in its access time where that is allowed."""
    try:
        return os.open(name, _FLAGS | os.O_NOATIME, dir_fd=parent)
    except PermissionError:  # EPERM: it is somebody else's
        return os.open(name, _FLAGS, dir_fd=parent)


@contextmanager
def times_kept(fd: int) -> Iterator[None]:
    """A directory's times are visible in the union: repairing inside it must not change them."""
    before = os.fstat(fd)
    try:
        yield
    finally:
        os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))


def _change(fd: int, name: str) -> int:
    """Descriptor of `name`, in the place of `fd`; on failure `fd` stays."""
    other = open_directory(fd, name)
    try:
        os.stat(".", dir_fd=other)  # may it be searched? Without that there is no way back up
    except BaseException:
        os.close(other)
        raise
    os.close(fd)
    return other


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
