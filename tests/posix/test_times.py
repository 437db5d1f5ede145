"""Which times every operation moves: of the file, of its directory, and of nothing else."""

import mmap
import os
import stat
from collections.abc import Callable

import pytest

from tests.posix import calls
from tests.posix.asserts import opened, read, stamped, write
from tests.posix.places import Place
from tests.posix.trees import Dir, File, Special, Symlink, given

TREE = {
    "a": Dir(
        children={
            "file": File(content=b"x" * 10_000),
            "other": File(content=b"other"),
            "link": Symlink(target="file"),
            "fifo": Special(type=stat.S_IFIFO),
            "dir": Dir(children={"child": File()}),
            "empty": Dir(),
        }
    ),
    "b": Dir(children={"file": File(content=b"b")}),
}


def _with(path: str, flags: int, act: Callable[[int], object]) -> None:
    with opened(path, flags) as fd:
        act(fd)


def _mapped_write(place: Place) -> None:
    with opened(place / "a/file", os.O_RDWR) as fd, mmap.mmap(fd, 10_000) as mapping:
        mapping[5000] = 0
        mapping.flush()


def _copy_range(place: Place) -> None:
    with opened(place / "a/other") as source, opened(place / "a/file", os.O_WRONLY) as target:
        os.copy_file_range(source, target, 5)


W = os.O_WRONLY

