"""A store goes on being used when its mount program changes, there and back."""

import pytest

from testbed.bed import Bed
from testbed.images import BASE
from tests.containers.engines import Driver, Engine, Who

pytestmark = [pytest.mark.container, pytest.mark.timeout(180)]

#: What differs from one start to the next: whiteouts, an opaque directory, changed files.
_SCRIPT = """
number=$(wc -l < /data/starts 2>/dev/null || echo 0)
echo >> /data/starts
echo $number >> /data/file
rm /data/dir/$number
rm -r /data/tree
mkdir /data/tree
touch /data/tree/$number
cut -d " " -f 3 /proc/mounts | head -n 1
cd /data
cat file
ls dir tree
"""


_TYPES = {
    "unionfs": "fuse.unionfs-mount",
    "overlayfs": "overlay",
    "fuse-overlayfs": "fuse.fuse-overlayfs",
}


def _said(number: int, driver: Driver) -> list[str]:
    file = ["a file of the base", *map(str, range(number + 1))]
    return [
        _TYPES[driver],
        *file,
        "dir:",
        *map(str, range(number + 1, 8)),
        "",
        "tree:",
        str(number),
    ]


@pytest.mark.parametrize(
    ("other", "options"),
    [("overlayfs", {"mountopt": "whiteout=overlay"}), ("fuse-overlayfs", {})],
)
def test_a_container_goes_on_over_another_driver_and_back(
    user_bed: Bed, who: Who, other: Driver, options: dict[str, str]
) -> None:
    engine = Engine(user_bed, who, other, name=f"{who}-from-{other}")
    container = engine.podman("create", BASE, "sh", "-ec", _SCRIPT)
    for number, driver in enumerate((other, "unionfs", other, "unionfs")):
        engine.use(driver, options if driver == "unionfs" else {})
        # Without this the engine takes fuse-overlayfs in the place of the kernel's driver.
        engine.inside('rm -f "$1"', engine.home / "graph/overlay/.has-mount-program")
        said = engine.podman("start", "--attach", container).splitlines()
        assert said == _said(number, driver), f"start {number}"
