"""Branches that keep owner, mode and type of their files in an extended attribute, without a mount.

Here the upper is on the same disk as everything; that the daemon itself may do little is for the
mounted tests.
"""

import os
import stat
from collections.abc import Iterator
from errno import ENODATA, EOPNOTSUPP
from functools import partial
from pathlib import Path

import pytest

from tests.mounted.harness import fails_with, needs_root
from tests.tree.union import Union
from unionfs.namespaces import Unmapped

pytestmark = [needs_root, pytest.mark.timeout(60)]

CONTAINERS = "user.containers.override_stat"
FUSE = "user.fuseoverlayfs.override_stat"
SECURITY = "security.fuseoverlayfs.override_stat"
CAPABILITY = "security.capability"
CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")

DEVICE = os.makedev(1, 3)


def mark(root: Path, name: str = CONTAINERS) -> None:
    os.setxattr(root, name, b"0:0:0755:dir")


def record(path: Path, name: str = CONTAINERS) -> str:
    return os.getxattr(path, name, follow_symlinks=False).decode()


@pytest.fixture(params=[CONTAINERS, FUSE, SECURITY])
def name(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def union(tmp_path: Path, name: str) -> Iterator[Union]:
    union = Union(tmp_path)
    mark(union.upper, name)
    yield union
    union.restart()


def seen(status: os.stat_result) -> tuple[str, int, int]:
    return stat.filemode(status.st_mode), status.st_uid, status.st_gid


# --- reading ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("5:6:0640:file", ("-rw-r-----", 5, 6)),
        ("5:6:640", ("-rw-r-----", 5, 6)),
        ("5:6:104755", ("-rwsr-xr-x", 5, 6)),  # fuse-overlayfs 1.10 writes type bits
        ("4294967294:0:0000:file", ("----------", 4294967294, 0)),
        ("5:6:0600:pipe", ("prw-------", 5, 6)),
        ("5:6:0600:socket", ("srw-------", 5, 6)),
        ("5:6:0600:char-1-3", ("crw-------", 5, 6)),
        ("5:6:0600:block-8-17", ("brw-------", 5, 6)),
        ("5:6:0600:dir", ("-rw-------", 5, 6)),  # what is stored is a file
        ("5:6:0600:something", ("-rw-------", 5, 6)),
        # What cannot be understood counts as none.
        ("", ("-rw-r--r--", 0, 0)),
        ("5:6", ("-rw-r--r--", 0, 0)),
        ("root:0:0755:file", ("-rw-r--r--", 0, 0)),
        ("5" * 200, ("-rw-r--r--", 0, 0)),
        # Nor do numbers that are no ids or no mode, in whatever they end when they are cut off.
        ("4294967301:6:0640:file", ("-rw-r--r--", 0, 0)),
        ("5:18446744073709551622:0640:file", ("-rw-r--r--", 0, 0)),
        ("-1:6:0640:file", ("-rw-r--r--", 0, 0)),
        ("5:4294967295:0640:file", ("-rw-r--r--", 0, 0)),
        ("5:6:40000000640:file", ("-rw-r--r--", 0, 0)),
        ("5:6:0600:char-4294967297-3", ("-rw-------", 5, 6)),
        ("5:6:0600:block-1--1", ("-rw-------", 5, 6)),
    ],
)
def test_what_a_record_says(tmp_path: Path, text: str, shown: tuple[str, int, int]) -> None:
    union = Union(tmp_path)
    mark(union.lowers[1])
    file = union.lowers[1] / "file"
    file.touch()
    file.chmod(0o644)
    os.setxattr(file, CONTAINERS, text.encode())
    node, status = union.tree.lookup(1, b"file")
    assert seen(status) == seen(union.tree.getattr(node)) == shown
    listed = {entry.name: entry.type for entry in union.entries()}
    assert listed["file"] == stat.S_IFMT(status.st_mode) >> 12
    union.restart()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0:0:04755:file", "-rw-r--r-- 1000 1001"),
        ("1000:0:02755:file", "-rw-r--r-- 1000 1001"),
        ("1000:1001:0666:char-1-3", "-rw-r--r-- 1000 1001"),
        ("1000:1001:0666:block-8-0", "-rw-r--r-- 1000 1001"),
        ("1000:1001:06711:file", "-rws--x--x 1000 1001"),
        ("1000:1001:0600:pipe", "prw------- 1000 1001"),
    ],
)
def test_what_another_user_may_say_of_his_files(tmp_path: Path, text: str, shown: str) -> None:
    """No more than he could do to them: he can write the attribute himself."""
    union = Union(tmp_path)
    mark(union.lower)
    file = union.lower / "file"
    file.touch()
    file.chmod(0o644)
    os.chown(file, 1000, 1001)
    os.setxattr(file, CONTAINERS, text.encode())
    status = union.tree.lookup(1, b"file")[1]
    assert "{} {} {}".format(*seen(status)) == shown
    listed = {entry.name: entry.type for entry in union.entries()}
    assert listed["file"] == stat.S_IFMT(status.st_mode) >> 12
    # In a user namespace a file of the first one's root is a stranger's: a shared store.
    union.restart(unmapped=Unmapped(1000, 2**32 - 2))
    assert seen(union.stat("file"))[1:] == tuple(map(int, text.split(":")[:2]))
    # Nobody but root writes security.*.
    os.removexattr(union.lower, CONTAINERS)
    os.setxattr(file, SECURITY, text.encode())
    os.setxattr(union.lower, SECURITY, b"0:0:0755:dir")
    union.restart(unmapped=None)
    assert seen(union.stat("file"))[1:] == tuple(map(int, text.split(":")[:2]))
    union.restart()


