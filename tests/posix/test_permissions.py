"""Sticky directories, set-group-id inheritance, set-id clearing, immutable files."""

import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Callable
from errno import EACCES, EPERM

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, mode, names, opened, raised, read, umask, write
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, given

OTHER = USER + 1

# -- sticky directories ---------------------------------------------------------------------------

STICKY = {
    "tmp": Dir(
        mode=0o1777,
        children={
            "mine": File(uid=USER),
            "theirs": File(uid=OTHER, mode=0o666),
            "my-dir": Dir(uid=USER),
            "their-dir": Dir(uid=OTHER, mode=0o777),
        },
    ),
    "my-tmp": Dir(mode=0o1777, uid=USER, children={"theirs": File(uid=OTHER)}),
}

STICKY_ACTS: dict[str, Callable[[Place], object]] = {
    "unlink": lambda p: os.unlink(p / "tmp/theirs"),
    "rmdir": lambda p: os.rmdir(p / "tmp/their-dir"),
    "rename-from": lambda p: os.rename(p / "tmp/theirs", p / "tmp/new"),
    "rename-over": lambda p: os.rename(p / "tmp/mine", p / "tmp/theirs"),
    "rename-dir": lambda p: os.rename(p / "tmp/their-dir", p / "tmp/new"),
    "exchange": lambda p: calls.renameat2(p / "tmp/mine", p / "tmp/theirs", calls.RENAME_EXCHANGE),
}


@pytest.mark.needs("users")
@pytest.mark.parametrize("act", STICKY_ACTS)
@given(STICKY)
def test_sticky_protects_others(place: Place, act: str) -> None:
    assert place.as_user(raised, STICKY_ACTS[act], place) == EPERM
    assert names(place / "tmp") == {"mine", "theirs", "my-dir", "their-dir"}


@pytest.mark.needs("users")
@given(STICKY)
def test_sticky_lets_the_owner(place: Place) -> None:
    def act() -> None:
        os.rename(place / "tmp/mine", place / "tmp/mine2")
        os.unlink(place / "tmp/mine2")
        os.rename(place / "tmp/my-dir", place / "tmp/my-dir2")
        os.rmdir(place / "tmp/my-dir2")
        os.unlink(place / "my-tmp/theirs")

    place.as_user(act)
    assert names(place / "tmp") == {"theirs", "their-dir"}


@given({"dir": Dir(mode=0o777)})
def test_sticky_bit_is_kept(place: Place) -> None:
    os.chmod(place / "dir", 0o1777)
    write(place / "dir/new", b"")
    assert mode(place / "dir") == 0o1777


# -- set-group-id directories ---------------------------------------------------------------------

SHARED = {
    "shared": Dir(mode=0o2777, gid=777, children={"file": File(), "sub": Dir(gid=777)}),
    "plain": Dir(mode=0o777, gid=777),
}


@pytest.mark.needs("users")
@pytest.mark.parametrize("parent", ["shared", "plain"])
@pytest.mark.parametrize("kind", ["file", "dir", "symlink", "fifo", "tmpfile", "rewritten"])
@given(SHARED)
def test_group_of_new_entries(place: Place, parent: str, kind: str) -> None:
    path = place / parent + "/new"

    def act() -> None:
        if kind == "dir":
            os.mkdir(path)
        elif kind == "symlink":
            os.symlink("target", path)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "tmpfile":
            fd = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR, 0o600)
            calls.link_proc(fd, path)
        else:
            write(path, b"")
            if kind == "rewritten":
                os.unlink(path)
                write(path, b"again")

    place.as_user(act)
    st = os.lstat(path)
    assert (st.st_uid, st.st_gid) == (USER, 777 if parent == "shared" else GROUP)
    if kind == "dir":
        assert bool(st.st_mode & stat.S_ISGID) == (parent == "shared")


@pytest.mark.needs("users")
@given(SHARED)
def test_set_group_id_is_inherited_down(place: Place) -> None:
    with umask(0):
        os.makedirs(place / "shared/a/b", 0o755)
    assert mode(place / "shared/a/b") & stat.S_ISGID
    assert os.stat(place / "shared/a/b").st_gid == 777


@pytest.mark.needs("users")
@given(SHARED)
def test_new_set_group_id_file_of_a_foreign_group(place: Place) -> None:
    """An executable created set-group-id where the group is not the creator's loses the bit."""

    def act() -> None:
        os.umask(0)
        os.close(os.open(place / "shared/new", os.O_CREAT | os.O_WRONLY, 0o2775))

    place.as_user(act)
    assert mode(place / "shared/new") == 0o775
    place.as_user(os.unlink, place / "shared/new")
    place.as_user(act, groups=[777])
    assert mode(place / "shared/new") == 0o2775


@pytest.mark.needs("users")
@given(SHARED)
def test_moved_in_keeps_its_group(place: Place) -> None:
    write(place / "new", b"")
    group = os.stat(place / "new").st_gid
    os.rename(place / "new", place / "shared/new")
    os.link(place / "shared/new", place / "shared/link")
    assert os.stat(place / "shared/link").st_gid == group


