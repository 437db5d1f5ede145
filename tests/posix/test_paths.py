"""Resolving a path: the errors that every call with a path shares."""

import ctypes
import os
from collections.abc import Callable
from errno import EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, raised, read, same, write
from tests.posix.places import Place
from tests.posix.trees import Dir, File, Symlink, given

TREE = {
    "file": File(content=b"content"),
    "loop": Symlink(target="loop"),
    "ping": Symlink(target="pong"),
    "pong": Symlink(target="ping"),
    "dangling": Symlink(target="nowhere"),
    "closed": Dir(mode=0o700, children={"name": File()}),
    "open": Dir(children={"name": File(content=b"inside")}),
    "to-open": Symlink(target="open"),
}


def _close(fd: int) -> None:
    os.close(fd)


#: Each with one path that names an existing thing, or one that shall exist.
CALLS: dict[str, Callable[[str, Place], object]] = {
    "open": lambda path, _: _close(os.open(path, os.O_RDONLY)),
    "open-write": lambda path, _: _close(os.open(path, os.O_WRONLY)),
    "open-create": lambda path, _: _close(os.open(path, os.O_CREAT | os.O_WRONLY)),
    "open-path": lambda path, _: _close(os.open(path, os.O_PATH)),
    "open-directory": lambda path, _: _close(os.open(path, os.O_DIRECTORY)),
    "open-tmpfile": lambda path, _: _close(os.open(path, os.O_TMPFILE | os.O_WRONLY)),
    "stat": lambda path, _: os.stat(path),
    "lstat": lambda path, _: os.lstat(path),
    "statx": lambda path, _: calls.statx(path),
    "statfs": lambda path, _: os.statvfs(path),
    "access": lambda path, _: _access(path),
    "chmod": lambda path, _: os.chmod(path, 0o600),
    "chown": lambda path, _: os.chown(path, -1, -1),
    "lchown": lambda path, _: os.lchown(path, -1, -1),
    "utimens": lambda path, _: os.utime(path),
    "truncate": lambda path, _: os.truncate(path, 0),
    "unlink": lambda path, _: os.unlink(path),
    "rmdir": lambda path, _: os.rmdir(path),
    "mkdir": lambda path, _: os.mkdir(path),
    "mkfifo": lambda path, _: os.mkfifo(path),
    "symlink": lambda path, _: os.symlink("target", path),
    "readlink": lambda path, _: os.readlink(path),
    "link-from": lambda path, place: os.link(path, place / "new"),
    "link-to": lambda path, place: os.link(place / "file", path),
    "rename-from": lambda path, place: os.rename(path, place / "new"),
    "rename-to": lambda path, place: os.rename(place / "file", path),
    "getxattr": lambda path, _: os.getxattr(path, "user.a"),
    "setxattr": lambda path, _: os.setxattr(path, "user.a", b"1"),
    "listxattr": lambda path, _: os.listxattr(path),
    "removexattr": lambda path, _: os.removexattr(path, "user.a"),
    "chdir": lambda path, _: os.chdir(path),
    "execve": lambda path, _: os.execv(path, ["x"]),
    "inotify": lambda path, _: os.close(calls.Watch(path).fd),
}


def _access(path: str) -> None:
    # os.access hides the errno; faccessat by way of os.open would be another call.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.access(os.fsencode(path), os.F_OK) < 0:
        raise OSError(ctypes.get_errno(), "access")


every_call = pytest.mark.parametrize("call", CALLS)


@every_call
@given(TREE)
def test_parent_missing(place: Place, call: str) -> None:
    with fails(ENOENT):
        CALLS[call](place / "missing/name", place)


@every_call
@given(TREE)
def test_parent_is_a_file(place: Place, call: str) -> None:
    with fails(ENOTDIR):
        CALLS[call](place / "file/name", place)


@every_call
@given(TREE)
def test_name_too_long(place: Place, call: str) -> None:
    with fails(ENAMETOOLONG):
        CALLS[call](place / ("n" * 256), place)


