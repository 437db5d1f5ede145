"""An ordinary user's own mount, other users on root's, and root of a user namespace."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import OrdinaryUser
from tests.mounted.commands import command, daemon_of, wait_for_end, wait_for_nobody
from tests.mounted.harness import Union, fails_with, needs_root, only_unionfs
from tests.mounted.trees import branch, build, snapshot
from tests.mounted.users import as_user, in_user_namespace

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(90)]

needs_fusermount = pytest.mark.skipif(
    shutil.which("fusermount3") is None, reason="an ordinary user mounts through fusermount3"
)


def give(directory: Path, uid: int) -> None:
    subprocess.run(["chown", "-hR", f"{uid}:{uid}", directory], check=True)


def lower_tree(root: Path) -> None:
    build(
        root,
        {
            "file": "lower",
            "removed": "removed",
            "dir/a": "a",
            "dir/b": "b",
            "remade/x": "x",
            "big": b"big" * 200_000,
        },
    )
    (root / "link").symlink_to("file")


#: What somebody does on a mount, as a shell script in the mount point.
WORK = """
set -e
test "$(cat file)" = lower
echo more >> file
chmod 444 dir/a
mv dir/b moved
rm removed
rm -r remade; mkdir remade
echo y > remade/y
ln -s nowhere new-link
touch -h -d @1000000000 link
umask 077
mkdir private; echo p > private/p
echo tail >> big
test ! -e remade/x
"""

AFTER_WORK = {
    "file": "file lowermore",
    "dir": "dir",
    "dir/a": "file a",
    "dir/.wh.b": "file",
    "moved": "file b",
    ".wh.removed": "file",
    "remade": "dir",
    "remade/.wh..wh..opq": "file",
    "remade/y": "file y",
    "new-link": "link nowhere",
    "link": "link file",
    "private": "dir",
    "private/p": "file p",
    "big": "file " + ("big" * 200)[:200],
}


def kept(upper: Path) -> dict[str, str]:
    """What a branch holds but for the work directory, where the numbers of links are recorded."""
    return {
        path: what.replace("\n", "")
        for path, what in branch(upper).items()
        if not path.startswith(".wh..wh.work")
    }


@needs_fusermount
def test_mount_of_an_ordinary_user(place: Path, ordinary_user: OrdinaryUser) -> None:
    union = Union(place)
    assert union.upper is not None
    lower_tree(union.lower)
    give(place, ordinary_user.uid)
    root = union.mountpoint
    words = [command("unionfs-mount"), union.lower, union.upper, root]
    result = ordinary_user.run(*words)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    pid = daemon_of(place)
    assert Path(f"/proc/{pid}").stat().st_uid == ordinary_user.uid
    ordinary_user.run("sh", "-c", f"cd {root} && {WORK}", check=True)
    # Without allow_other it is nobody else's, not even root's.
    fails_with(errno.EACCES, lambda: os.listdir(root))
    seen = ordinary_user.run("find", root, "-printf", "%P %y %m %s %l\n", check=True).stdout
    ordinary_user.run("fusermount3", "-u", root, check=True)
    wait_for_end(pid, root)
    found = kept(union.upper)
    assert found == AFTER_WORK
    ordinary_user.run(*words, check=True)
    pid = daemon_of(place)
    again = ordinary_user.run("find", root, "-printf", "%P %y %m %s %l\n", check=True).stdout
    assert sorted(again.splitlines()) == sorted(seen.splitlines())
    ordinary_user.run("fusermount3", "-u", root, check=True)
    wait_for_end(pid, root)


@needs_fusermount
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_on_the_mount_of_an_ordinary_user(place: Path, ordinary_user: OrdinaryUser) -> None:
    """git creates objects with mode 0444 and writes them through the descriptor it created."""
    union = Union(place)
    build(union.lower, {f"project/file{number}": str(number) * 5000 for number in range(30)})
    give(place, ordinary_user.uid)
    root = union.mountpoint
    words = [command("unionfs-mount"), union.lower, union.upper, root]
    ordinary_user.run(*words, check=True)
    pid = daemon_of(place)
    script = """
        set -e
        git init -q project; cd project
        git config user.name A; git config user.email a@example.org; git config gc.auto 0
        git add .; git commit -q -m one
        echo more >> file3; git mv file4 moved; git rm -q file5; git commit -q -a -m two
        git clone -q . ../clone
        git gc -q; git fsck --full --strict; git checkout -q HEAD~1; git -C ../clone fsck
        test -z "$(git status --porcelain)"
    """
    result = ordinary_user.run("sh", "-c", f"cd {root}\n{script}")
    ordinary_user.run("fusermount3", "-u", root, check=True)
    wait_for_end(pid, root)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_fusermount
def test_what_an_ordinary_user_cannot_own(place: Path, ordinary_user: OrdinaryUser) -> None:
    """Root's file that everybody may write cannot be copied up with its owner: refused, whole."""
    union = Union(place)
    assert union.upper is not None
    build(union.lower, {"roots": "root's", "mine": "mine", "hidden": "secret", "dir/x": "x"})
    give(place, ordinary_user.uid)
    for name in ("roots", "hidden"):
        os.chown(union.lower / name, 0, 0)
    (union.lower / "roots").chmod(0o666)
    (union.lower / "hidden").chmod(0o600)
    root = union.mountpoint
    words = [command("unionfs-mount"), union.lower, union.upper, root]
    ordinary_user.run(*words, check=True)
    pid = daemon_of(place)

    def attempt(script: str) -> str:
        result = ordinary_user.run("sh", "-c", f"LC_ALL=C; cd {root} && {script}")
        return result.stderr

    refused = attempt("echo more >> roots")
    unreadable = attempt("cat hidden")
    content = ordinary_user.run("cat", root / "roots").stdout
    allowed = attempt("echo more >> mine && rm roots")
    ordinary_user.run("fusermount3", "-u", root, check=True)
    wait_for_end(pid, root)
    assert "not permitted" in refused
    assert "Permission denied" in unreadable
    assert content == "root's"
    assert allowed == ""
    assert branch(union.upper) == {
        "mine": "file minemore",
        ".wh.roots": "file",
    }


