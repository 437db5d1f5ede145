"""System calls that Python's `os` does not offer, or not with every flag.

Each raises OSError with the errno of the call, as `os` does.
"""

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
AT_STATX_FORCE_SYNC = 0x2000
AT_STATX_DONT_SYNC = 0x4000

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_COLLAPSE_RANGE = 0x08
FALLOC_FL_ZERO_RANGE = 0x10
FALLOC_FL_INSERT_RANGE = 0x20

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

_SYS_GETDENTS64 = 217 if os.uname().machine == "x86_64" else 61
_SYS_STATX = 332 if os.uname().machine == "x86_64" else 291
_SYS_IO_SETUP, _SYS_IO_DESTROY, _SYS_IO_SUBMIT, _SYS_IO_GETEVENTS = (
    (206, 207, 209, 208) if os.uname().machine == "x86_64" else (0, 1, 2, 4)
)

Path = str | bytes


def _check(result: int, *paths: Path) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), *(paths[:1]))
    return result


def _declared(name: str, *types: Any, result: Any = ctypes.c_int) -> Callable[..., int]:
    function = getattr(_libc, name)
    function.argtypes = types
    function.restype = result
    return function  # type: ignore[no-any-return]


_INT, _LONG, _STRING, _POINTER = ctypes.c_int, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p
_OFFSET = ctypes.c_int64

_renameat2 = _declared("renameat2", _INT, _STRING, _INT, _STRING, ctypes.c_uint)
_linkat = _declared("linkat", _INT, _STRING, _INT, _STRING, _INT)
_fallocate = _declared("fallocate", _INT, _INT, _OFFSET, _OFFSET)
_utimensat = _declared("utimensat", _INT, _STRING, _POINTER, _INT)
_unshare = _declared("unshare", _INT)
_setns = _declared("setns", _INT, _INT)
_mount = _declared("mount", _STRING, _STRING, _STRING, ctypes.c_ulong, _STRING)
_umount2 = _declared("umount2", _STRING, _INT)
_inotify_init1 = _declared("inotify_init1", _INT)
_inotify_add_watch = _declared("inotify_add_watch", _INT, _STRING, ctypes.c_uint32)
_msync = _declared("msync", _POINTER, ctypes.c_size_t, _INT)
_syscall = _declared("syscall", _LONG, _LONG, _LONG, _LONG, _LONG, _LONG, result=_LONG)


def renameat2(source: Path, target: Path, flags: int) -> None:
    _check(_renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags), source)


def link_descriptor(fd: int, target: Path) -> None:
    """Give an open file a name (linkat with AT_EMPTY_PATH; needs CAP_DAC_READ_SEARCH)."""
    _check(_linkat(fd, b"", AT_FDCWD, os.fsencode(target), AT_EMPTY_PATH), target)


def link_proc(fd: int, target: Path) -> None:
    """Give an open file a name by way of /proc/self/fd, as an ordinary user does."""
    source = b"/proc/self/fd/%d" % fd
    _check(_linkat(AT_FDCWD, source, AT_FDCWD, os.fsencode(target), AT_SYMLINK_FOLLOW), target)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _check(_fallocate(fd, mode, offset, length))


def utimensat(path: Path, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0) -> None:
    """Set times given as (seconds, nanoseconds), where UTIME_NOW and UTIME_OMIT are possible."""
    times = struct.pack("qqqq", *atime, *mtime)
    buffer = ctypes.create_string_buffer(times, len(times))
    _check(_utimensat(AT_FDCWD, os.fsencode(path), buffer, flags), path)


def unshare(flags: int) -> None:
    _check(_unshare(flags))


def setns(fd: int, kind: int) -> None:
    _check(_setns(fd, kind))


def mount(
    source: str, target: str | os.PathLike[str], fstype: str, flags: int = 0, data: str = ""
) -> None:
    place = os.fsencode(target)
    _check(_mount(os.fsencode(source), place, fstype.encode(), flags, os.fsencode(data)), place)


def umount(target: str | os.PathLike[str], flags: int = 0) -> None:
    place = os.fsencode(target)
    _check(_umount2(place, flags), place)


class Entry(NamedTuple):
    """One record of getdents64(2)."""

    name: str
    ino: int
    offset: int  #: where the listing continues after this entry
    dtype: int