#: operation, and what moves: "m", "c" or both, for each file that is looked at.
OPERATIONS: dict[str, tuple[Callable[[Place], object], dict[str, str]]] = {
    "create": (lambda p: write(p / "a/new", b""), {"a": "mc", "a/file": "", "b": ""}),
    "mkdir": (lambda p: os.mkdir(p / "a/new"), {"a": "mc", "a/dir": "", "b": ""}),
    "mkfifo": (lambda p: os.mkfifo(p / "a/new"), {"a": "mc", "a/file": ""}),
    "symlink": (lambda p: os.symlink("t", p / "a/new"), {"a": "mc", "a/link": ""}),
    "link": (lambda p: os.link(p / "a/file", p / "b/new"), {"b": "mc", "a": "?", "a/file": "c"}),
    "unlink": (lambda p: os.unlink(p / "a/file"), {"a": "mc", "a/other": "", "b": ""}),
    "rmdir": (lambda p: os.rmdir(p / "a/empty"), {"a": "mc", "a/dir": ""}),
    "rename": (lambda p: os.rename(p / "a/file", p / "a/new"), {"a": "mc", "b": ""}),
    "rename-away": (lambda p: os.rename(p / "a/file", p / "b/new"), {"a": "mc", "b": "mc"}),
    "rename-over": (lambda p: os.rename(p / "a/file", p / "b/file"), {"a": "mc", "b": "mc"}),
    "rename-dir": (lambda p: os.rename(p / "a/dir", p / "b/dir"), {"a": "mc", "b": "mc"}),
    "exchange": (
        lambda p: calls.renameat2(p / "a/file", p / "b/file", calls.RENAME_EXCHANGE),
        {"a": "mc", "b": "mc"},
    ),
    "write": (
        lambda p: _with(p / "a/file", W, lambda fd: os.write(fd, b"new")),
        {"a/file": "mc", "a": "?"},
    ),
    "write-nothing": (
        lambda p: _with(p / "a/file", W, lambda fd: os.write(fd, b"")),
        {"a/file": "?", "a": "?"},
    ),
    "open-write": (
        lambda p: _with(p / "a/file", W, lambda fd: None),
        {"a/file": "?", "a": "?"},
    ),
    "read": (lambda p: read(p / "a/file"), {"a/file": "", "a": ""}),
    "open-truncate": (
        lambda p: _with(p / "a/file", W | os.O_TRUNC, lambda fd: None),
        {"a/file": "mc", "a": "?"},
    ),
    "truncate": (lambda p: os.truncate(p / "a/file", 5), {"a/file": "mc", "a": "?"}),
    "truncate-up": (lambda p: os.truncate(p / "a/file", 50_000), {"a/file": "mc", "a": "?"}),
    "fallocate": (
        lambda p: _with(p / "a/file", W, lambda fd: calls.fallocate(fd, 0, 0, 50_000)),
        {"a/file": "mc", "a": "?"},
    ),
    "fallocate-keep": (
        lambda p: _with(
            p / "a/file", W, lambda fd: calls.fallocate(fd, calls.FALLOC_FL_KEEP_SIZE, 0, 50_000)
        ),
        {"a/file": "mc", "a": "?"},
    ),
    "punch": (
        lambda p: _with(
            p / "a/file",
            W,
            lambda fd: calls.fallocate(
                fd, calls.FALLOC_FL_PUNCH_HOLE | calls.FALLOC_FL_KEEP_SIZE, 0, 4096
            ),
        ),
        {"a/file": "mc", "a": "?"},
    ),
    "copy_file_range": (_copy_range, {"a/file": "mc", "a/other": "", "a": "?"}),
    "mmap": (_mapped_write, {"a/file": "mc", "a": "?"}),
    "chmod": (lambda p: os.chmod(p / "a/file", 0o600), {"a/file": "c", "a": "?"}),
    "chown": (lambda p: os.chown(p / "a/file", -1, os.getegid()), {"a/file": "c", "a": "?"}),
    "utimens": (
        lambda p: calls.utimensat(p / "a/file", (1, 0), (0, calls.UTIME_OMIT)),
        {"a/file": "c", "a": "?"},
    ),
    "setxattr": (lambda p: os.setxattr(p / "a/file", "user.a", b"1"), {"a/file": "c", "a": "?"}),
    "setxattr-dir": (lambda p: os.setxattr(p / "a/dir", "user.a", b"1"), {"a/dir": "c", "a": "?"}),
    "fsync": (lambda p: _with(p / "a/file", W, os.fsync), {"a/file": "?", "a": "?"}),
    "readdir": (lambda p: os.listdir(p / "a"), {"a": "", "a/dir": ""}),
    "stat": (lambda p: os.stat(p / "a/file"), {"a/file": "A", "a": "A"}),
    "access": (lambda p: os.access(p / "a/file", os.R_OK), {"a/file": "A", "a": "A"}),
    "chdir": (lambda p: os.chdir(p / "a/dir"), {"a/dir": "A", "a": "A"}),
    "readlink": (lambda p: os.readlink(p / "a/link"), {"a/link": "", "a": ""}),
    "failed-unlink": (
        lambda p: _ignored(os.unlink, p / "a/dir"),
        {"a/dir": "", "a": ""},
    ),
    "failed-rmdir": (lambda p: _ignored(os.rmdir, p / "a/dir"), {"a/dir": "?", "a": "?"}),
    "failed-rename": (
        lambda p: _ignored(os.rename, p / "a/file", p / "a/dir"),
        {"a/file": "", "a/dir": "", "a": ""},
    ),
    "failed-create": (
        lambda p: _ignored(os.open, p / "a/file", os.O_CREAT | os.O_EXCL),
        {"a/file": "", "a": ""},
    ),
}  # fmt: skip


def _ignored(function: Callable[..., object], *args: object) -> None:
    try:
        function(*args)
    except OSError:
        return
    raise AssertionError("succeeded")


@pytest.mark.parametrize("operation", OPERATIONS)
@given(TREE)
def test_moves(place: Place, operation: str) -> None:
    act, expected = OPERATIONS[operation]
    with stamped({place / name: letters for name, letters in expected.items()}):
        act(place)


@pytest.mark.parametrize("operation", ["write", "truncate", "chmod", "setxattr", "mmap", "punch"])
@given(TREE)
def test_moves_again_in_the_upper(place: Place, operation: str) -> None:
    """The second time nothing is copied up: the file moves as before, its directory's mtime not.

    Of the directory's ctime nothing is said: it is that of its copy-up, and the kernel may hold
    the one before in its cache until it forgets the inode.
    """
    act, expected = OPERATIONS[operation]
    act(place)
    if operation == "setxattr":
        os.removexattr(place / "a/file", "user.a")
    with stamped({place / name: letters for name, letters in expected.items()}):
        act(place)