@needs_fusermount
@pytest.mark.parametrize("marked", [False, True], ids=["new", "used"])
def test_copying_up_into_a_directory_that_may_not_be_written(
    place: Path, ordinary_user: OrdinaryUser, marked: bool
) -> None:
    """The user may change the files, but the daemon, who is he, may not add names to their
    directory: done in the user's own, as on one filesystem; in somebody else's refused, nothing
    left behind, and done once it may."""
    union = Union(place)
    upper = place / "upper"
    build(union.lower, {"d/file": "file", "d/sub/x": "x", "d/other": "other"})
    build(upper, {"d": None})
    (union.lower / "d/link").symlink_to("file")
    os.mkfifo(union.lower / "d/fifo")
    give(place, ordinary_user.uid)
    root = union.mountpoint
    words = [command("unionfs-mount"), union.lower, upper, root]
    changes = [
        "echo more >> d/file",
        "touch -h -d @1000 d/link",
        "chmod 600 d/fifo",
        "chmod 700 d/sub",
    ]

    def attempt(owner: int, directory_mode: int) -> list[str]:
        (upper / "d").chmod(directory_mode)
        os.chown(upper / "d", owner, owner)
        ordinary_user.run(*words, check=True)
        pid = daemon_of(place)
        said = [ordinary_user.run("sh", "-c", f"cd {root}; {each}").stderr for each in changes * 2]
        ordinary_user.run("fusermount3", "-u", root, check=True)
        wait_for_end(pid, root)
        return said

    if marked:
        changes, everything = ["echo more >> d/other"], changes
        assert attempt(ordinary_user.uid, 0o755) == ["", ""]
        changes = everything
    (upper / "d").chmod(0o755)
    os.chown(upper / "d", 0, 0)
    before = snapshot(upper)
    refused = attempt(0, 0o755)
    assert [m for m in refused if "Permission denied" not in m] == []
    assert snapshot(upper) == before
    assert attempt(ordinary_user.uid, 0o555) == [""] * len(refused)
    assert (upper / "d").stat().st_mode & 0o7777 == 0o555
    assert (upper / "d/file").read_text() == "filemore\nmore\n"
    assert (upper / "d/link").lstat().st_mtime == 1000
    assert (upper / "d/fifo").stat().st_mode & 0o7777 == 0o600
    assert (upper / "d/sub").stat().st_mode & 0o7777 == 0o700