@pytest.mark.needs("users")
@given(
    {
        "shared": Dir(
            mode=0o2777,
            gid=777,
            children={"file": File(content=b"f", gid=5), "dir": Dir(gid=5, children={"x": File()})},
        )
    }
)
def test_copied_up_keeps_its_group(place: Place) -> None:
    """Copies are created in a set-group-id directory and must not take its group."""
    write(place / "shared/file", b"new")
    os.chmod(place / "shared/dir/x", 0o600)
    assert os.stat(place / "shared/file").st_gid == 5
    assert os.stat(place / "shared/dir").st_gid == 5
    assert not mode(place / "shared/dir") & stat.S_ISGID


# -- set-id bits and capabilities under change ----------------------------------------------------

CAPABILITY = b"\x01\x00\x00\x02" + b"\x00\x04\x00\x00" + bytes(12)  # cap_net_bind_service+ep


def _mapped(path: str) -> None:
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 4096) as mapping:
        mapping[0] = 0x21
        mapping.flush()


def _by(path: str, act: Callable[[int], object]) -> None:
    with opened(path, os.O_RDWR) as fd:
        act(fd)


def _range(path: str) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.copy_file_range(fd, fd, 100, 0, 4096)


def _splice(path: str) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"spliced")
    with opened(path, os.O_RDWR) as fd:
        os.splice(reader, fd, 7)


def _direct(path: str) -> None:
    with opened(path, os.O_RDWR | os.O_DIRECT) as fd:
        os.pwritev(fd, [mmap.mmap(-1, 4096)], 0)


CHANGES: dict[str, Callable[[str], object]] = {
    "write": lambda path: _by(path, lambda fd: os.write(fd, b"x")),
    "append": lambda path: _by(path, lambda fd: os.pwrite(fd, b"x", 10_000)),
    "truncate": lambda path: os.truncate(path, 10),
    "ftruncate": lambda path: _by(path, lambda fd: os.ftruncate(fd, 20_000)),
    "open-truncate": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "fallocate": lambda path: _by(path, lambda fd: calls.fallocate(fd, 0, 0, 20_000)),
    "punch": lambda path: _by(path, lambda fd: calls.fallocate(fd, 3, 0, 4096)),
    "copy_file_range": _range,
    "splice": _splice,
    "direct": _direct,
}
each_change = pytest.mark.parametrize("change", CHANGES)
#: One for each way a change reaches the daemon.
SOME = ["write", "truncate", "fallocate", "copy_file_range"]
some_change = pytest.mark.parametrize("change", SOME)
DATA = b"p" * 10_000


@pytest.mark.needs("users")
@each_change
@given({"program": File(content=DATA, mode=0o6777)})
def test_set_id_bits_go_when_a_user_changes_content(place: Place, change: str) -> None:
    place.as_user(CHANGES[change], place / "program")
    assert mode(place / "program") == 0o777


@pytest.mark.needs("users")
@each_change
@given({"program": File(content=DATA, mode=0o4755, uid=USER, gid=GROUP)})
def test_set_id_bits_go_when_the_owner_changes_content(place: Place, change: str) -> None:
    place.as_user(CHANGES[change], place / "program")
    assert mode(place / "program") == 0o755


@pytest.mark.needs("trusted")
@each_change
@given({"program": File(content=DATA, mode=0o6755)})
def test_set_id_bits_stay_when_root_changes_content(place: Place, change: str) -> None:
    """CAP_FSETID, which counts in the first user namespace only."""
    CHANGES[change](place / "program")
    assert mode(place / "program") == 0o6755


# A set-group-id bit of a file that its group may not execute, as Linux has it since 6.2.


@pytest.mark.needs("users")
@each_change
@given({"program": File(content=DATA, mode=0o6666)})
def test_set_group_id_without_execution_goes(place: Place, change: str) -> None:
    place.as_user(CHANGES[change], place / "program", groups=[12, 34])
    assert mode(place / "program") == 0o666


@pytest.mark.needs("users")
@pytest.mark.parametrize(("gid", "groups"), [(GROUP, []), (5, [12, GROUP, 34])])
@some_change
@given({"program": File(content=DATA, mode=0o6666, gid=GROUP)})
def test_set_group_id_without_execution_stays(
    place: Place, change: str, gid: int, groups: list[int]
) -> None:
    """As long as the writer is in the group."""
    place.as_user(CHANGES[change], place / "program", gid=gid, groups=groups)
    assert mode(place / "program") == 0o2666


@pytest.mark.needs("users")
@some_change
@given({"program": File(content=DATA, mode=0o2666, gid=GROUP)})
def test_set_group_id_without_execution_stays_for_root(place: Place, change: str) -> None:
    """CAP_FSETID over the file is enough, in a user namespace too."""
    CHANGES[change](place / "program")
    assert mode(place / "program") == 0o2666


