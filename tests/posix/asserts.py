"""What the cases say most often."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

#: Not in Python's `time`: the clock that filesystems stamp files with (linux/time.h).
_CLOCK_REALTIME_COARSE = 5


@contextlib.contextmanager
def fails(*errors: int) -> Iterator[None]:
    """The block raises OSError with one of these errnos."""
    expected = "/".join(errno.errorcode[error] for error in errors)
    try:
        yield
    except OSError as error:
        seen = errno.errorcode.get(error.errno or 0, str(error))
        assert error.errno in errors, f"{seen} instead of {expected}: {error}"
    else:
        raise AssertionError(f"success instead of {expected}")


def read(path: str | int) -> bytes:
    with open(path, "rb", closefd=not isinstance(path, int)) as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    """Replace the content; the file is created when it does not exist."""
    with open(path, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def opened(path: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def mode(path: str | int) -> int:
    """The permission bits with set-id and sticky."""
    return _stat(path).st_mode & 0o7777


def names(path: str) -> set[str]:
    """What a directory lists; nothing twice."""
    found = os.listdir(path)
    assert len(found) == len(set(found)), f"listed twice: {sorted(found)}"
    return set(found)


def same(a: str | int, b: str | int) -> bool:
    """Whether two names or descriptors are one file."""
    return os.path.samestat(_stat(a), _stat(b))


def _stat(what: str | int) -> os.stat_result:
    return os.fstat(what) if isinstance(what, int) else os.lstat(what)


@contextlib.contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def later_than(*stamps: int) -> None:
    """Wait until what is stamped from now on is stamped later (nanoseconds)."""
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= max(stamps):
        time.sleep(0.0005)


@contextlib.contextmanager
def stamped(expected: Mapping[str | int, str]) -> Iterator[None]:
    """In the block exactly these times move: for each file "m", "c", "mc" or "" for neither.

    "a" and "A" say that the access time moves or stays; without them it is not looked at.
    "?" leaves ctime out: a directory that is copied up for a child cannot keep its own.
    """
    before = {what: _stat(what) for what in expected}
    later_than(*(max(st.st_ctime_ns, st.st_mtime_ns, st.st_atime_ns) for st in before.values()))
    yield
    for what, letters in expected.items():
        now = _stat(what)
        for letter, field in (("m", "st_mtime_ns"), ("c", "st_ctime_ns"), ("a", "st_atime_ns")):
            old, new = getattr(before[what], field), getattr(now, field)
            ignored = {"m": False, "c": "?" in letters, "a": "A" not in letters}[letter]
            if letter in letters:
                assert new > old, f"{field} of {what} did not move"
            elif not ignored:
                assert new == old, f"{field} of {what} moved by {new - old} ns"


def extents(fd: int) -> list[tuple[int, int]]:
    """The data of a file as SEEK_DATA and SEEK_HOLE tell it: (start, end), without the holes."""
    size = os.fstat(fd).st_size
    found: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            break
        position = os.lseek(fd, start, os.SEEK_HOLE)
        assert start < position <= size
        found.append((start, position))
    return found


def raised(function: Any, *args: Any) -> int:
    """The errno that a call fails with, 0 when it succeeds: for calls made as another user."""
    try:
        function(*args)
    except OSError as error:
        return error.errno or -1
    return 0
