"""The command lines that engines were seen to write, to the letter, and what they expect back."""

import os
import subprocess
from pathlib import Path

import pytest

from testbed.images import BASE
from tests.conftest import Directories
from tests.containers.engines import MOUNT_PROGRAM, Engine
from tests.leftovers import processes_about
from tests.mounted.harness import wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(60)]


class Store:
    """Directories as containers/storage has them: `l/` holds links that lead to `ID/diff`."""

    def __init__(self, base: Path, layers: int) -> None:
        self.home = base / "overlay"
        (self.home / "l").mkdir(parents=True)
        self.links = []
        for number in range(layers):
            layer = self.home / f"{number:064}"
            (layer / "diff").mkdir(parents=True)
            (layer / "diff" / f"from{number}").touch()
            (layer / "diff/topmost").write_text(str(number))
            link = self.home / "l" / f"LINK{number:022}"
            link.symlink_to(f"../{layer.name}/diff")
            self.links.append(link)
        self.container = self.home / "container"
        for name in ("diff", "work", "merged"):
            (self.container / name).mkdir(parents=True)
        self.upper = f"upperdir={self.container}/diff,workdir={self.container}/work"
        self.merged = self.container / "merged"

    @property
    def lowers(self) -> str:
        return "lowerdir=" + ":".join(map(str, self.links))

    def mount(self, options: str) -> str:
        """Run it as the engines do: stderr is read to its end, the store is the directory."""
        done = subprocess.run(
            [MOUNT_PROGRAM, "-o", options, self.merged],
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def unmount(self) -> None:
        subprocess.run(["fusermount3", "-u", self.merged], check=True)
        wait_until(lambda: not processes_about(self.home), "the daemon ends")


@pytest.mark.parametrize(
    "options",
    [
        "{lowers},{upper},,volatile",
        "{lowers},{upper}, ",
        "{lowers},{upper},",
        "{lowers},{upper},,private",
        "{lowers},{upper},uidmapping=:0:0:1001:1001:2000:64535,gidmapping=:0:0:1001:1001:2000:64535",
        "{lowers},{upper},,volatile,squash_to_uid=0,squash_to_gid=0",
        "{lowers},{upper},xattr_permissions=2",
        '{lowers},{upper},fsname="a,b"',
    ],
)
def test_a_command_line_of_an_engine(branches: Directories, options: str) -> None:
    store = Store(branches.base, 3)
    said = store.mount(options.format(lowers=store.lowers, upper=store.upper))
    assert said == ("" if not options.endswith(", ") else said)
    assert (store.merged / "topmost").read_text() == "0"
    assert {f"from{number}" for number in range(3)} < set(os.listdir(store.merged))
    (store.merged / "from1").unlink()
    (store.merged / "new").write_text("new")
    store.unmount()
    assert (store.container / "diff/new").read_text() == "new"


def test_a_read_only_mount_of_a_layer_over_its_parents(branches: Directories) -> None:
    """What commit and diff look at."""
    store = Store(branches.base, 2)
    (store.container / "diff/new").touch()
    store.mount(store.lowers.replace("=", f"={store.container}/diff:"))
    assert sorted(os.listdir(store.merged)) == ["from0", "from1", "new", "topmost"]
    with pytest.raises(OSError, match="Read-only"):
        (store.merged / "more").touch()
    store.unmount()


def test_dots_after_a_link_go_up_from_where_it_leads(branches: Directories) -> None:
    store = Store(branches.base, 1)
    beside = store.links[0].resolve().parent / "diff1"
    beside.mkdir()
    (beside / "beside").touch()
    store.mount(f"{store.lowers}:{store.links[0]}/../diff1,{store.upper}")
    assert sorted(os.listdir(store.merged)) == ["beside", "from0", "topmost"]
    store.unmount()


def test_500_layers(branches: Directories) -> None:
    store = Store(branches.base, 500)
    store.mount(f"{store.lowers},{store.upper},,volatile")
    assert (store.merged / "topmost").read_text() == "0"
    assert len(os.listdir(store.merged)) == 501
    (store.merged / "from499").write_text("changed")
    (store.merged / "from250").unlink()
    store.unmount()
    store.mount(f"{store.lowers},{store.upper},,volatile")
    assert (store.merged / "from499").read_text() == "changed"
    assert len(os.listdir(store.merged)) == 500
    store.unmount()


def test_podman_info_shows_the_mount_program_and_its_version(engine: Engine) -> None:
    said = engine.podman("info", "--format={{.Store.GraphOptions}}")
    assert str(MOUNT_PROGRAM) in said
    assert "unionfs-mount 0." in said
    assert "UNKNOWN" not in said


def test_the_root_of_a_container_is_a_union(engine: Engine) -> None:
    """Else all the other tests would prove nothing."""
    mounts = engine.podman("run", "--rm", BASE, "cat", "/proc/mounts")
    assert mounts.splitlines()[0].split()[1:3] == ["/", "fuse.unionfs-mount"]
