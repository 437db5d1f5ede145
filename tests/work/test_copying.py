"""Copying a tree with everything in it onto, within and from the mount preserves all of it."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import Union, needs_root
from tests.mounted.trees import assert_same, snapshot
from tests.work.twins import Twins, needs, run, spread

pytestmark = [
    needs_root,
    needs("cp", "rsync", "tar", "setfacl", "setfattr"),
    pytest.mark.timeout(120),
]

MEBIBYTE = 1 << 20


def make_everything(root: Path) -> None:
    """Every type of file, hard links, ACLs, xattrs, holes, odd names, modes, owners and times."""
    (root / "plain").write_text("plain\n")
    (root / "empty").touch()
    (root / "secret").write_text("secret\n")
    (root / "secret").chmod(0o000)
    (root / "setuid").write_text("#!/bin/sh\n")
    os.chown(root / "setuid", 1234, 2345)
    (root / "setuid").chmod(0o6755)
    with open(root / "sparse", "wb") as file:
        for offset in (0, 3 * MEBIBYTE, 9 * MEBIBYTE):
            file.seek(offset)
            file.write(b"island" * 2000)
        file.truncate(16 * MEBIBYTE)
    (root / "links").mkdir()
    (root / "links/one").write_text("one inode\n")
    for name in ("two", "three"):
        os.link(root / "links/one", root / "links" / name)
    (root / "dangling").symlink_to("/nowhere/at/all")
    (root / "to-directory").symlink_to("links")
    os.link(root / "dangling", root / "links/dangling", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "device", 0o660 | 0o020000, os.makedev(1, 3))
    os.mknod(root / "block", 0o600 | 0o060000, os.makedev(7, 99))
    with socket.socket(socket.AF_UNIX) as server:
        # Through a descriptor: the path may be longer than sun_path holds.
        directory = os.open(root, os.O_PATH)
        server.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
    odd = root / "odd names"
    odd.mkdir()
    for name in (b"new\nline", b"\xff\xfe", b" ", b"-rf", "ü".encode(), b"n" * 255, b"a,b:c\\d"):
        Path(os.fsdecode(os.path.join(os.fsencode(odd), name))).write_bytes(name)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    (root / "setgid").mkdir()
    os.chown(root / "setgid", 0, 2345)
    (root / "setgid").chmod(0o2775)
    (root / "acl").mkdir()
    run("setfacl", "-m", "u:1234:rwx,d:u:1234:rx,d:g:2345:rwx", "acl", cwd=root)
    (root / "acl/inherits").write_text("x")
    run("setfacl", "-m", "g:99:r", "acl/inherits", cwd=root)
    os.setxattr(root / "plain", "user.comment", b"hello \x00 world")
    os.setxattr(root / "plain", "trusted.comment", b"for root")
    os.setxattr(root / "links", "user.directory", b"too")
    os.setxattr(root / "dangling", "trusted.link", b"on the link", follow_symlinks=False)
    # cap_net_raw+ep, as setcap(8) writes it (version 2 of the format in linux/capability.h).
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(root / "setuid", "security.capability", capability)
    deep = root
    for level in range(30):
        deep = deep / f"level{level}"
        deep.mkdir()
        (deep / "file").write_text(str(level))
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        moment = 1_500_000_000_123_456_789 + number
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
    os.utime(root, ns=(1_400_000_000_000_000_001, 1_400_000_000_000_000_001))


def cp(source: Path, target: Path) -> None:
    run("cp", "-a", f"{source}/.", target, cwd=source)


def rsync(source: Path, target: Path) -> None:
    run("rsync", "-aHAXS", "--specials", "--devices", f"{source}/", f"{target}/", cwd=source)


def tar(source: Path, target: Path) -> None:
    with subprocess.Popen(
        ["tar", "-C", source, "--xattrs", "--xattrs-include=*", "--acls", "-S",
         "--format=posix", "--sort=name", "--warning=no-file-ignored", "-cf", "-", "."],
        stdout=subprocess.PIPE,
    ) as packing:  # fmt: skip
        subprocess.run(
            ["tar", "-C", target, "--xattrs", "--xattrs-include=*", "--acls", "-S", "-p",
             "--numeric-owner", "-xf", "-"],
            stdin=packing.stdout,
            check=True,
        )  # fmt: skip
    assert packing.returncode == 0


COPIERS = [cp, rsync, tar]
Copier = Callable[[Path, Path], None]


def compare(source: Path, copy: Path, copier: Copier) -> None:
    # tar leaves sockets out: they mean nothing without the process that listens.
    leave_out = ["socket"] if copier is tar else []
    wanted = snapshot(source, mtimes=True, leave_out=leave_out)
    found = snapshot(copy, mtimes=True, leave_out=leave_out)
    assert_same(wanted, found)


@pytest.mark.parametrize("copier", COPIERS, ids=lambda copier: copier.__name__)
def test_onto_the_mount(place: Path, copier: Copier) -> None:
    source = place / "source"
    source.mkdir()
    make_everything(source)
    with Union(place) as union:
        copier(source, union.mountpoint)
        compare(source, union.mountpoint, copier)
        union.remount()
        compare(source, union.mountpoint, copier)
        blocks = (union.mountpoint / "sparse").stat().st_blocks
        assert blocks * 512 < MEBIBYTE, "the holes were filled"


@pytest.mark.parametrize("copier", COPIERS, ids=lambda copier: copier.__name__)
@pytest.mark.parametrize("branches", [1, 3], ids=["one branch", "merged"])
def test_from_the_mount(place: Path, copier: Copier, branches: int) -> None:
    source, copy = place / "source", place / "copy"
    for directory in (source, copy):
        directory.mkdir()
    make_everything(source)
    union = Union(place, lowers=branches)
    spread(source, union.lowers)
    assert union.upper is not None
    shutil.copystat(source, union.upper)  # the root of a union has the upper's attributes
    with union:
        copier(union.mountpoint, copy)
        compare(source, copy, copier)
        assert (copy / "sparse").stat().st_blocks * 512 < MEBIBYTE, "the holes were filled"


@pytest.mark.parametrize("copier", COPIERS, ids=lambda copier: copier.__name__)
def test_reading_leaves_the_upper_empty(place: Path, copier: Copier) -> None:
    copy = place / "copy"
    copy.mkdir()
    union = Union(place)
    make_everything(union.lower)
    with union:
        copier(union.mountpoint, copy)
    assert union.upper is not None
    assert not any(union.upper.iterdir())


def test_rsync_brings_a_changed_tree_up_to_date(twins: Twins, place: Path) -> None:
    source = place / "source"
    source.mkdir()
    make_everything(source)
    (source / "plain").write_text("changed")
    (source / "secret").unlink()
    (source / "empty").unlink()
    (source / "empty").mkdir()
    (source / "empty/now-a-directory").touch()
    run("rm", "-r", "level0/level1/level2", cwd=source)
    (source / "links/one").unlink()
    (source / "links/one").write_text("a file of its own\n")
    os.removexattr(source / "plain", "user.comment")
    run("setfacl", "-b", "acl/inherits", cwd=source)
    # rsync leaves a time alone that is wrong by less than a second.
    for path in (source, *source.rglob("*")):
        os.utime(path, ns=(1, path.lstat().st_mtime_ns // 2), follow_symlinks=False)

    def job(root: Path) -> str:
        return run(
            "rsync", "-aHAXS", "--delete", "--itemize-changes", f"{source}/", f"{root}/", cwd=root
        )

    twins.work(make_everything, job, mtimes=True)


def test_change_everything_in_place(twins: Twins) -> None:
    """Attributes, contents and names of every type of file, each change on its own."""

    def job(root: Path) -> None:
        for path in sorted(root.rglob("*")):
            status = path.lstat()
            if path.is_symlink():
                os.setxattr(path, "trusted.added", b"1", follow_symlinks=False)
                os.chown(path, 3456, 3456, follow_symlinks=False)
            elif status.st_nlink == 1 or path.is_dir():
                path.chmod(status.st_mode ^ 0o022)
                os.setxattr(path, "trusted.added", b"1")
                os.chown(path, 3456, -1)
            os.utime(path, ns=(1, 1_600_000_000_999_999_999), follow_symlinks=False)
        with open(root / "sparse", "r+b") as file:
            file.seek(5 * MEBIBYTE)
            file.write(b"another island")
        with open(root / "plain", "a") as file:
            file.write("more\n")
        os.truncate(root / "setuid", 3)
        for name in ("fifo", "device", "socket", "dangling", "odd names/-rf"):
            os.rename(root / name, root / f"{name}.renamed")
        for name in ("block", "secret", "empty"):
            (root / name).unlink()
        fixed = 1_600_000_000_000_000_000
        for path in (root, *root.rglob("*")):
            os.utime(path, ns=(fixed, fixed), follow_symlinks=False)

    twins.work(make_everything, job, mtimes=True)
