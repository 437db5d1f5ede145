"""Mounts that show other owners than the branches hold: uidmapping=, gidmapping=, squash_*."""

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.commands import command, unionfs_mount, wait_for_nobody
from tests.mounted.harness import Union, fails_with, needs_root, only_unionfs
from tests.mounted.trees import build
from tests.mounted.users import as_user, in_user_namespace
from tests.mounts import detach

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(90)]

#: What podman writes for --userns=keep-id of user 1000: 0 to 999, 1000, and the rest.
KEEP_ID = ":0:1:1000:1000:0:1:1001:1001:64535"
MAPPED = f"uidmapping={KEEP_ID},gidmapping={KEEP_ID}"

#: Owners on the branches.
OWNERS = {"root": (0, 0), "first": (1, 1), "user": (1000, 1000), "mixed": (1001, 0), "big": (7, 9)}


def lower_tree(root: Path) -> None:
    for name, owner in OWNERS.items():
        build(root, {f"{name}/file": name})
        os.symlink("file", root / name / "link")
        for path in (root / name, root / name / "file", root / name / "link"):
            os.lchown(path, *owner)


def owners(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(root))] = status.st_uid, status.st_gid
    return found


def options(text: str) -> dict[str, Any]:
    """The fields of MountOptions that an option string sets."""
    from unionfs.options import parse

    parsed = parse([text], ["/l", "/m"])
    names = ("uid_map", "gid_map", "squash_uid", "squash_gid")
    return {name: getattr(parsed, name) for name in names}


@pytest.mark.skipif(shutil.which("fuse-overlayfs") is None, reason="fuse-overlayfs is a peer here")
@pytest.mark.parametrize(
    "text",
    [
        MAPPED,
        "uidmapping=0:1000:1:1:110000:65536,gidmapping=0:1000:1:1:110000:65536",
        "uidmapping=0:5:2000",
        "gidmapping=1000:5:2:0:70:1",
        "squash_to_root",
        "squash_to_uid=5,squash_to_gid=6",
        "squash_to_uid=5,squash_to_root",
        f"squash_to_gid=6,uidmapping={KEEP_ID}",
    ],
)
def test_owners_are_those_that_fuse_overlayfs_shows(place: Path, text: str) -> None:
    union = Union(place, **options(text))
    lower_tree(union.lower)
    peer = place / "peer"
    for name in ("upper", "work", "mnt"):
        (peer / name).mkdir(parents=True)
    branches = f"lowerdir={union.lower},upperdir={peer}/upper,workdir={peer}/work"
    subprocess.run(
        ["fuse-overlayfs", "-o", f"{branches},{text}", peer / "mnt"],
        check=True,
        capture_output=True,
    )
    try:
        with union as mount:
            assert owners(mount.mountpoint) == owners(peer / "mnt")
            if "mapping" in text and "gid" in text.replace("squash_to_gid", ""):
                # Ids that are mapped on the mount come back as the same ids on disk.
                for root in (mount.mountpoint, peer / "mnt"):
                    shown = (root / "user/file").lstat()
                    os.chown(root / "root/file", shown.st_uid, shown.st_gid)
            assert owners(mount.mountpoint) == owners(peer / "mnt")
        assert owners(place / "upper") == {
            name: owner
            for name, owner in owners(peer / "upper").items()
            if name in owners(place / "upper")
        }
    finally:
        detach(peer / "mnt")


def test_every_way_to_ask_gives_the_same_owner(place: Path) -> None:
    """READDIRPLUS, LOOKUP, GETATTR and the replies that create, each with cold caches."""
    union = Union(place, timeout=0.0, **options(MAPPED))
    lower_tree(union.lower)
    with union:
        root = union.mountpoint
        looked_up = (root / "root/file").lstat()
        union.remount()
        with os.scandir(root / "root") as entries:
            listed = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}["file"]
        fd = os.open(root / "root/file", os.O_RDONLY)
        asked = os.fstat(fd)
        os.close(fd)
        for status in (looked_up, listed, asked):
            assert (status.st_uid, status.st_gid) == (1, 1)
        os.setegid(1)
        try:
            (root / "made").mkdir(0o777)
            (root / "written").write_text("x")
        finally:
            os.setegid(0)
        assert ((root / "made").stat().st_uid, (root / "made").stat().st_gid) == (0, 1)
        assert ((root / "written").stat().st_uid, (root / "written").stat().st_gid) == (0, 1)
    assert union.upper is not None
    assert owners(union.upper) == {"made": (1000, 0), "written": (1000, 0)}


def test_the_kernel_checks_against_the_owner_that_is_shown(place: Path) -> None:
    union = Union(place, **options(MAPPED))
    lower_tree(union.lower)
    (union.lower / "root").chmod(0o700)
    (union.lower / "root/file").chmod(0o600)
    with union:
        file = union.mountpoint / "root/file"
        assert as_user(1, file.read_text) == "root"
        fails_with(errno.EACCES, lambda: as_user(1000, file.read_text))
        as_user(1, lambda: (union.mountpoint / "root/new").write_text("new"))
        as_user(1, lambda: file.chmod(0o640))
    assert union.upper is not None
    assert owners(union.upper) == {"root": (0, 0), "root/file": (0, 0), "root/new": (0, 0)}