@pytest.mark.needs("users")
@pytest.mark.parametrize("ids", [(-1, -1), (-1, 12), (-1, 34)])
@pytest.mark.parametrize(
    ("groups", "left"), [([12, 34], 0o2666), ([34], 0o666)], ids=["member", "outsider"]
)
@given({"mine": File(mode=0o6666, uid=USER, gid=12)})
def test_set_group_id_without_execution_and_chown(
    place: Place, ids: tuple[int, int], groups: list[int], left: int
) -> None:
    """By the owner; it is the group before the change that counts."""
    if ids[1] == 12 and left == 0o666:
        place.as_user(raised, os.chown, place / "mine", *ids, groups=groups)
        return
    place.as_user(os.chown, place / "mine", *ids, groups=groups)
    assert mode(place / "mine") == left


@pytest.mark.needs("users")
@given({"program": File(content=DATA, mode=0o6777)})
def test_set_id_bits_and_the_second_write(place: Place) -> None:
    """The bits come back by chmod between two writes of one descriptor and go again."""
    with opened(place / "program", os.O_RDWR) as fd:

        def act() -> None:
            os.write(fd, b"x")

        place.as_user(act)
        assert mode(place / "program") == 0o777
        os.chmod(place / "program", 0o6777)
        place.as_user(act)
        assert mode(place / "program") == 0o777


@pytest.mark.needs("users")
@given({"program": File(content=DATA, mode=0o6777)})
def test_reading_and_opening_keep_set_id_bits(place: Place) -> None:
    place.as_user(read, place / "program")
    place.as_user(raised, os.open, place / "program", os.O_RDWR)
    assert mode(place / "program") == 0o6777


@pytest.mark.needs("trusted")
@each_change
@given({"able": File(content=DATA, mode=0o777, xattrs={"security.capability": CAPABILITY})})
def test_capabilities_go_when_content_changes(place: Place, change: str) -> None:
    """Even root's own write takes them away."""
    CHANGES[change](place / "able")
    assert "security.capability" not in os.listxattr(place / "able")


@pytest.mark.needs("trusted")
@given({"able": File(content=DATA, mode=0o755, xattrs={"security.capability": CAPABILITY})})
def test_capabilities_stay_otherwise(place: Place) -> None:
    os.chmod(place / "able", 0o711)
    os.utime(place / "able")
    os.rename(place / "able", place / "moved")
    os.link(place / "moved", place / "again")
    assert os.getxattr(place / "again", "security.capability") == CAPABILITY


@pytest.mark.needs("users")
def test_rename_keeps_set_id_bits(place: Place) -> None:
    write(place / "new", b"")
    os.chmod(place / "new", 0o6755)
    os.rename(place / "new", place / "moved")
    assert mode(place / "moved") == 0o6755


# -- immutable and append-only --------------------------------------------------------------------

_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602  # FS_IOC_*FLAGS of linux/fs.h
_IMMUTABLE, _APPEND = 0x10, 0x20


def _set_flag(path: str, flag: int) -> None:
    with opened(path) as fd:
        value = struct.unpack("l", fcntl.ioctl(fd, _GETFLAGS, bytes(8)))[0]
        value = value & ~(_IMMUTABLE | _APPEND) | flag
        fcntl.ioctl(fd, _SETFLAGS, struct.pack("l", value))


@pytest.mark.needs("flags")
def test_immutable(place: Place) -> None:
    write(place / "file", b"fixed")
    _set_flag(place / "file", _IMMUTABLE)
    try:
        acts: list[Callable[[], object]] = [
            lambda: os.open(place / "file", os.O_WRONLY),
            lambda: os.truncate(place / "file", 0),
            lambda: os.chmod(place / "file", 0o600),
            lambda: os.chown(place / "file", 1, 1),
            lambda: os.unlink(place / "file"),
            lambda: os.rename(place / "file", place / "new"),
            lambda: os.link(place / "file", place / "new"),
            lambda: os.utime(place / "file", (1, 1)),
            lambda: os.setxattr(place / "file", "user.a", b""),
        ]
        for number, act in enumerate(acts):
            assert raised(act) in (EPERM, EACCES), number
        assert read(place / "file") == b"fixed"
    finally:
        _set_flag(place / "file", 0)
    os.unlink(place / "file")


@pytest.mark.needs("flags")
def test_append_only(place: Place) -> None:
    write(place / "file", b"log")
    _set_flag(place / "file", _APPEND)
    try:
        with fails(EPERM):
            os.open(place / "file", os.O_WRONLY)
        with fails(EPERM):
            os.open(place / "file", os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
        with opened(place / "file", os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, b" line")
        with fails(EPERM):
            os.truncate(place / "file", 0)
        with fails(EPERM):
            os.unlink(place / "file")
        assert read(place / "file") == b"log line"
    finally:
        _set_flag(place / "file", 0)


@pytest.mark.needs("flags")
@given({"dir": Dir(children={"file": File()})})
def test_immutable_directory(place: Place) -> None:
    _set_flag(place / "dir", _IMMUTABLE)
    try:
        for act in (
            lambda: write(place / "dir/new", b""),
            lambda: os.unlink(place / "dir/file"),
            lambda: os.mkdir(place / "dir/sub"),
            lambda: os.rename(place / "dir/file", place / "moved"),
        ):
            assert raised(act) in (EPERM, EACCES)
        write(place / "dir/file", b"its content is free")
    finally:
        _set_flag(place / "dir", 0)
