"""Inner loops of clients: one system call over a prepared list, nothing else.

The interpreter adds about 0.1 us a call, the same for every peer, and nothing is subtracted. Each
loop checks what it saw, so that a peer cannot win by answering wrongly.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

READ_SIZE = 1 << 20


def lstat_all(names: Sequence[str]) -> None:
    lstat = os.lstat
    for name in names:
        lstat(name)


def find_none(names: Sequence[str]) -> None:
    """Ask for names that must not exist. access(F_OK) is one look-up and raises nothing."""
    access, exists = os.access, os.F_OK
    for name in names:
        if access(name, exists):
            raise AssertionError(f"{name} exists")


def open_all(names: Sequence[str]) -> None:
    open_, close, flags = os.open, os.close, os.O_RDONLY
    for name in names:
        close(open_(name, flags))


def read_all(names: Sequence[str], expected: int) -> None:
    """Read every file to its end; ``expected`` is the sum of their sizes in bytes."""
    open_, read, close, flags = os.open, os.read, os.close, os.O_RDONLY
    total = 0
    for name in names:
        descriptor = open_(name, flags)
        while part := len(read(descriptor, 65536)):
            total += part
        close(descriptor)
    if total != expected:
        raise AssertionError(f"read {total} bytes of {expected}")


def append_all(names: Sequence[str]) -> None:
    open_, write, close, flags = os.open, os.write, os.close, os.O_WRONLY | os.O_APPEND
    for name in names:
        descriptor = open_(name, flags)
        write(descriptor, b"appended\n")
        close(descriptor)


def import_all(modules: Sequence[str]) -> None:
    """Import ``modules`` from the current directory, behind the interpreter's own path."""
    sys.path.append(os.getcwd())
    sys.dont_write_bytecode = True
    for name in modules:
        importlib.import_module(name)


def list_directory(name: str, expected: int) -> None:
    found = len(os.listdir(name))
    if found != expected:
        raise AssertionError(f"{found} names of {expected}")


def read_file(name: str, expected: int) -> None:
    """Read one large file from its beginning, 1 MiB at a time."""
    buffer = bytearray(READ_SIZE)
    total = 0
    with open(name, "rb", buffering=0) as data:
        while part := data.readinto(buffer):
            total += part
    if total != expected:
        raise AssertionError(f"read {total} bytes of {expected}")


def write_file(name: str, block: bytes, count: int) -> None:
    """Write a new file of ``count`` blocks; no fsync, so this is what an application waits for."""
    with open(name, "xb", buffering=0) as data:
        for _ in range(count):
            written = data.write(block)
            if written != len(block):
                raise AssertionError(f"wrote {written} bytes of {len(block)}")
