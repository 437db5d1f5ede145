"""Each thing that can be wrong with a mount: one line that says what, and its own exit status."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import OrdinaryUser
from tests.mounted.commands import (
    command,
    is_mounted,
    processes_naming,
    unionfs_mount,
    wait_for_nobody,
)
from tests.mounted.harness import Union, needs_root, only_unionfs
from tests.mounted.trees import branch
from unionfs import uppers

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(60)]


@pytest.fixture
def union(place: Path) -> Union:
    return Union(place)


def refused(
    union: Union, status: int, *details: str, result: "subprocess.CompletedProcess[str]"
) -> None:
    """One line on standard error that holds `details`, this exit status, and nothing left."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    for detail in details:
        assert detail in lines[0]
    assert not is_mounted(union.mountpoint)
    assert processes_naming(union.root) == []
    if union.upper is not None and union.upper.is_dir():
        assert branch(union.upper) == {}


@contextmanager
def mounted(kind: str, directory: Path, *options: str) -> Iterator[Path]:
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, *options, kind, directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def test_missing_branch(union: Union) -> None:
    missing = union.root / "missing"
    for words in (
        (missing, union.upper, union.mountpoint),
        (union.lower, missing, union.mountpoint),
    ):
        refused(union, 10, str(missing), result=unionfs_mount(*words))


def test_branch_that_is_a_file(union: Union) -> None:
    file = union.root / "file"
    file.touch()
    refused(union, 12, str(file), result=unionfs_mount(file, union.upper, union.mountpoint))


def test_same_branch_twice(union: Union) -> None:
    result = unionfs_mount(f"{union.lower}:{union.lower}", union.upper, union.mountpoint)
    refused(union, 13, str(union.lower), result=result)


def test_upper_inside_lower(union: Union) -> None:
    union.upper = union.lower / "upper"
    union.upper.mkdir()
    result = unionfs_mount(union.lower, union.upper, union.mountpoint)
    refused(union, 14, str(union.upper), str(union.lower), result=result)


def test_lower_inside_upper(union: Union) -> None:
    lower = union.root / "upper/lower"
    lower.mkdir()
    result = unionfs_mount(lower, union.upper, union.mountpoint)
    assert union.upper is not None
    lower.rmdir()
    refused(union, 15, str(union.upper), str(lower), result=result)


def test_read_only_upper(union: Union) -> None:
    with mounted("tmpfs", union.root / "upper", "-o", "ro"):
        result = unionfs_mount(union.lower, union.upper, union.mountpoint)
        refused(union, 16, str(union.upper), result=result)


def test_work_directory_on_another_filesystem(union: Union) -> None:
    with mounted("tmpfs", union.root / "work") as work:
        result = unionfs_mount(union.lower, union.upper, union.mountpoint, "-o", f"workdir={work}")
        refused(union, 17, str(work), str(union.upper), result=result)


def test_work_directory_missing_or_in_a_branch(union: Union) -> None:
    assert union.upper is not None
    inside = union.lower / "work"
    inside.mkdir()
    for work in (union.root / "missing", inside):
        result = unionfs_mount(union.lower, union.upper, union.mountpoint, "-o", f"workdir={work}")
        refused(union, 18, str(work), result=result)


def test_work_directory_that_is_the_upper(union: Union) -> None:
    """It is refused before it is locked: the mount would wait for itself."""
    begin = time.monotonic()
    result = unionfs_mount(
        union.lower, union.upper, union.mountpoint, "-o", f"workdir={union.upper}"
    )
    refused(union, 18, str(union.upper), "overlaps", result=result)
    assert time.monotonic() - begin < uppers.PATIENCE / 2


def test_upper_on_a_union_that_is_read_only(union: Union) -> None:
    below = union.root / "below"
    below.mkdir()
    assert unionfs_mount(union.lower, below).returncode == 0
    try:
        result = unionfs_mount(union.root / "upper", below, union.mountpoint)
        assert result.returncode == 16
        assert f"is on the union {below} that is mounted read-only" in result.stderr
    finally:
        subprocess.run(["umount", below], check=True)


