"""A store with ``force_mask``: it keeps owners and modes in attributes, for many users to share."""

import io
import tarfile

import pytest

from testbed.bed import Bed
from testbed.images import BASE, base_layer
from tests.containers.engines import Engine, Who

pytestmark = [pytest.mark.container, pytest.mark.timeout(120)]

_SCRIPT = """
cd /data
stat -c "%a %u:%g" owned closed /home
echo new > new
chown 5:6 new owned
chmod 4711 new
chown 7:8 file
mkdir -m 1777 sticky
rm -r dir
mkdir dir
mv tree moved
echo more >> one-name
cat other-name moved/deep/3
stat -c "%a %u:%g" new owned file sticky
"""


def _without_fifos() -> bytes:
    """The base image's layer: the engine itself cannot give a FIFO such an attribute."""
    written = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(base_layer())) as source,
        tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            if not member.isfifo():
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
    return written.getvalue()


def test_owners_and_modes_are_kept_in_attributes(user_bed: Bed, who: Who) -> None:
    engine = Engine(user_bed, who, "unionfs", name=f"{who}-masked")
    engine.podman("rmi", BASE)
    engine.use("unionfs", {"force_mask": "shared"})
    archive = engine.directory("base") / "base.tar"
    archive.write_bytes(_without_fifos())
    engine.podman("import", "--quiet", archive, BASE)
    container = engine.podman("create", BASE, "sh", "-ec", _SCRIPT)
    said = engine.podman("start", "--attach", container).splitlines()
    assert said == [
        *("640 1000:1000", "0 0:0", "750 1000:1000", "two names", "more", "deep 3"),
        *("4711 5:6", "640 5:6", "644 7:8", "1777 0:0"),
    ]
    image = engine.podman("commit", "--quiet", container)
    tree, before = engine.look(image), engine.look(BASE)
    # (Set-id and sticky bits do not outlive the engine's own unpacking of a layer in such a store.)
    for name, wanted in (
        ("new", (0o711, 5, 6)),
        ("sticky", (0o777, 0, 0)),
        ("file", (0o644, 7, 8)),
    ):
        _, mode, uid, gid = tree[f"data/{name}"][:4]
        assert (mode & 0o777, uid, gid) == wanted, name  # type: ignore[operator]
    assert tree["data/closed"] == before["data/closed"]
    assert {name for name in tree if name.startswith("data/dir/")} == set()
    upper = engine.podman("inspect", "--format={{.GraphDriver.Data.UpperDir}}", container)
    # In the store itself every file is the daemon's, and who has the attribute is another matter.
    assert engine.inside('stat -c "%a %u:%g" "$1/data/new"', upper).split()[1] == "0:0"
    engine.podman("rm", container)
