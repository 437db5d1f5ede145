"""FIFOs and sockets between processes, and inotify(7)."""

import os
import select
import shutil
import socket
import stat
from collections.abc import Callable
from errno import EADDRINUSE, EAGAIN, ECONNREFUSED, ENXIO, EPIPE, ESPIPE

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, opened, raised, write
from tests.posix.calls import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
)
from tests.posix.places import Place
from tests.posix.trees import Dir, File, Hardlink, Special, given

TREE = {
    "fifo": Special(type=stat.S_IFIFO),
    "twin": Hardlink(to="fifo"),
    "file": File(content=b"content"),
    "other": File(),
    "dir": Dir(children={"child": File()}),
    "stale": Special(type=stat.S_IFSOCK),
}


@given(TREE)
def test_fifo_between_processes(place: Place) -> None:
    pid = os.fork()
    if pid == 0:
        with opened(place / "fifo", os.O_WRONLY) as fd:
            os.write(fd, b"through the fifo")
        os._exit(0)
    with opened(place / "fifo") as fd:
        assert os.read(fd, 100) == b"through the fifo"
        assert os.read(fd, 100) == b""
    os.waitpid(pid, 0)
    assert os.stat(place / "fifo").st_size == 0


@given(TREE)
def test_fifo_under_two_names(place: Place) -> None:
    with opened(place / "fifo", os.O_RDWR) as one:
        with opened(place / "twin", os.O_WRONLY | os.O_NONBLOCK) as two:
            os.write(two, b"x")
        assert os.read(one, 1) == b"x"


@given(TREE)
def test_fifo_open_while_it_is_changed(place: Place) -> None:
    """A FIFO that is copied up with somebody at its end stays the same pipe."""
    with opened(place / "fifo", os.O_RDONLY | os.O_NONBLOCK) as reader:
        os.chmod(place / "fifo", 0o622)
        with opened(place / "fifo", os.O_WRONLY | os.O_NONBLOCK) as writer:
            os.write(writer, b"same")
            os.rename(place / "fifo", place / "moved")
            assert os.read(reader, 10) == b"same"
            with fails(EAGAIN):
                os.read(reader, 10)
        assert os.read(reader, 10) == b""