def test_two_arguments_and_files_in_the_mount_point(union: Union) -> None:
    """`unionfs-mount base changes` must not become a read-only mount over the changes."""
    assert union.upper is not None
    (union.upper / "change").touch()
    result = unionfs_mount(union.lower, union.upper)
    assert (result.returncode, result.stdout) == (32, "")
    assert "LOWER UPPER MOUNTPOINT" in result.stderr
    assert not is_mounted(union.upper)
    for words in (("-o", "ro"), ("-o", f"lowerdir={union.lower}")):
        result = unionfs_mount(union.lower, union.upper, *words)
        assert (result.returncode, result.stderr) == (0, "")
        subprocess.run(["umount", union.upper], check=True)


def test_mounting_over_a_union_says_so(union: Union) -> None:
    other = union.root / "other"
    other.mkdir()
    assert unionfs_mount(union.lower, union.upper, union.mountpoint).stderr == ""
    result = unionfs_mount(union.lower, other, union.mountpoint)
    assert result.returncode == 0
    assert f"a union is mounted at {union.mountpoint} already" in result.stderr
    for _ in range(2):
        subprocess.run(["umount", union.mountpoint], check=True)


def test_dead_mount_points_and_branches_are_to_be_unmounted(union: Union) -> None:
    assert union.upper is not None
    other = union.root / "other"
    other.mkdir()
    assert unionfs_mount(union.lower, union.upper, union.mountpoint).returncode == 0
    for pid in processes_naming(union.root):
        os.kill(pid, signal.SIGKILL)
    wait_for_nobody(union.root)
    for status, words in (
        (30, (union.lower, union.upper, union.mountpoint)),
        (11, (union.mountpoint, union.upper, other)),
        (11, (union.lower, union.mountpoint, other)),
    ):
        result = unionfs_mount(*words)
        assert result.returncode == status
        assert "has died; unmount it (fusermount3 -u, or umount)" in result.stderr
        assert "create" not in result.stderr
    subprocess.run(["umount", union.mountpoint], check=True)
    unionfs_mount(union.lower, union.upper, union.mountpoint)  # clears what the dead one left
    subprocess.run(["umount", union.mountpoint], check=True)
    wait_for_nobody(union.root)