def test_another_users_file_is_changed_itself(union: Union, name: str) -> None:
    for path in ("bare", "recorded"):
        (union.upper / path).touch()
        (union.upper / path).chmod(0o600)
        os.chown(union.upper / path, 1000, 1000)
    os.setxattr(union.upper / "recorded", name, b"1000:1000:0640:file")
    for path in ("bare", "recorded"):
        node = union.node(path)
        assert seen(union.tree.setattr(node, mode=0o755)) == ("-rwxr-xr-x", 1000, 1000)
        assert seen(union.tree.setattr(node, uid=5)) == ("-rwxr-xr-x", 5, 1000)
        assert seen(union.tree.setattr(node, mode=0o4711)) == ("-rws--x--x", 5, 1000)


def test_device_numbers(union: Union, name: str) -> None:
    (union.upper / "null").touch()
    os.setxattr(union.upper / "null", name, b"0:0:0666:char-1-3")
    (union.upper / "disk").touch()
    os.setxattr(union.upper / "disk", name, b"0:0:0666:block-259-300000")
    assert union.stat("null").st_rdev == DEVICE
    assert union.stat("disk").st_rdev == os.makedev(259, 300000)


def test_a_branch_without_the_mark_is_as_it_looks(tmp_path: Path) -> None:
    union = Union(tmp_path)
    (union.lower / "file").touch()
    (union.lower / "file").chmod(0o644)
    os.setxattr(union.lower / "file", CONTAINERS, b"5:6:0600:file")
    assert seen(union.stat("file")) == ("-rw-r--r--", 0, 0)
    union.restart()


def test_the_root_has_a_record_too(union: Union, name: str) -> None:
    os.setxattr(union.upper, name, b"7:8:0711:dir")
    assert seen(union.stat()) == ("drwx--x--x", 7, 8)
    union.tree.setattr(1, mode=0o750, uid=9)
    assert record(union.upper, name) == "9:8:0750:dir"
    assert seen(union.stat()) == ("drwxr-x---", 9, 8)


def test_a_directory_and_what_is_below_it(union: Union, name: str) -> None:
    for branch in (union.upper, union.lower):
        (branch / "dir").mkdir()
    os.setxattr(union.upper / "dir", name, b"5:6:01777:dir")
    (union.lower / "dir/x").touch()
    assert seen(union.stat("dir")) == ("drwxrwxrwt", 5, 6)
    assert union.names("dir") == ["x"]


# --- creating ---


def test_new_files_keep_everything_in_the_record(union: Union, name: str) -> None:
    caller = {"uid": 1000, "gid": 1001}
    union.create("file", b"data", 0o4750, **caller)
    union.mkdir("dir", 0o1777, **caller)
    union.mknod("fifo", stat.S_IFIFO | 0o600, **caller)
    union.mknod("sock", stat.S_IFSOCK | 0o755, **caller)
    union.mknod("null", stat.S_IFCHR | 0o666, DEVICE, **caller)
    union.mknod("disk", stat.S_IFBLK | 0o660, os.makedev(8, 17), **caller)
    records = {
        "file": "1000:1001:04750:file",
        "dir": "1000:1001:01777:dir",
        "fifo": "1000:1001:0600:pipe",
        "sock": "1000:1001:0755:socket",
        "null": "1000:1001:0666:char-1-3",
        "disk": "1000:1001:0660:block-8-17",
    }
    assert {path: record(union.upper / path, name) for path in records} == records
    shown = {path: seen(union.stat(path)) for path in records}
    union.restart()
    assert {path: seen(union.stat(path)) for path in records} == shown
    assert shown["file"] == ("-rwsr-x---", 1000, 1001)
    assert shown["null"] == ("crw-rw-rw-", 1000, 1001)
    assert union.stat("null").st_rdev == DEVICE
    for path in records:
        stored = (union.upper / path).lstat()
        assert (stored.st_uid, stored.st_gid) == (0, 0)
        assert not stored.st_mode & 0o7000
        assert stat.S_ISDIR(stored.st_mode) == (path == "dir")
        assert stat.S_ISREG(stored.st_mode) == (path != "dir")
    assert union.read("file") == b"data"


