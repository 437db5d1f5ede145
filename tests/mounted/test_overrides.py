"""xattr_permissions=: owners, modes and types in extended attributes, beside fuse-overlayfs."""

import errno
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.mounted.commands import command, unionfs_mount, wait_for_nobody
from tests.mounted.harness import Union, fails_with, needs_root, only_unionfs
from tests.mounted.trees import build
from tests.mounted.users import as_user, in_user_namespace
from tests.mounts import detach

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(90)]

needs_peer = pytest.mark.skipif(
    shutil.which("fuse-overlayfs") is None, reason="fuse-overlayfs is a peer here"
)

ATTRIBUTES = {1: "security.fuseoverlayfs.override_stat", 2: "user.containers.override_stat"}


def seen(root: Path) -> dict[str, tuple[str, int, int, int]]:
    """Type and mode, owner, and device number of everything below `root`, and of `root`."""
    found = {}
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        found[str(path.relative_to(root))] = (
            stat.filemode(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_rdev if stat.S_ISCHR(status.st_mode) else 0,
        )
    return found


def lower_tree(root: Path) -> None:
    build(root, {"file": "lower", "dir/a": "a", "dir/b": "b", "setuid": "s"})
    os.chown(root / "dir/b", 1000, 1000)
    (root / "setuid").chmod(0o4755)


def make(root: Path) -> None:
    (root / "new").write_text("new")
    (root / "made").mkdir()
    (root / "made/x").write_text("x")


def chown(root: Path) -> None:
    os.chown(root / "new", 5, 6)
    os.chown(root / "file", 70000, 70001)
    os.chown(root / "dir", 7, 8)
    os.chown(root / "setuid", 9, 9)


def chmod(root: Path) -> None:
    (root / "new").chmod(0o6711)
    (root / "dir").chmod(0o2775)
    (root / "dir/b").chmod(0o400)


@pytest.fixture
def peer(place: Path) -> Path:
    directory = place / "peer"
    for name in ("upper", "work", "mnt"):
        (directory / name).mkdir(parents=True)
    return directory


def mount_peer(peer: Path, options: str) -> Path:
    subprocess.run(["fuse-overlayfs", "-o", options, peer / "mnt"], check=True, capture_output=True)
    return peer / "mnt"


@needs_peer
@pytest.mark.parametrize("level", [1, 2])
def test_what_fuse_overlayfs_has_kept_is_shown(place: Path, peer: Path, level: int) -> None:
    union = Union(place, writable=False)
    lower_tree(union.lower)
    branches = f"lowerdir={union.lower},upperdir={peer}/upper,workdir={peer}/work"
    mounted = mount_peer(peer, f"{branches},xattr_permissions={level}")
    try:
        make(mounted)
        chmod(mounted)
        chown(mounted)  # last: in 1.10 chmod gives the file back to root
        before = seen(mounted)
    finally:
        detach(mounted)
    assert before["new"][1:3] == (5, 6)
    # As a lower, and as an upper with the option and without.
    union.lowers = [peer / "upper", *union.lowers]
    with union:
        assert seen(union.mountpoint) == before
    union.lowers, union.upper = union.lowers[1:], peer / "upper"
    with union:
        assert seen(union.mountpoint) == before
        (union.mountpoint / "new").chmod(0o600)
    union.options = {"xattr_permissions": level}
    with union:
        assert seen(union.mountpoint) == before | {"new": ("-rw-------", 5, 6, 0)}


@needs_peer
@pytest.mark.parametrize("level", [1, 2])
def test_fuse_overlayfs_shows_what_is_kept_here(place: Path, peer: Path, level: int) -> None:
    union = Union(place, xattr_permissions=level)
    assert union.upper is not None
    lower_tree(union.lower)
    with union:
        make(union.mountpoint)
        chown(union.mountpoint)  # first: it takes set-id bits away, but not in fuse-overlayfs
        chmod(union.mountpoint)
        before = seen(union.mountpoint)
        assert (union.mountpoint / "dir/b").read_text() == "b"
    stored = (union.upper / "new").stat()
    assert (stored.st_uid, stat.S_IMODE(stored.st_mode)) == (0, 0o711)
    assert os.getxattr(union.upper / "new", ATTRIBUTES[level]) == b"5:6:06711:file"
    mounted = mount_peer(peer, f"lowerdir={union.upper}:{union.lower}")
    try:
        assert seen(mounted) == before
    finally:
        detach(mounted)


@pytest.mark.parametrize("level", [1, 2])
def test_every_type_of_file(place: Path, level: int) -> None:
    union = Union(place, xattr_permissions=level)
    assert union.upper is not None
    with union:
        root = union.mountpoint
        before = os.umask(0)
        try:
            os.mkfifo(root / "fifo", 0o640)
            os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(8, 1))
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(root / "sock"))
            os.symlink("fifo", root / "link")
        finally:
            os.umask(before)
        for name in ("fifo", "null", "disk", "sock"):
            os.chown(root / name, 5, 6)
        shown = {
            ".": seen(root)["."],
            "fifo": ("prw-r-----", 5, 6, 0),
            "null": ("crw-rw-rw-", 5, 6, os.makedev(1, 3)),
            "disk": ("brw-rw----", 5, 6, 0),
            "sock": ("srwxrwxrwx", 5, 6, 0),
            "link": ("lrwxrwxrwx", 0, 0, 0),
        }
        assert seen(root) == shown
        assert (root / "null").read_bytes() == b""
        with os.scandir(root) as entries:
            listed = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
        assert not any(listed.values()), listed
        union.remount()
        assert seen(root) == shown
        assert os.listxattr(root / "fifo") == []
    types = {path.name: stat.S_IFMT(path.lstat().st_mode) for path in union.upper.iterdir()}
    assert types == {
        **dict.fromkeys(("fifo", "null", "disk", "sock"), stat.S_IFREG),
        "link": stat.S_IFLNK,
    }


