"""The same steps over unionfs and over kernel overlayfs leave the same, file by file.

Compared are mode, owner, links, capabilities and content; `python -m tests.containers` prints
the same comparison for fuse-overlayfs beside it.
"""

import pytest

from tests.containers.conftest import Engines
from tests.containers.engines import Who
from tests.containers.steps import STEPS, NotHere
from tests.mounted.trees import assert_same

pytestmark = [pytest.mark.container, pytest.mark.timeout(290)]


_SLOW = {
    "apt, dpkg, pip and npm in a Debian root",
    "apt and dpkg in an image of debootstrap",
    "100 layers",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.slow, pytest.mark.timeout(900)] if name in _SLOW else []
        )
        for name in STEPS
    ],
)
def test_a_step_leaves_the_same_as_over_kernel_overlayfs(
    name: str, who: Who, engines: Engines
) -> None:
    try:
        wanted = STEPS[name](engines(who, "overlayfs"))
    except NotHere as error:
        pytest.skip(str(error))
    found = STEPS[name](engines(who, "unionfs"))
    if isinstance(found, dict) and isinstance(wanted, dict):
        assert_same(wanted, found)
    assert found == wanted