def test_nobody_may_do_more_with_what_is_stored_than_the_record_says(
    union: Union, name: str
) -> None:
    for path, mode, stored in (("a", 0, 0o600), ("b", 0o644, 0o644), ("c", 0o6511, 0o711)):
        union.create(path, mode=mode)
        assert stat.S_IMODE((union.upper / path).stat().st_mode) == stored
    union.mkdir("d", 0o000)
    assert stat.S_IMODE((union.upper / "d").stat().st_mode) == 0o700
    union.tree.setattr(union.node("b"), mode=0o4400)
    assert stat.S_IMODE((union.upper / "b").stat().st_mode) == 0o600
    assert record(union.upper / "b", name) == "0:0:04400:file"


def test_the_umask_counts(union: Union, name: str) -> None:
    union.create("file", mode=0o666, umask=0o027)
    assert record(union.upper / "file", name) == "0:0:0640:file"


def test_the_set_group_id_bit_of_a_directory_is_inherited(union: Union, name: str) -> None:
    union.mkdir("dir", 0o2775, uid=1, gid=50)
    union.create("dir/file", uid=2, gid=2)
    union.mkdir("dir/sub", 0o755, uid=2, gid=2)
    assert record(union.upper / "dir/file", name) == "2:50:0644:file"
    assert record(union.upper / "dir/sub", name) == "2:50:02755:dir"


def test_what_can_have_no_record_is_changed_itself(union: Union, name: str) -> None:
    os.mkfifo(union.upper / "fifo", 0o600)
    union.symlink("target", "link", uid=5, gid=6)
    assert seen(union.stat("link")) == ("lrwxrwxrwx", 5, 6)
    assert seen(union.tree.setattr(union.node("link"), uid=7)) == ("lrwxrwxrwx", 7, 6)
    assert seen(union.tree.setattr(union.node("fifo"), uid=8)) == ("prw-------", 8, 0)
    assert seen(union.tree.setattr(union.node("fifo"), mode=0o644)) == ("prw-r--r--", 8, 0)
    if name == SECURITY:  # which every type of file can have
        assert record(union.upper / "link", name) == "7:6:0777:symlink"
        assert record(union.upper / "fifo", name) == "8:0:0644:pipe"
    else:
        assert seen((union.upper / "link").lstat()) == ("lrwxrwxrwx", 7, 6)
        assert seen((union.upper / "fifo").lstat()) == ("prw-r--r--", 8, 0)


# --- changing ---


def test_chown_and_chmod(union: Union, name: str) -> None:
    node = union.create("file", mode=0o6755)
    assert seen(union.tree.setattr(node, mode=0o6711)) == ("-rws--s--x", 0, 0)
    # As chown(2): set-id bits go, and the group alone stays what it was.
    assert seen(union.tree.setattr(node, uid=1000)) == ("-rwx--x--x", 1000, 0)
    assert seen(union.tree.setattr(node, gid=1001)) == ("-rwx--x--x", 1000, 1001)
    assert record(union.upper / "file", name) == "1000:1001:0711:file"
    directory = union.mkdir("dir", 0o2755)
    assert seen(union.tree.setattr(directory, uid=5)) == ("drwxr-sr-x", 5, 0)


def test_chown_takes_a_capability_away(union: Union) -> None:
    node = union.create("file")
    union.tree.setxattr(node, CAPABILITY, CAP_NET_RAW)
    union.tree.setattr(node, mode=0o755)
    assert union.tree.getxattr(node, CAPABILITY) == CAP_NET_RAW
    union.tree.setattr(node, uid=5)
    fails_with(ENODATA, lambda: union.tree.getxattr(node, CAPABILITY))


def test_a_rename_and_a_link_take_the_record_along(union: Union, name: str) -> None:
    union.mknod("fifo", stat.S_IFIFO | 0o600, uid=5)
    union.link("fifo", "second")
    union.rename("fifo", "moved")
    for path in ("second", "moved"):
        assert seen(union.stat(path)) == ("prw-------", 5, 0)
        assert union.stat(path).st_nlink == 2


# --- copying up ---