def test_a_user_namespace_with_one_id_can_give_files_away(place: Path) -> None:
    union = Union(place)
    assert union.upper is not None
    build(union.lower, {"file": "lower", "dir/x": "x"})
    mount = f"""{command("unionfs-mount")} -o xattr_permissions=2 \\
        {union.lower} {union.upper} {union.mountpoint}"""
    script = f"""
        set -e
        {mount}
        cd {union.mountpoint}
        umask 022
        echo new > new
        chmod 4755 new
        mkfifo fifo
        ln -s new link
        chown -h 0:0 link
        find . -printf '%p %M %U %G\\n' | sort
        cd /
        umount {union.mountpoint}
        {mount}
        cd {union.mountpoint}
        find . -printf '%p %M %U %G\\n' | sort
        getfattr -m - -d new dir
        cd /
        umount {union.mountpoint}
    """
    listing = (
        ". drwxr-xr-x 0 0\n./dir drwxr-xr-x 0 0\n./dir/x -rw-r--r-- 0 0\n"
        "./fifo prw-r--r-- 0 0\n./file -rw-r--r-- 0 0\n"
        "./link lrwxrwxrwx 0 0\n./new -rwsr-xr-x 0 0\n"
    )
    assert in_user_namespace(script, "0 0 1") == (0, 2 * listing)
    wait_for_nobody(place)
    assert stat.S_IMODE((union.upper / "new").stat().st_mode) == 0o755
    # Where more ids are mapped the same upper can hold them, though the daemon has one.
    with union:
        os.chown(union.mountpoint / "dir", 1000, 1001)
        assert seen(union.mountpoint)["dir"] == ("drwxr-xr-x", 1000, 1001, 0)
    assert (union.upper / "dir").stat().st_uid == 0