def test_ids_without_a_counterpart(place: Path) -> None:
    """As on the kernel's idmapped mounts: shown as nobody's, and nobody may change such a file."""
    union = Union(place, **options("uidmapping=0:0:1000,gidmapping=0:0:1000"))
    build(union.lower, {"theirs": "theirs", "mine": "mine", "dir/x": "x"})
    for path in ("theirs", "dir"):
        os.chown(union.lower / path, 5000, 5000)
    with union:
        root = union.mountpoint
        theirs = root / "theirs"
        assert (theirs.stat().st_uid, theirs.stat().st_gid) == (65534, 65534)
        assert theirs.read_text() == "theirs"
        fails_with(errno.EACCES, lambda: theirs.write_text("changed"))
        fails_with(errno.EOVERFLOW, theirs.unlink)
        fails_with(errno.EINVAL, lambda: os.chown(root / "mine", 5000, 5000))
        fails_with(errno.EINVAL, lambda: os.chown(root / "mine", -1, 5000))
        os.chown(root / "mine", 999, 999)
        (root / "open").mkdir()
        (root / "open").chmod(0o777)
        as_user(5000, lambda: (root / "open/new").symlink_to("x"))
        assert (root / "open/new").lstat().st_uid == 65534
        # Giving it an owner ends that.
        os.chown(theirs, 5, 5)
        theirs.write_text("changed")
        theirs.unlink()
    assert (union.lower / "theirs").read_text() == "theirs"


def test_keep_id_in_a_user_namespace(place: Path) -> None:
    """What podman does for --userns=keep-id: a container's user namespace in the engine's."""
    union = Union(place)
    assert union.upper is not None
    lower_tree(union.lower)
    (place / "work").mkdir()
    branches = f"lowerdir={union.lower},upperdir={union.upper},workdir={place}/work"
    container = f"""
        set -e
        cd {union.mountpoint}
        stat -c '%n %u %g' root/file user/file mixed/file
        echo more >> root/file
        echo new > new
        mkdir user/d
        chown 1000:1001 new
        setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'echo mine > user/mine'
        stat -c '%n %u %g' new user/d user/mine
    """
    (place / "container").write_text(container)
    engine = f"""
        set -e
        {command("unionfs-mount")} -o {branches},,volatile,{MAPPED} {union.mountpoint}
        mkfifo {place}/end
        unshare --user cat {place}/end > /dev/null &
        while test "$(readlink /proc/$!/ns/user)" = "$(readlink /proc/self/ns/user)"; do :; done
        for kind in uid gid; do
            printf '0 1 1000\\n1000 0 1\\n1001 1001 64535\\n' > /proc/$!/${{kind}}_map
        done
        nsenter --target=$! --user sh {place}/container
        echo > {place}/end
        wait $!
        umount {union.mountpoint}
    """
    status, output = in_user_namespace(engine, "0 0 65536")
    assert (status, output.splitlines()) == (
        0,
        [
            "root/file 0 0",
            "user/file 1000 1000",
            "mixed/file 1001 0",
            "new 1000 1001",
            "user/d 0 0",
            "user/mine 1000 1000",
        ],
    )
    wait_for_nobody(place)
    assert owners(union.upper) == {
        "new": (1000, 1001),
        "root": (0, 0),
        "root/file": (0, 0),
        "user": (1000, 1000),
        "user/d": (0, 0),
        "user/mine": (1000, 1000),
    }


def test_an_engine_with_one_id_squashes(place: Path) -> None:
    """Where a user namespace has one id only, an owner that cannot be given is no error."""
    union = Union(place)
    assert union.upper is not None
    lower_tree(union.lower)
    script = f"""
        set -e
        {command("unionfs-mount")} -o squash_to_uid=0,squash_to_gid=0 \\
            {union.lower} {union.upper} {union.mountpoint}
        cd {union.mountpoint}
        find . -printf '%U %G\\n' | sort -u
        echo more >> user/file
        mkdir made
        find . -printf '%U %G\\n' | sort -u
        cd /
        umount {union.mountpoint}
    """
    assert in_user_namespace(script, "0 0 1") == (0, "0 0\n0 0\n")
    wait_for_nobody(place)
    assert set(owners(union.upper).values()) == {(0, 0)}


def test_mappings_that_make_no_sense_are_refused(place: Path) -> None:
    union = Union(place)
    branches = f"lowerdir={union.lower},upperdir={union.upper}"
    for text in ("uidmapping=0:1", "gidmapping=0:1:x", "uidmapping=0:1:5:3:20:1"):
        result = unionfs_mount("-o", f"{branches},{text}", union.mountpoint)
        assert result.returncode == 2, result
        assert text.partition("=")[0] in result.stderr
