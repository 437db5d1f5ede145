"""Containers whose users are others outside: the mount maps owners, no image is copied."""

from pathlib import Path

import pytest

from testbed.bed import UID, Bed
from testbed.images import BASE
from tests.containers.conftest import Engines
from tests.containers.engines import Engine

pytestmark = [pytest.mark.container, pytest.mark.timeout(120)]


@pytest.fixture
def engine(user_bed: Bed, engines: Engines) -> Engine:
    """An ordinary user's.

    (podman 4.3 as root maps the layers by itself and tells a mount program to map them once more;
    over fuse-overlayfs such containers do not start either.)
    """
    return engines("user", "unionfs")


_LOOK = """
id -u
cd /data
stat -c '%u:%g %a' file owned /home
echo new > new
chown 1000:50 new
stat -c '%u:%g' new
setuid-ids
"""

_SEEN = ["0:0 644", "1000:1000 640", "1000:1000 750", "1000:50"]


def _layers(engine: Engine) -> set[str]:
    return set(engine.inside('ls "$1"', engine.home / "graph/overlay").split())


@pytest.mark.parametrize(
    ("mapping", "layers"),
    [
        pytest.param(["--uidmap=0:10000:5000", "--gidmap=0:10000:5000"], 1, id="one range"),
        # For these containers/storage copies the image's layer and changes its owners.
        pytest.param(
            ["--uidmap=0:1:500", "--uidmap=500:1001:5000", "--gidmap=0:1:5500"], 2, id="two ranges"
        ),
    ],
)
def test_a_mapped_container_sees_the_owners_of_its_image(
    engine: Engine, mapping: list[str], layers: int
) -> None:
    before = _layers(engine)
    container = engine.podman("create", *mapping, BASE, "sh", "-ec", _LOOK)
    said = engine.podman("start", "--attach", container).splitlines()
    assert said == ["0", *_SEEN, "0 0 0 0"]
    assert len(_layers(engine) - before) == layers
    image = engine.podman("commit", "--quiet", container)
    engine.podman("rm", container)
    tree = engine.look(image)
    assert tree["data/new"][2:4] == [1000, 50]
    assert tree["data/owned"] == engine.look(BASE)["data/owned"]


def test_keep_id(engine: Engine) -> None:
    """The user is himself inside, and root and all others are there as well."""
    before = _layers(engine)
    shared = engine.directory("shared")
    options = ["--userns=keep-id", f"--volume={shared}:/shared"]
    script = "id -u; touch /shared/mine /tmp/mine; stat -c '%u:%g %a' /data/owned /tmp/mine"
    container = engine.podman("create", *options, BASE, "sh", "-ec", script)
    said = engine.podman("start", "--attach", container).splitlines()
    assert said == [str(UID), "1000:1000 640", f"{UID}:{UID} 644"]
    assert (shared / "mine").stat().st_uid == UID
    assert len(_layers(engine) - before) == 1, "the image was copied for the mapping"
    as_root = engine.podman("run", "--rm", "--user=0", *options, BASE, "sh", "-ec", _LOOK)
    assert as_root.splitlines() == ["0", *_SEEN, "0 0 0 0"]
    engine.podman("rm", container)


def test_the_upper_of_a_mapped_container_holds_the_ids_of_its_image(engine: Engine) -> None:
    mapping = ["--uidmap=0:10000:5000", "--gidmap=0:10000:5000"]
    container = engine.podman(
        "create", *mapping, BASE, "sh", "-ec", "echo > /tmp/a; chown 7 /tmp/a"
    )
    engine.podman("start", "--attach", container)
    upper = Path(engine.podman("inspect", "--format={{.GraphDriver.Data.UpperDir}}", container))
    owners = engine.inside('stat -c "%u" "$1/tmp/a"', upper)
    engine.podman("rm", container)
    assert owners == "7\n"