@every_call
@given(TREE)
def test_parent_is_a_loop(place: Place, call: str) -> None:
    with fails(ELOOP):
        CALLS[call](place / "ping/name", place)


@every_call
@pytest.mark.needs("users")
@given(TREE)
def test_parent_not_searchable(place: Place, call: str) -> None:
    assert place.as_user(raised, CALLS[call], place / "closed/name", place) == EACCES


#: Calls that stop at a file where "file/" wants a directory.
@pytest.mark.parametrize(
    "call",
    [
        "open", "open-write", "stat", "lstat", "statx", "chmod", "truncate", "unlink", "readlink",
        "rename-from", "getxattr", "chdir", "execve", "access", "utimens", "link-from",
    ],
)  # fmt: skip
@given(TREE)
def test_trailing_slash_on_a_file(place: Place, call: str) -> None:
    with fails(ENOTDIR):
        CALLS[call](place / "file/", place)


@pytest.mark.parametrize(
    "call", ["open", "stat", "chmod", "truncate", "getxattr", "chdir", "utimens", "statfs"]
)
@given(TREE)
def test_last_link_dangles(place: Place, call: str) -> None:
    with fails(ENOENT):
        CALLS[call](place / "dangling", place)


@pytest.mark.parametrize("call", ["open", "open-create", "stat", "chmod", "truncate", "chdir"])
@given(TREE)
def test_last_link_is_a_loop(place: Place, call: str) -> None:
    with fails(ELOOP):
        CALLS[call](place / "loop", place)


@given(TREE)
def test_path_of_path_max(place: Place) -> None:
    longest = place.path + "/" + "./" * ((4095 - len(place.path) - 5) // 2)
    longest += "/" * (4095 - len(longest) - 4) + "file"
    assert len(longest) == 4095
    assert read(longest) == b"content"
    with fails(ENAMETOOLONG):
        os.stat(longest[:-4] + "/file")


def test_empty_path(place: Place) -> None:
    os.chdir(place.path)
    with fails(ENOENT):
        os.stat("")


@given(TREE)
def test_through_a_link_to_a_directory(place: Place) -> None:
    assert read(place / "to-open/name") == b"inside"
    write(place / "to-open/name", b"changed")
    assert read(place / "open/name") == b"changed"


@given(TREE)
def test_dot_and_dot_dot(place: Place) -> None:
    assert same(place / "open/.", place / "open")
    assert same(place / "open/..", place.path)
    assert same(place / "to-open/../file", place / "file")
    with fails(ENOENT):
        os.stat(place / "missing/../file")
    with fails(ENOTDIR):
        os.stat(place / "file/../file")


@given(TREE)
def test_forty_links_are_followed_and_no_more(place: Place) -> None:
    os.symlink("file", place / "0")
    for step in range(1, 41):
        os.symlink(str(step - 1), place / str(step))
    assert read(place / "39") == b"content"  # MAXSYMLINKS of linux/namei.h is 40
    with fails(ELOOP):
        os.stat(place / "40")


def test_deeper_than_path_max(place: Place) -> None:
    """Directories nest without end; only one path given at once is limited."""
    os.chdir(place.path)
    name = "d" * 250
    for _ in range(20):
        os.mkdir(name)
        os.chdir(name)
    write("leaf", b"deep")
    assert read("leaf") == b"deep"
    os.rename("leaf", "moved")
    assert os.listdir(".") == ["moved"]
    os.unlink("moved")
    for _ in range(20):
        os.chdir("..")
        os.rmdir(name)
    assert os.listdir(place.path) == []


@given({"a": Dir(children={"b": Dir(children={"c": File(content=b"c")})})})
def test_lower_paths_relative_to_a_descriptor(place: Place) -> None:
    directory = os.open(place / "a", os.O_PATH)
    assert os.stat("b/c", dir_fd=directory).st_size == 1
    os.mkdir("b/d", dir_fd=directory)
    os.rename(place / "a", place / "z")
    os.rename("b/c", "b/d/c", src_dir_fd=directory, dst_dir_fd=directory)
    assert read(place / "z/b/d/c") == b"c"
