"""Ids of owners that differ between the branches and the union, without a mount."""

import os
import stat
import struct
from collections.abc import Iterator
from errno import EINVAL, ENODATA, EOVERFLOW, EPERM
from functools import partial
from pathlib import Path

import pytest

from tests.mounted.harness import fails_with, needs_root
from tests.tree.union import Union
from unionfs.namespaces import Unmapped

pytestmark = [needs_root, pytest.mark.timeout(60)]

#: As podman writes --userns=keep-id for user 1000, and a shorter one for groups.
UIDS = ((0, 1, 1000), (1000, 0, 1), (1001, 1001, 64536))
GIDS = ((0, 500, 10),)
NOBODY = 2**32 - 1

ACL = "system.posix_acl_access"
CAPABILITY = "security.capability"


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A value of the ACL attributes, of (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def capability(root: int | None = None) -> bytes:
    """cap_net_raw+ep; with `root`, of the user namespaces in which that user is root."""
    if root is None:
        return struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    return struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, root)


@pytest.fixture
def union(tmp_path: Path) -> Iterator[Union]:
    union = Union(tmp_path, uid_map=UIDS, gid_map=GIDS)
    yield union
    union.restart()


def owner(status: os.stat_result) -> tuple[int, int]:
    return status.st_uid, status.st_gid


def disk_owner(path: Path) -> tuple[int, int]:
    return owner(os.lstat(path))


@pytest.mark.parametrize(
    ("disk", "shown"),
    [
        ((0, 0), (1, 500)),
        ((999, 9), (1000, 509)),
        ((1000, 9), (0, 509)),
        ((1001, 9), (1001, 509)),
        ((65537, 10), (NOBODY, NOBODY)),
    ],
)
def test_branches_hold_one_id_and_the_union_shows_another(
    union: Union, disk: tuple[int, int], shown: tuple[int, int]
) -> None:
    file = union.lower / "file"
    file.write_bytes(b"x")
    os.chown(file, *disk)
    node, status = union.tree.lookup(1, b"file")
    assert owner(status) == owner(union.tree.getattr(node)) == shown


def test_a_copy_keeps_the_ids_of_the_branch(union: Union) -> None:
    file = union.lower / "file"
    file.write_bytes(b"x")
    os.chown(file, 70000, 70001)
    os.setxattr(file, ACL, acl((1, 6, 0), (2, 4, 3), (4, 4, 0), (8, 2, 70), (16, 6, 0), (32, 4, 0)))
    union.write("file", b"y")
    assert disk_owner(union.upper / "file") == (70000, 70001)
    assert os.getxattr(union.upper / "file", ACL) == os.getxattr(file, ACL)


def test_a_new_file_belongs_to_its_creator(union: Union) -> None:
    made = {
        "file": union.create("file", uid=0, gid=500),
        "directory": union.mkdir("directory", uid=0, gid=500),
        "link": union.symlink("x", "link", uid=0, gid=500),
        "fifo": union.mknod("fifo", stat.S_IFIFO | 0o644, uid=0, gid=500),
    }
    for name, node in made.items():
        assert disk_owner(union.upper / name) == (1000, 0), name
        assert owner(union.tree.getattr(node)) == (0, 500), name


def test_the_reply_that_creates_shows_what_a_look_up_shows(union: Union) -> None:
    node, status = union.tree.mknod(1, b"file", stat.S_IFREG | 0o644, uid=1, gid=501)
    assert owner(status) == owner(union.tree.getattr(node)) == (1, 501)
    assert disk_owner(union.upper / "file") == (0, 1)


def test_a_set_group_id_directory_gives_its_group(union: Union) -> None:
    directory = union.lower / "directory"
    directory.mkdir()
    os.chown(directory, 0, 7)
    directory.chmod(0o2775)
    node = union.create("directory/file", uid=1, gid=500)
    assert disk_owner(union.upper / "directory/file") == (0, 7)
    assert owner(union.tree.getattr(node)) == (1, 507)


def test_who_has_no_id_on_disk_creates_what_nobody_owns(union: Union) -> None:
    union.create("file", uid=65538, gid=500)
    union.mkdir("directory", uid=0, gid=0)
    assert disk_owner(union.upper / "file") == (65534, 0)
    assert disk_owner(union.upper / "directory") == (1000, 65534)


def test_chown_writes_the_counterpart(union: Union) -> None:
    (union.lower / "file").touch()
    node = union.node("file")
    assert owner(union.tree.setattr(node, uid=0, gid=502)) == (0, 502)
    assert disk_owner(union.upper / "file") == (1000, 2)
    assert owner(union.tree.setattr(node, gid=503)) == (0, 503)
    assert disk_owner(union.upper / "file") == (1000, 3)


def test_an_owner_without_a_counterpart_is_refused_before_anything_changes(union: Union) -> None:
    (union.lower / "file").write_bytes(b"data")
    node = union.node("file")
    fails_with(EINVAL, lambda: union.tree.setattr(node, uid=65538, size=0))
    fails_with(EINVAL, lambda: union.tree.setattr(node, uid=0, gid=0))
    assert union.read("file") == b"data"
    assert os.listdir(union.upper) == []