def test_the_kernel_checks_what_the_record_says(place: Path) -> None:
    union = Union(place, xattr_permissions=2)
    with union:
        root = union.mountpoint
        (root / "private").write_text("private")
        os.chown(root / "private", 1000, 1000)
        (root / "private").chmod(0o600)
        assert as_user(1000, (root / "private").read_text) == "private"
        as_user(1000, lambda: (root / "private").chmod(0o644))
        assert as_user(1001, (root / "private").read_text) == "private"
        fails_with(errno.EACCES, lambda: as_user(1001, lambda: (root / "private").write_text("")))
        fails_with(errno.EPERM, lambda: as_user(1001, lambda: (root / "private").chmod(0o666)))
        (root / "private").chmod(0o4755)
        as_user(1000, lambda: (root / "private").write_text("changed"))
        assert stat.S_IMODE((root / "private").stat().st_mode) == 0o755


def test_no_acls(place: Path) -> None:
    for options in ({"acls": False}, {"xattr_permissions": 2}):
        union = Union(place, **options)
        with union:
            file = union.mountpoint / "file"
            file.touch()
            result = subprocess.run(
                ["setfacl", "-m", "u:5:r", file], capture_output=True, text=True
            )
            assert result.returncode != 0
            assert "not supported" in result.stderr


def test_acls_of_the_branches_do_not_count_with_noacl(place: Path) -> None:
    union = Union(place, acls=False)
    assert union.upper is not None
    for branch in (union.lower, union.upper):
        (branch / "dir").mkdir()
        subprocess.run(["setfacl", "-d", "-m", "u:5:rwx,g::---,o::---", branch / "dir"], check=True)
    build(union.lower, {"file": "x"})
    (union.lower / "file").chmod(0o600)
    subprocess.run(["setfacl", "-m", "u:5:r", union.lower / "file"], check=True)
    with union:
        root = union.mountpoint
        fails_with(errno.EACCES, lambda: as_user(5, (root / "file").read_text))
        assert os.listxattr(root / "file") == []
        before = os.umask(0o022)
        try:
            (root / "dir/new").touch(0o666)
            (root / "dir/sub").mkdir(0o777)
        finally:
            os.umask(before)
        assert stat.filemode((root / "dir/new").stat().st_mode) == "-rw-r--r--"
        assert stat.filemode((root / "dir/sub").stat().st_mode) == "drwxr-xr-x"
        (root / "file").chmod(0o640)
    for name in ("new", "sub"):
        assert os.listxattr(union.upper / "dir" / name) == []
    # Nothing is lost for a mount that has them.
    assert "system.posix_acl_access" in os.listxattr(union.upper / "file")


def test_another_attribute_than_the_uppers_is_refused(place: Path) -> None:
    union = Union(place)
    branches = f"lowerdir={union.lower},upperdir={union.upper}"
    for level, other in ((2, 1), (1, 2)):
        assert union.upper is not None
        os.setxattr(union.upper, ATTRIBUTES[level], b"0:0:0755:dir")
        result = unionfs_mount("-o", f"{branches},xattr_permissions={other}", union.mountpoint)
        assert result.returncode == 22
        assert ATTRIBUTES[level] in result.stderr
        os.removexattr(union.upper, ATTRIBUTES[level])


def test_what_only_root_may_keep_is_refused_to_others(place: Path) -> None:
    union = Union(place)
    mount = f"{command('unionfs-mount')} -o xattr_permissions=1"
    script = f"{mount} {union.lower} {union.upper} {union.mountpoint}"
    status, output = in_user_namespace(script, "0 0 1")
    assert status == 19
    assert "use xattr_permissions=2" in output


def test_link_counts_of_directories_can_be_static(place: Path) -> None:
    union = Union(place, static_nlink=True)
    with union:
        (union.mountpoint / "dir/sub").mkdir(parents=True)
        (union.mountpoint / "file").touch()
        os.link(union.mountpoint / "file", union.mountpoint / "second")
        assert (union.mountpoint / "dir").stat().st_nlink == 1
        assert union.mountpoint.stat().st_nlink == 1
        assert (union.mountpoint / "file").stat().st_nlink == 2