def test_permissions_of_others_on_roots_mount(place: Path) -> None:
    """Modes, groups, sticky directories and ACLs hold for everybody, before and after copy-up."""
    union = Union(place)
    assert union.upper is not None
    build(union.lower, {"private": "p", "shared": "s", "sticky/roots": "r", "open/x": "x"})
    (union.lower / "private").chmod(0o600)
    (union.lower / "shared").chmod(0o664)
    os.chown(union.lower / "shared", 0, 4321)
    (union.lower / "sticky").chmod(0o1777)
    (union.lower / "open").chmod(0o777)
    with union:
        root = union.mountpoint

        def stranger() -> None:
            fails_with(errno.EACCES, lambda: os.open(root / "private", os.O_RDONLY))
            fails_with(errno.EACCES, lambda: os.open(root / "shared", os.O_WRONLY))
            fails_with(errno.EACCES, lambda: os.open(root / "new", os.O_CREAT | os.O_WRONLY))
            fails_with(errno.EACCES, lambda: os.unlink(root / "shared"))
            fails_with(errno.EPERM, lambda: os.unlink(root / "sticky/roots"))
            fails_with(errno.EPERM, lambda: os.chmod(root / "shared", 0o777))
            fails_with(errno.EPERM, lambda: os.chown(root / "sticky/mine", 0, 0))
            fails_with(errno.EPERM, lambda: os.utime(root / "shared", (1, 1)))
            (root / "open/x").unlink()
            (root / "open/mine").write_text("mine")

        as_user(1234, lambda: (root / "sticky/mine").write_text("mine"))
        as_user(1234, stranger)
        for path in (root / "sticky/mine", root / "open/mine"):
            assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1234)
        assert os.listdir(root / "open") == ["mine"]
        (root / "private").chmod(0o640)
        fails_with(
            errno.EACCES,
            lambda: as_user(1234, lambda: os.open(root / "private", os.O_RDONLY)),
        )
        with_group = as_user(4321, lambda: (root / "shared").write_text("by the group"))
        assert with_group == len("by the group")
        subprocess.run(["setfacl", "-m", "u:1234:rw", root / "private"], check=True)
        assert as_user(1234, lambda: (root / "private").read_text()) == "p"
        union.remount()
        assert as_user(1234, lambda: (root / "private").read_text()) == "p"


@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
@pytest.mark.parametrize("ids", [1, 65_536], ids=["one id", "many ids"])
def test_root_of_a_user_namespace(place: Path, whiteout: str, ids: int) -> None:
    union = Union(place)
    assert union.upper is not None
    lower_tree(union.lower)
    owner = 0 if ids == 1 else 77
    os.chown(union.lower / "file", owner, owner)
    root = union.mountpoint
    mount = f"{command('unionfs-mount')} -o whiteout={whiteout} {union.lower} {union.upper} {root}"
    script = f"""
        set -e
        {mount}
        cd {root}
        {WORK}
        umask 022
        if mknod device c 1 3 2>/dev/null; then echo a device was made; exit 1; fi
        setfattr -n user.note -v note file
        cd /
        find {root} -printf '%P %y %m %s %U %l\\n' | sort > {place}/seen
        umount {root}
        {mount}
        find {root} -printf '%P %y %m %s %U %l\\n' | sort > {place}/again
        getfattr --absolute-names -m - -d {root}/file {root}/dir {root}/remade > {place}/attributes
        umount {root}
    """
    assert in_user_namespace(script, f"0 0 {ids}") == (0, "")
    wait_for_nobody(place)
    assert (place / "seen").read_text() == (place / "again").read_text()
    attributes = [line for line in (place / "attributes").read_text().splitlines() if "=" in line]
    assert attributes == ['user.note="note"']
    found = kept(union.upper)
    if whiteout == "aufs":
        assert found == AFTER_WORK
    else:
        assert found["removed"] == found["dir/b"] == "whiteout"
        assert found["remade"] == "opaque dir"
    assert (union.upper / "file").stat().st_uid == owner
    # Root of the first namespace reads what root of another wrote.
    with union:
        assert sorted(snapshot(root)) == [
            ".", "big", "dir", "dir/a", "file", "link", "moved", "new-link", "private",
            "private/p", "remade", "remade/y",
        ]  # fmt: skip


def test_device_files_do_nothing_in_a_user_namespace(place: Path) -> None:
    """The kernel mounts without devices for root of a user namespace, whatever a lower holds."""
    union = Union(place, writable=False)
    os.mknod(union.lower / "null", 0o020000 | 0o666, os.makedev(1, 3))
    (union.lower / "null").chmod(0o666)
    root = union.mountpoint
    script = f"""
        {command("unionfs-mount")} {union.lower} {root} || exit 1
        cat {root}/null; status=$?
        umount {root}
        exit $((status + 10))
    """
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 11
    assert "Permission denied" in result.stderr
