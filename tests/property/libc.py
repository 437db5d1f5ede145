"""System calls that Python 3.11 has no wrapper for."""

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

RENAME_FLAGS = {"": 0, "NOREPLACE": 1, "EXCHANGE": 2}
MS_BIND = 4096
AT_FDCWD = -100
SYS_getdents64 = 217 if os.uname().machine == "x86_64" else 61

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def mount(source: str, target: Path, filesystem: str, options: str, flags: int = 0) -> None:
    arguments = (s.encode() for s in (source, str(target), filesystem))
    _checked(_libc.mount(*arguments, ctypes.c_ulong(flags), options.encode()))


def unmount(target: Path) -> None:
    _checked(_libc.umount2(os.fsencode(target), 0))


def rename(source: str, target: str, flags: int) -> None:
    old, new = os.fsencode(source), os.fsencode(target)
    _checked(_libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, ctypes.c_uint(flags)))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _checked(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


class Entry(NamedTuple):
    """One record of getdents64(2)."""

    inode: int
    cookie: int
    kind: int
    name: str


def getdents(fd: int, size: int) -> list[Entry]:
    """The next entries of a directory, as many as fit into `size` bytes; none at its end."""
    buffer = ctypes.create_string_buffer(size)
    length = _checked(_libc.syscall(ctypes.c_long(SYS_getdents64), fd, buffer, size))
    return list(_entries(buffer.raw[:length]))


def _entries(raw: bytes) -> Iterator[Entry]:
    header = struct.Struct("=QqHB")
    start = 0
    while start < len(raw):
        inode, cookie, length, kind = header.unpack_from(raw, start)
        name = raw[start + header.size : start + length].split(b"\0", 1)[0]
        yield Entry(inode, cookie, kind, os.fsdecode(name))
        start += length