def test_the_ids_in_an_acl_are_mapped_both_ways(union: Union) -> None:
    (union.lower / "file").touch()
    node = union.node("file")
    shown = acl((1, 6, 0), (2, 4, 0), (4, 4, 0), (8, 2, 503), (16, 6, 0), (32, 4, 0))
    union.tree.setxattr(node, ACL, shown)
    on_disk = acl(
        (1, 6, NOBODY), (2, 4, 1000), (4, 4, NOBODY), (8, 2, 3), (16, 6, NOBODY), (32, 4, NOBODY)
    )
    assert os.getxattr(union.upper / "file", ACL) == on_disk
    read = struct.iter_unpack("<HHI", union.tree.getxattr(node, ACL)[4:])
    assert [entry for entry in read if entry[0] in (2, 8)] == [(2, 4, 0), (8, 2, 503)]


def test_an_acl_about_nobody_here_is_shown_without_that_entry(union: Union) -> None:
    file = union.lower / "file"
    file.touch()
    os.setxattr(file, ACL, acl((1, 6, 0), (2, 4, 70000), (4, 4, 0), (16, 6, 0), (32, 4, 0)))
    tags = [
        entry[0]
        for entry in struct.iter_unpack("<HHI", union.tree.getxattr(union.node("file"), ACL)[4:])
    ]
    assert tags == [1, 4, 16, 32]
    broken = acl((1, 6, 0), (2, 4, 65538), (4, 4, 0), (16, 6, 0), (32, 4, 0))
    fails_with(EINVAL, lambda: union.tree.setxattr(union.node("file"), ACL, broken))


def test_a_capability_names_the_root_that_is_shown(union: Union) -> None:
    file = union.lower / "file"
    file.touch()
    os.setxattr(file, CAPABILITY, capability())
    node = union.node("file")
    assert union.tree.getxattr(node, CAPABILITY) == capability(1)
    union.tree.setxattr(node, CAPABILITY, capability(1))
    assert os.getxattr(union.upper / "file", CAPABILITY) == capability()
    # User 1000 of the branches is shown as 0, whose capabilities need no name.
    union.tree.setxattr(node, CAPABILITY, capability())
    assert os.getxattr(union.upper / "file", CAPABILITY) == capability(1000)
    assert union.tree.getxattr(node, CAPABILITY) == capability()


def test_a_capability_of_nobodys_root_gives_nothing(union: Union) -> None:
    file = union.lower / "file"
    file.touch()
    os.setxattr(file, CAPABILITY, capability(70000))
    node = union.node("file")
    fails_with(ENODATA, lambda: union.tree.getxattr(node, CAPABILITY))
    fails_with(EPERM, lambda: union.tree.setxattr(node, CAPABILITY, capability(65538)))


def test_a_file_of_an_owner_without_an_id_here_is_not_copied(tmp_path: Path) -> None:
    """As in a user namespace in which nobody has the overflow ids, here 5 and 6."""
    union = Union(tmp_path, unmapped=Unmapped(5, 6))
    for name, ids in (("user", (5, 0)), ("group", (0, 6)), ("known", (6, 5))):
        (union.lower / name).touch()
        os.chown(union.lower / name, *ids)
        (union.lower / name).chmod(0o640)
    assert owner(union.stat("user")) == (NOBODY, 0)
    assert owner(union.stat("group")) == (0, NOBODY)
    assert owner(union.stat("known")) == (6, 5)
    for node in map(union.node, ("user", "group")):
        fails_with(EOVERFLOW, partial(union.tree.setattr, node, uid=0, gid=0))
    assert os.listdir(union.upper) == os.listdir(union.work) == []
    union.tree.setattr(union.node("known"), mode=0o600)
    # Without rights of its own a group is no reason to keep the owner out.
    (union.lower / "group").chmod(0o644)
    assert owner(union.stat("group")) == (0, 6)
    # Where every file has one owner, an unknown one is no obstacle.
    union.restart(squash_uid=1, squash_gid=2)
    assert owner(union.tree.setattr(union.node("user"), mode=0o600)) == (1, 2)
    union.restart()


def test_squashed_files_all_have_one_owner(tmp_path: Path) -> None:
    union = Union(tmp_path, squash_uid=5, squash_gid=6)
    (union.lower / "file").touch()
    os.chown(union.lower / "file", 70000, 70001)
    assert owner(union.stat("file")) == owner(union.stat()) == (5, 6)
    node = union.create("new", uid=8, gid=9)
    assert owner(union.tree.getattr(node)) == (5, 6)
    assert disk_owner(union.upper / "new") == (8, 9)
    assert owner(union.tree.setattr(node, uid=10)) == (5, 6)
    assert disk_owner(union.upper / "new") == (10, 9)
    union.restart()


def test_one_kind_squashed_leaves_the_other_alone(tmp_path: Path) -> None:
    union = Union(tmp_path, squash_uid=5, gid_map=GIDS)
    (union.lower / "file").touch()
    os.chown(union.lower / "file", 7, 8)
    node = union.node("file")
    assert owner(union.tree.getattr(node)) == (5, 508)
    fails_with(EINVAL, lambda: union.tree.setattr(node, gid=0))
    union.create("new", uid=1, gid=0)
    assert disk_owner(union.upper / "new") == (1, 65534)
    union.restart()


def test_a_squashed_union_takes_creators_it_has_no_id_for(tmp_path: Path) -> None:
    union = Union(tmp_path, uid_map=UIDS, gid_map=GIDS, squash_uid=5, squash_gid=6)
    node = union.create("new", uid=65538, gid=65538)
    assert disk_owner(union.upper / "new") == (os.geteuid(), os.getegid())
    assert owner(union.tree.setattr(node, uid=65538, gid=65538)) == (5, 6)
    union.restart()
