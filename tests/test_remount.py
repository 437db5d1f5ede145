"""remount: what a command line asks for, and what becomes of a mount."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.commands import unionfs_mount
from tests.mounted.harness import needs_root, only_unionfs
from tests.mounts import mounts_below
from unionfs import mounttable, remount
from unionfs.errors import UsageError

MOUNT_8 = "rw,nosuid,relatime,user_id=0,group_id=0,default_permissions,allow_other,max_read=524288"


@pytest.mark.parametrize(
    ("options", "changes", "kept"),
    [
        ("remount,ro", ("ro",), ()),
        ("ro,remount", ("ro",), ()),
        (f"{MOUNT_8},remount,ro", ("rw", "nosuid", "relatime", "ro"), ()),
        ("lowerdir=/a,upperdir=/b,nofail,x-y=z,remount,rw", ("rw",), ("lowerdir", "upperdir")),
        ("uidmapping=0:1:1,2:3:4,remount,nodev", ("nodev",), ("uidmapping",)),
    ],
)
def test_command_lines(options: str, changes: tuple[str, ...], kept: tuple[str, ...]) -> None:
    for words in (["/m"], ["unionfs", "/m"]):
        assert remount.read([options], words) == remount.Remount("/m", changes, kept)


def test_no_remount() -> None:
    assert remount.read(["lowerdir=/remount,ro"], ["/m"]) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [("remount,frob", ["/m"]), ("remount", []), ("remount", ["/a", "/b", "/m"])],
)
def test_wrong_command_lines(options: str, words: list[str]) -> None:
    with pytest.raises(UsageError):
        remount.read([options], words)


@needs_root
def test_the_table_of_mounts(tmp_path: Path) -> None:
    point = tmp_path / os.fsdecode(b"caf\xe9 \\ \r")
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,ro", "my name", point], check=True)
    try:
        mount = mounttable.mounted_at(str(point))
        assert mount is not None
        assert (mount.kind, mount.source) == ("tmpfs", "my name")
        assert mount.device == point.stat().st_dev
        assert mount.flags >= {"nosuid", "ro"}
    finally:
        subprocess.run(["umount", point], check=True)


pytestmark = only_unionfs


def flags(point: Path) -> set[str]:
    (mount,) = mounts_below(point)
    return set(mount.flags)


@needs_root
def test_flags_come_and_go(mounted: Callable[..., Path]) -> None:
    root = mounted(flags=("nosuid", "noatime"))
    (root / "file").write_text("x")
    assert unionfs_mount("-o", "remount,ro,nodev", root).stderr == ""
    assert flags(root) >= {"nosuid", "nodev", "noatime"}
    with pytest.raises(OSError, match="Read-only"):
        (root / "file").write_text("y")
    assert unionfs_mount("-o", "remount,rw,suid", root).stderr == ""
    assert flags(root) >= {"nodev", "noatime"}
    assert "nosuid" not in flags(root)
    (root / "file").write_text("y")


@needs_root
def test_what_cannot_be_had_is_refused_in_words(mounted: Callable[..., Path]) -> None:
    root = mounted()
    for words, status, said in (
        (("-o", "remount,noatime", root), 43, "noatime is decided when the union is mounted"),
        (("-o", "remount,ro", root.parent), 50, "is not on a mounted union"),
        (("-o", "remount,ro", root / "missing"), 30, "No such file or directory"),
    ):
        done = unionfs_mount(*words)
        assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    with open(root / "open", "w"):
        done = unionfs_mount("-o", "remount,ro", root)
        assert (done.returncode, "open for writing" in done.stderr) == (43, True), done.stderr
    done = unionfs_mount("-o", "remount,ro,whiteout=overlay", root)
    assert done.returncode == 0
    assert done.stderr == "unionfs-mount: warning: remount leaves as it is: whiteout\n"


@needs_root
def test_a_mount_that_began_read_only_stays_so(mounted: Callable[..., Path]) -> None:
    root = mounted(read_only=True)
    done = unionfs_mount("-o", "remount,rw", root)
    assert (done.returncode, "without an upper to write to" in done.stderr) == (43, True)
    assert unionfs_mount("-o", "remount,ro,nosuid", root).returncode == 0


@needs_root
def test_mount_8(mounted: Callable[..., Path]) -> None:
    """It runs the program that the filesystem's type names."""
    from tests.mounted.commands import command

    root = mounted()
    script = 'mount -t tmpfs none /usr/local/sbin && ln -s "$0" /usr/local/sbin && exec "$@"'
    within = ("unshare", "-m", "sh", "-c", script)  # ro is of what both namespaces have mounted
    subprocess.run(
        [*within, command("unionfs-mount"), "mount", "-o", "remount,ro", root], check=True
    )
    with pytest.raises(OSError, match="Read-only"):
        (root / "file").touch()