def getdents(fd: int, size: int = 32768) -> list[Entry]:
    """The next entries of an open directory, as many as `size` bytes hold; [] at the end."""
    buffer = ctypes.create_string_buffer(size)
    length = _check(_syscall(_SYS_GETDENTS64, fd, ctypes.addressof(buffer), size, 0, 0))
    return list(_entries(buffer.raw[:length]))


def _entries(data: bytes) -> Iterator[Entry]:
    position = 0
    while position < len(data):
        ino, offset, length, dtype = struct.unpack_from("QqHB", data, position)
        name = data[position + 19 : position + length].split(b"\0", 1)[0]
        yield Entry(os.fsdecode(name), ino, offset, dtype)
        position += length


def list_all(fd: int, size: int = 32768) -> list[Entry]:
    """All entries from the descriptor's position to the end, `size` bytes at a time."""
    found: list[Entry] = []
    while some := getdents(fd, size):
        found += some
    return found


class Statx(NamedTuple):
    mask: int
    attributes: int
    mode: int
    ino: int
    size: int
    nlink: int
    btime: tuple[int, int]


def statx(path: Path, flags: int = 0, mask: int = STATX_BASIC_STATS | STATX_BTIME) -> Statx:
    name = ctypes.create_string_buffer(os.fsencode(path))
    buffer = ctypes.create_string_buffer(256)
    _check(
        _syscall(
            _SYS_STATX, AT_FDCWD, ctypes.addressof(name), flags, mask, ctypes.addressof(buffer)
        ),
        path,
    )
    # struct statx of linux/stat.h
    found, _, attributes, nlink, _, _, mode, ino, size = struct.unpack_from("IIQIIIHxxQQ", buffer)
    btime = struct.unpack_from("qI", buffer, 0x50)
    return Statx(found, attributes, mode, ino, size, nlink, (btime[0], btime[1]))


IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE = 0x1, 0x2, 0x4, 0x8
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400
IN_MOVE_SELF, IN_OPEN, IN_ISDIR = 0x800, 0x20, 0x40000000
IN_ALL = 0xFFF


class Event(NamedTuple):
    mask: int
    cookie: int
    name: str


class Watch:
    """An inotify instance that watches one path."""

    def __init__(self, path: Path, mask: int = IN_ALL) -> None:
        self.fd = _check(_inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        _check(_inotify_add_watch(self.fd, os.fsencode(path), mask), path)

    def events(self) -> list[Event]:
        """What has happened since the last call; never waits."""
        found: list[Event] = []
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return found
            position = 0
            while position < len(data):
                _, mask, cookie, length = struct.unpack_from("iIII", data, position)
                name = data[position + 16 : position + 16 + length].rstrip(b"\0")
                found.append(Event(mask, cookie, os.fsdecode(name)))
                position += 16 + length


def address(buffer: Any) -> int:
    """The address of a writable buffer such as an mmap."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class Aio:
    """One context of kernel AIO (io_submit(2)), as databases use it with O_DIRECT."""

    READ, WRITE = 0, 1

    def __init__(self, depth: int = 8) -> None:
        context = ctypes.c_ulong(0)
        _check(_syscall(_SYS_IO_SETUP, depth, ctypes.addressof(context), 0, 0, 0))
        self._context = context.value
        self._blocks: list[Any] = []

    def submit(self, operation: int, fd: int, buffer: Any, length: int, offset: int) -> None:
        # struct iocb of linux/aio_abi.h
        packed = struct.pack(
            "QIiHhIQQqQII",
            len(self._blocks),
            0,
            0,
            operation,
            0,
            fd,
            address(buffer),
            length,
            offset,
            0,
            0,
            0,
        )
        block = ctypes.create_string_buffer(packed, len(packed))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(block))
        self._blocks.append(block)
        _check(_syscall(_SYS_IO_SUBMIT, self._context, 1, ctypes.addressof(pointers), 0, 0))

    def wait(self, count: int) -> dict[int, int]:
        """Wait for `count` completions: number of the submission -> result."""
        events = ctypes.create_string_buffer(32 * count)
        done = _check(
            _syscall(_SYS_IO_GETEVENTS, self._context, count, count, ctypes.addressof(events), 0)
        )
        return {
            number: result
            for number, _, result, _ in struct.iter_unpack("QQqq", events.raw[: 32 * done])
        }

    def close(self) -> None:
        _check(_syscall(_SYS_IO_DESTROY, self._context, 0, 0, 0, 0))