def test_a_busy_upper_says_at_once_that_it_waits(union: Union) -> None:
    other = union.root / "other"
    other.mkdir()
    assert unionfs_mount(union.lower, union.upper, union.mountpoint).returncode == 0
    process = subprocess.Popen(
        [command("unionfs-mount"), union.lower, union.upper, other],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "waiting 10 s" in line
    assert f"mounted at {union.mountpoint}: unmount that first" in line
    subprocess.run(["umount", union.mountpoint], check=True)
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    subprocess.run(["umount", other], check=True)


def test_filesystem_without_xattrs(union: Union) -> None:
    with mounted("ramfs", union.root / "upper"):
        result = unionfs_mount(union.lower, union.upper, union.mountpoint, "-o", "whiteout=overlay")
        refused(union, 19, str(union.upper), "whiteout=aufs", result=result)


def test_missing_mount_point(union: Union) -> None:
    missing = union.root / "missing"
    refused(union, 30, str(missing), result=unionfs_mount(union.lower, union.upper, missing))


def test_mount_point_that_is_a_file(union: Union) -> None:
    file = union.root / "file"
    file.touch()
    refused(union, 12, str(file), result=unionfs_mount(union.lower, union.upper, file))


@pytest.mark.parametrize("where", ["lower", "upper", "below lower", "above"])
def test_mount_point_inside_a_branch(union: Union, where: str) -> None:
    assert union.upper is not None
    below = union.lower / "below"
    below.mkdir()
    mountpoint = {
        "lower": union.lower,
        "upper": union.upper,
        "below lower": below,
        "above": union.root / "mnt",
    }[where]
    if where == "above":
        # The branches lie below the mount point, which would cover them: allowed, they are open.
        union.upper = mountpoint / "upper"
        union.upper.mkdir()
        result = unionfs_mount(union.lower, union.upper, mountpoint)
        assert result.returncode == 0, result.stderr
        (mountpoint / "new").write_text("new")
        subprocess.run(["umount", mountpoint], check=True)
        wait_for_nobody(union.root)
        assert branch(union.upper) == {"new": "file new"}
    else:
        result = unionfs_mount(union.lower, union.upper, mountpoint)
        refused(union, 31, str(mountpoint), result=result)


def without_device(*more: str) -> tuple[str, ...]:
    """A wrapper that runs a command where /dev holds no fuse, or what `more` makes of it."""
    script = "\n".join(
        [
            "set -e",
            "mount -t tmpfs tmpfs /dev",
            "mknod -m 666 /dev/null c 1 3",
            "mknod -m 666 /dev/urandom c 1 9",
            *more,
            'exec "$@"',
        ]
    )
    return ("unshare", "--mount", "sh", "-c", script, "sh")


def test_no_fuse_device(union: Union) -> None:
    result = unionfs_mount(union.lower, union.upper, union.mountpoint, wrapper=without_device())
    refused(union, 40, "/dev/fuse", result=result)


def test_closed_fuse_device(union: Union, ordinary_user: OrdinaryUser) -> None:
    subprocess.run(["chown", "-R", f"{ordinary_user.uid}", union.root], check=True)
    identity = f"--reuid={ordinary_user.uid}", f"--regid={ordinary_user.gid}", "--clear-groups"
    wrapper = (*without_device("mknod -m 600 /dev/fuse c 10 229"), "setpriv", *identity)
    result = unionfs_mount(union.lower, union.upper, union.mountpoint, wrapper=wrapper)
    refused(union, 41, "/dev/fuse", result=result)


def test_unreadable_branch(union: Union, ordinary_user: OrdinaryUser) -> None:
    assert union.upper is not None
    os.chown(union.mountpoint, ordinary_user.uid, ordinary_user.gid)
    os.chown(union.upper, ordinary_user.uid, ordinary_user.gid)
    union.lower.chmod(0o700)
    words = [command("unionfs-mount"), union.lower, union.upper, union.mountpoint]
    refused(union, 11, str(union.lower), result=ordinary_user.run(*words))
    union.lower.chmod(0o755)
    union.upper.chmod(0o555)
    refused(union, 11, str(union.upper), result=ordinary_user.run(*words))


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ("whiteout=nonsense", "whiteout"),
        ("lowerdir=", "lowerdir"),
        ("rename_dir=sometimes", "rename_dir"),
    ],
)
def test_wrong_option(union: Union, options: str, detail: str) -> None:
    result = unionfs_mount(union.lower, union.upper, union.mountpoint, "-o", options)
    refused(union, 2, detail, result=result)


def test_unknown_option_is_one_warning(union: Union) -> None:
    result = unionfs_mount(union.lower, union.upper, union.mountpoint, "-o", "no_such_option=7")
    assert result.returncode == 0
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "no_such_option" in result.stderr
    subprocess.run(["umount", union.mountpoint], check=True)


@pytest.mark.parametrize(
    "name", ["with:colon", "with,comma", "with\\backslash", "with space", "new\nline", "ü"]
)
def test_odd_characters_in_paths(union: Union, name: str) -> None:
    lower, upper, mountpoint = (union.root / f"{kind} {name}" for kind in ("lower", "upper", "mnt"))
    for directory in (lower, upper, mountpoint):
        directory.mkdir()
    (lower / "file").write_text("x")

    def escaped(path: Path) -> str:
        return str(path).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")

    for words in (
        ("-o", f"lowerdir={escaped(lower)},upperdir={escaped(upper)}", mountpoint),
        (str(lower).replace("\\", "\\\\").replace(":", "\\:"), upper, mountpoint),
    ):
        result = unionfs_mount(*words)
        assert (result.returncode, result.stderr) == (0, ""), words
        assert (mountpoint / "file").read_text() == "x"
        subprocess.run(["umount", mountpoint], check=True)