def below(union: Union) -> None:
    lower = union.lower
    (lower / "dir").mkdir()
    (lower / "dir").chmod(0o2770)
    (lower / "dir/file").write_bytes(b"data")
    (lower / "dir/file").chmod(0o4711)
    os.mkfifo(lower / "dir/fifo")
    os.mknod(lower / "dir/null", stat.S_IFCHR | 0o640, DEVICE)
    for path in ("dir", "dir/file", "dir/fifo", "dir/null"):
        mode = (lower / path).stat().st_mode & 0o7777
        os.chown(lower / path, 1000, 1001)
        (lower / path).chmod(mode)


PATHS = ("dir", "dir/file", "dir/fifo", "dir/null")


def touch_all(union: Union) -> None:
    for path in PATHS:
        union.tree.setattr(union.node(path), mtime_ns=10**18)


def test_what_is_copied_into_such_a_branch_keeps_its_looks(union: Union, name: str) -> None:
    below(union)
    before = {path: seen(union.stat(path)) for path in PATHS}
    touch_all(union)
    assert {path: seen(union.stat(path)) for path in PATHS} == before
    union.restart()
    assert {path: seen(union.stat(path)) for path in PATHS} == before
    assert union.stat("dir/null").st_rdev == DEVICE
    assert record(union.upper / "dir/file", name) == "1000:1001:04711:file"
    assert record(union.upper / "dir/null", name) == "1000:1001:0640:char-1-3"
    stored = (union.upper / "dir/file").stat()
    assert (stored.st_uid, stat.S_IMODE(stored.st_mode)) == (0, 0o711)
    assert union.read("dir/file") == b"data"


def test_what_is_copied_out_of_such_a_branch_becomes_what_it_shows(tmp_path: Path) -> None:
    union = Union(tmp_path)
    mark(union.lower)
    (union.lower / "dir").mkdir()
    records = {
        "dir": "1000:1001:02770:dir",
        "dir/file": "1000:1001:04711:file",
        "dir/fifo": "1000:1001:0600:pipe",
        "dir/null": "1000:1001:0666:char-1-3",
    }
    for path, text in records.items():
        if path != "dir":
            (union.lower / path).write_bytes(b"data" if path == "dir/file" else b"")
        os.setxattr(union.lower / path, CONTAINERS, text.encode())
    before = {path: seen(union.stat(path)) for path in PATHS}
    touch_all(union)
    assert {path: seen(union.stat(path)) for path in PATHS} == before
    for path in PATHS:
        assert seen((union.upper / path).lstat()) == before[path]
        assert CONTAINERS not in os.listxattr(union.upper / path)
    assert (union.upper / "dir/null").stat().st_rdev == DEVICE
    union.restart()


def test_a_file_of_several_names_is_copied_once(union: Union, name: str) -> None:
    (union.lower / "a").write_bytes(b"x")
    os.chown(union.lower / "a", 5, 6)
    os.link(union.lower / "a", union.lower / "b")
    union.tree.setattr(union.node("a"), mode=0o4700)
    union.restart()
    assert seen(union.stat("b")) == seen(union.stat("a")) == ("-rws------", 5, 6)
    assert union.stat("b").st_ino == union.stat("a").st_ino


# --- what is not shown ---


def test_records_are_private(union: Union, name: str) -> None:
    node = union.create("file")
    union.tree.setxattr(node, "user.mine", b"mine")
    assert union.tree.listxattr(node) == ["user.mine"]
    for attribute in (CONTAINERS, FUSE, SECURITY):
        fails_with(ENODATA, partial(union.tree.getxattr, node, attribute))
    # What an application calls so is an attribute like any other, and no record.
    union.tree.setxattr(node, name, b"7:7:0777:file")
    assert union.tree.getxattr(node, name) == b"7:7:0777:file"
    assert seen(union.tree.getattr(node)) == ("-rw-r--r--", 0, 0)
    assert sorted(union.tree.listxattr(node)) == sorted([name, "user.mine"])


def test_there_are_no_acls_where_there_are_records(union: Union) -> None:
    node = union.create("file")
    for attribute in ("system.posix_acl_access", "system.posix_acl_default"):
        fails_with(EOPNOTSUPP, partial(union.tree.getxattr, node, attribute))
        fails_with(EOPNOTSUPP, partial(union.tree.setxattr, node, attribute, b"x"))


def test_records_hold_ids_of_the_branch(tmp_path: Path) -> None:
    union = Union(tmp_path, uid_map=[(0, 100000, 1000)], gid_map=[(0, 200000, 1000)])
    mark(union.upper)
    node = union.create("file", uid=100005, gid=200006)
    assert record(union.upper / "file") == "5:6:0644:file"
    assert seen(union.tree.getattr(node)) == ("-rw-r--r--", 100005, 200006)
    union.restart()
