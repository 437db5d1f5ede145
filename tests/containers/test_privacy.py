"""What unionfs keeps for itself never reaches a layer, an archive, or an export."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from testbed.images import BASE, saved_layers
from tests.containers.engines import Engine
from tests.containers.steps import building

pytestmark = [pytest.mark.container, pytest.mark.timeout(180)]

#: The attributes that the base image has: no other may appear.
_ALLOWED = {"SCHILY.xattr.user.note", "SCHILY.xattr.security.capability"}

# Whatever leaves a private trace: links across copy-up, origins, opaque directories, whiteouts.
_WORK = """
echo more >> /data/one-name
rm /data/removed
rm -r /data/dir
mkdir /data/dir
mv /data/tree /data/moved
chown 1000 /data/fifo /data/file
chown -h 1000 /data/symlink
setfattr -n user.note -v kept /data/owned 2>/dev/null || true
"""


def _check(members: Iterable[tarfile.TarInfo], below: set[str]) -> set[str]:
    """Check one layer over the names below it; the names that are then visible."""
    visible = set(below)
    members = list(members)
    for member in members:
        assert member.pax_headers.keys() & _attributes(member) <= _ALLOWED, member.name
        directory, _, last = member.name.rstrip("/").rpartition("/")
        assert not last.startswith(".wh..wh.") or last == ".wh..wh..opq", member.name
        assert not (member.ischr() and member.devmajor == member.devminor == 0), member.name
        if last == ".wh..wh..opq":
            hidden = directory
            visible = {name for name in visible if not name.startswith(f"{hidden}/")}
        elif last.startswith(".wh."):
            hidden = f"{directory}/{last[4:]}".lstrip("/")
            assert hidden in visible, f"{member.name} hides nothing"
            visible = {name for name in visible if not f"{name}/".startswith(f"{hidden}/")}
    shown = {
        member.name.rstrip("/"): member.isdir()
        for member in members
        if not member.name.rpartition("/")[2].startswith(".wh.")
    }
    for name, directory in shown.items():
        if not directory:  # it hides a directory of the layers below with all that is in it
            visible = {below for below in visible if not below.startswith(f"{name}/")}
    return visible | shown.keys()


def _attributes(member: tarfile.TarInfo) -> set[str]:
    return {name for name in member.pax_headers if name.startswith("SCHILY.xattr.")}


def _check_saved(engine: Engine, image: str) -> set[str]:
    archive = engine.directory("saved") / "image.tar"
    engine.podman("save", "--quiet", f"--output={archive}", image)
    visible: set[str] = set()
    for layer in saved_layers(archive):
        with tarfile.open(fileobj=io.BytesIO(layer)) as members:
            visible = _check(members, visible)
    return visible


@pytest.mark.parametrize("how", ["--layers", "--squash-all"])
def test_nothing_private_is_in_a_built_image(engine: Engine, how: str) -> None:
    image = engine.build(building.STEPS, how, files=building.FILES)
    names = _check_saved(engine, image)
    assert names == {name for name in engine.look(image) if name != "."}


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_nothing_private_is_in_a_commit(engine: Engine, running: bool) -> None:
    container = engine.podman("run", "--detach", BASE, "sleep", "1000")
    engine.podman("exec", container, "sh", "-ec", _WORK)
    if not running:
        engine.podman("stop", "--time=0", container)
    image = engine.podman("commit", "--quiet", container)
    archive = engine.directory("exported") / "root.tar"
    engine.podman("export", f"--output={archive}", container)
    engine.podman("rm", "--force", "--time=0", container)
    names = _check_saved(engine, image)
    assert "data/moved/deep/7" in names
    assert "data/dir/3" not in names
    with tarfile.open(archive) as members:
        exported = _check(members, set())
    assert not [name for name in exported if "/.wh." in f"/{name}"]
    assert exported == names


def test_no_state_stays_in_the_store_of_a_stopped_container(engine: Engine) -> None:
    """The upper of a container becomes a layer for others: no work directory may lie in it."""
    container = engine.podman("create", BASE, "sh", "-ec", _WORK)
    engine.podman("start", "--attach", container)
    upper = engine.podman("inspect", "--format={{.GraphDriver.Data.UpperDir}}", container)
    found = engine.inside('cd "$1"; find . -name ".wh..wh.*"', upper).split()
    engine.podman("rm", container)
    assert {Path(name).name for name in found} == {".wh..wh..opq"}