@given(TREE)
def test_fifo_errors(place: Place) -> None:
    with fails(ENXIO):
        os.open(place / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    with opened(place / "fifo", os.O_RDONLY | os.O_NONBLOCK) as reader:
        assert os.read(reader, 1) == b""
        with fails(ESPIPE):
            os.lseek(reader, 0, os.SEEK_SET)
        writer = os.open(place / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    with fails(EPIPE):
        os.write(writer, b"x")


@given(TREE)
def test_fifo_is_polled(place: Place) -> None:
    with opened(place / "fifo", os.O_RDWR | os.O_NONBLOCK) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(0) == []
        os.write(fd, b"x")
        assert poll.poll(0) == [(fd, select.POLLIN)]


def test_regular_files_are_always_ready(place: Place) -> None:
    with opened(place / "new", os.O_CREAT | os.O_RDWR) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLOUT)
        assert poll.poll(0) == [(fd, select.POLLIN | select.POLLOUT)]
        with select.epoll() as epoll, fails(1):  # EPERM: regular files are not for epoll
            epoll.register(fd)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_socket_between_processes(place: Place, kind: int) -> None:
    os.chdir(place.path)
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind("socket")
    assert stat.S_ISSOCK(os.stat("socket").st_mode)
    if kind != socket.SOCK_DGRAM:
        server.listen()
    pid = os.fork()
    if pid == 0:
        client = socket.socket(socket.AF_UNIX, kind)
        client.connect("socket")
        client.send(b"hello")
        os._exit(0)
    end = server if kind == socket.SOCK_DGRAM else server.accept()[0]
    assert end.recv(100) == b"hello"
    os.waitpid(pid, 0)


def test_socket_moves_and_changes(place: Place) -> None:
    os.chdir(place.path)
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    os.chmod("socket", 0o600)
    os.rename("socket", "moved")
    os.link("moved", "twin")
    for name in ("moved", "twin"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(name)
        server.accept()
    os.unlink("moved")
    os.unlink("twin")
    with fails(2):
        socket.socket(socket.AF_UNIX).connect("twin")


@given(TREE)
def test_socket_errors(place: Place) -> None:
    os.chdir(place.path)
    client = socket.socket(socket.AF_UNIX)
    for name in ("stale", "file"):
        with fails(ECONNREFUSED):
            client.connect(name)
    for name in ("stale", "file", "dir", "fifo"):
        with fails(EADDRINUSE):
            socket.socket(socket.AF_UNIX).bind(name)
    os.unlink("stale")
    server = socket.socket(socket.AF_UNIX)
    server.bind("stale")
    with fails(ECONNREFUSED):
        client.connect("stale")
    server.listen()
    client.connect("stale")


@pytest.mark.needs("users")
def test_socket_rights(place: Place) -> None:
    os.chdir(place.path)
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    os.chmod("socket", 0o700)
    assert place.as_user(raised, socket.socket(socket.AF_UNIX).connect, "socket") == 13
    os.chmod("socket", 0o722)
    assert place.as_user(raised, socket.socket(socket.AF_UNIX).connect, "socket") == 0


# -- inotify ------------------------------------------------------------------------------------

#: operation -> the events on its directory, as (mask, name), in this order and among others.
EVENTS: dict[str, tuple[Callable[[Place], object], list[tuple[int, str]]]] = {
    "create": (lambda p: write(p / "new", b""), [(IN_CREATE, "new"), (IN_CLOSE_WRITE, "new")]),
    "write": (
        lambda p: write(p / "file", b"x"),
        [(IN_MODIFY, "file"), (IN_CLOSE_WRITE, "file")],
    ),
    "chmod": (lambda p: os.chmod(p / "file", 0o600), [(IN_ATTRIB, "file")]),
    "utimens": (lambda p: os.utime(p / "file"), [(IN_ATTRIB, "file")]),
    "truncate": (lambda p: os.truncate(p / "file", 1), [(IN_MODIFY, "file")]),
    "setxattr": (lambda p: os.setxattr(p / "file", "user.a", b""), [(IN_ATTRIB, "file")]),
    "mkdir": (lambda p: os.mkdir(p / "new"), [(IN_CREATE | IN_ISDIR, "new")]),
    "symlink": (lambda p: os.symlink("t", p / "new"), [(IN_CREATE, "new")]),
    "link": (lambda p: os.link(p / "file", p / "new"), [(IN_CREATE, "new")]),
    "unlink": (lambda p: os.unlink(p / "file"), [(IN_DELETE, "file")]),
    "rmdir": (
        lambda p: shutil.rmtree(p / "dir"),
        [(IN_DELETE | IN_ISDIR, "dir")],
    ),
    "rename": (
        lambda p: os.rename(p / "file", p / "new"),
        [(IN_MOVED_FROM, "file"), (IN_MOVED_TO, "new")],
    ),
    "rename-over": (
        lambda p: os.rename(p / "file", p / "other"),
        [(IN_MOVED_FROM, "file"), (IN_MOVED_TO, "other")],
    ),
    "rename-dir": (
        lambda p: os.rename(p / "dir", p / "new"),
        [(IN_MOVED_FROM | IN_ISDIR, "dir"), (IN_MOVED_TO | IN_ISDIR, "new")],
    ),
}


@pytest.mark.parametrize("operation", EVENTS)
@given(TREE)
def test_inotify_of_a_directory(place: Place, operation: str) -> None:
    act, expected = EVENTS[operation]
    watch = calls.Watch(place.path)
    act(place)
    found = [(event.mask, event.name) for event in watch.events()]
    wanted = [event for event in found if event in expected]
    assert list(dict.fromkeys(wanted)) == expected, found


@given(TREE)
def test_inotify_of_a_file(place: Place) -> None:
    watch = calls.Watch(place / "file")
    write(place / "file", b"x")
    os.rename(place / "file", place / "moved")
    os.unlink(place / "moved")
    masks = [event.mask for event in watch.events()]
    for mask in (IN_MODIFY, IN_CLOSE_WRITE, IN_MOVE_SELF, IN_ATTRIB, IN_DELETE_SELF):
        assert mask in masks, masks


@given(TREE)
def test_inotify_survives_copy_up(place: Place) -> None:
    """The watch is on the inode: the copy must be the same one."""
    watch = calls.Watch(place / "file", IN_MODIFY)
    with opened(place / "file", os.O_WRONLY) as fd:
        os.write(fd, b"first")
        assert len(watch.events()) == 1
        os.write(fd, b"second")
        assert len(watch.events()) == 1
    write(place / "file", b"third")
    assert watch.events()


@given(TREE)
def test_inotify_moves_have_one_cookie(place: Place) -> None:
    watch = calls.Watch(place.path, IN_MOVED_FROM | IN_MOVED_TO)
    os.rename(place / "file", place / "new")
    one, two = watch.events()
    assert one.cookie == two.cookie != 0
