"""umount.fuse.unionfs-mount: when it returns, nothing of the mount is left."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Directories, OrdinaryUser
from tests.leftovers import processes_about
from tests.mounted.commands import command, unionfs_mount
from tests.mounted.harness import gone, needs_root, only_unionfs, wait_until
from tests.mounts import detach, mounts_below
from unionfs import _mount, errors
from unionfs.cli import umount

pytestmark = only_unionfs

HELPER = "umount.fuse.unionfs-mount"


@pytest.fixture
def disk(branches: Directories) -> Iterator[Path]:
    """A filesystem that holds the upper, and a lower; root only."""
    directory = branches.base / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    for name in ("lower", "upper"):
        (directory / name).mkdir()
    yield directory
    detach(directory)


def mount(branches: Directories) -> int:
    done = unionfs_mount(branches.lower, branches.upper, branches.mountpoint)
    assert (done.returncode, done.stderr) == (0, "")
    (pid,) = processes_about(branches.base)
    return pid


@needs_root
def test_what_is_below_can_be_unmounted_at_once(disk: Path, branches: Directories) -> None:
    words = (f"{disk}/lower:{branches.lower}", disk / "upper", branches.mountpoint)
    for number in range(3):
        assert unionfs_mount(*words).returncode == 0
        (branches.mountpoint / f"file{number}").write_text("x")
        done = unionfs_mount(branches.mountpoint, "-n", "-t", "fuse.unionfs-mount", name=HELPER)
        assert (done.returncode, done.stderr) == (0, "")
        assert os.listdir(disk / "upper") == [f"file{number}"]
        assert not processes_about(branches.base)
        (disk / f"upper/file{number}").unlink()
    subprocess.run(["umount", disk], check=True)


@needs_root
@pytest.mark.parametrize(("name", "point"), [(HELPER, "mnt"), ("umount.fuse", None)])
def test_umount_8_runs_it(branches: Directories, name: str, point: str | None) -> None:
    """Root's asks for umount.fuse where it is spared to read the table of mounts."""
    script = """
    mount -t tmpfs none /sbin
    ln -s "$0" "/sbin/$5"
    "$1" "$2" "$3" "$4"
    echo x > "$4/file"
    cd "${4%/*}"
    umount "$6"
    ls -A "$3"
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script, command(HELPER), command("unionfs-mount")]
        + [str(path) for path in (branches.lower, branches.upper, branches.mountpoint)]
        + [name, point or str(branches.mountpoint)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "file\n"
    assert not processes_about(branches.base)


def test_a_mount_in_use_stays(branches: Directories) -> None:
    pid = mount(branches)
    with open(branches.mountpoint / "open", "w"):
        done = unionfs_mount(branches.mountpoint, name=HELPER)
        assert done.returncode == errors.UnmountFailed.exit_code
        assert "busy" in done.stderr
        assert mounts_below(branches.mountpoint)
        assert unionfs_mount("-l", branches.mountpoint, name=HELPER).returncode == 0
        assert not mounts_below(branches.mountpoint)
        assert not gone(pid)
    wait_until(lambda: gone(pid), "the daemon ends")


@needs_root
def test_a_copy_in_another_namespace_is_named(branches: Directories) -> None:
    pid = mount(branches)
    script = 'echo "$$"; read -r _'
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        done = unionfs_mount(branches.mountpoint, name=HELPER)
        assert done.returncode == 0
        assert f"mount namespace of process {other.pid}" in done.stderr
        assert not gone(pid)
        again = unionfs_mount(branches.lower, branches.upper, branches.mountpoint)
        assert again.returncode == errors.UpperBusy.exit_code
        assert f"process {pid}" in again.stderr
        assert f"mount namespace of process {other.pid}" in again.stderr
        other.communicate(b"\n")
    wait_until(lambda: gone(pid), "the daemon ends")


@needs_root
def test_a_server_that_does_not_answer_is_not_asked(branches: Directories) -> None:
    pid = mount(branches)
    os.kill(pid, signal.SIGSTOP)
    try:
        with subprocess.Popen([command(HELPER), branches.mountpoint]) as helper:
            try:
                wait_until(lambda: not mounts_below(branches.mountpoint), "it is unmounted")
                assert helper.poll() is None
            finally:
                os.kill(pid, signal.SIGCONT)
        assert (helper.returncode, gone(pid)) == (0, True)
    finally:
        detach(branches.mountpoint)


@needs_root
def test_another_users_server_cannot_hold_up_root(
    branches: Directories, ordinary_user: OrdinaryUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(umount, "_LOOK", 1)
    branches.give_to(ordinary_user)
    words = (branches.lower, branches.upper, branches.mountpoint)
    ordinary_user.run("unionfs-mount", *words, check=True)
    (pid,) = processes_about(branches.base)
    os.kill(pid, signal.SIGSTOP)
    try:
        umount.unmount(str(branches.mountpoint), lazily=False, forced=False)
        assert not mounts_below(branches.mountpoint)
        assert not gone(pid)
    finally:
        os.kill(pid, signal.SIGCONT)
        detach(branches.mountpoint)
    wait_until(lambda: gone(pid), "the daemon ends")


@needs_root
def test_another_kind_of_mount_is_just_unmounted(branches: Directories) -> None:
    """As umount.fuse it is run for all FUSE mounts, and their server may live on, or hang: this
    one never answers."""
    channel = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={channel},rootmode=40000,user_id=0,group_id=0"
        _mount.mount("other", str(branches.mountpoint), "fuse.other", 0, options)
        umount.unmount(str(branches.mountpoint), lazily=False, forced=False)
        assert not mounts_below(branches.mountpoint)
    finally:
        os.close(channel)
        detach(branches.mountpoint)


def test_nothing_is_mounted(branches: Directories) -> None:
    done = unionfs_mount(branches.mountpoint, name=HELPER)
    assert done.returncode == errors.UnmountFailed.exit_code
    assert "nothing is mounted there" in done.stderr


def test_an_ordinary_user(branches: Directories, ordinary_user: OrdinaryUser) -> None:
    branches.give_to(ordinary_user)
    words = (branches.lower, branches.upper, branches.mountpoint)
    ordinary_user.run("unionfs-mount", *words, check=True)
    done = ordinary_user.run(HELPER, branches.mountpoint)
    assert (done.returncode, done.stderr) == (0, "")
    assert not processes_about(branches.base)
    assert os.listdir(branches.upper) == []
