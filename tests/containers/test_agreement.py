"""The same steps over unionfs and over kernel overlayfs leave the same, file by file.

Compared are mode, owner, links, capabilities and content; `python -m tests.containers` prints
the same comparison for fuse-overlayfs beside it.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.containers.conftest import Engines
from tests.containers.engines import Who
from tests.containers.steps import STEPS, NotHere
from tests.mounted.trees import assert_same

pytestmark = [pytest.mark.container, pytest.mark.timeout(290)]


#: The steps that may take long, and why.
_SLOW = {
    "apt, dpkg, pip and npm in a Debian root": "two engines install and remove many packages",
    "apt and dpkg in an image of debootstrap": "two engines install and remove many packages",
    "100 layers": "two engines build a hundred layers",
    "build, a layer for each step": "two engines build an image of many layers",
}


def _marks(name: str) -> list[pytest.MarkDecorator]:
    if name not in _SLOW:
        return []
    return [pytest.mark.slow(reason=_SLOW[name]), pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=_marks(name)) for name in STEPS],
)
def test_a_step_leaves_the_same_as_over_kernel_overlayfs(
    name: str, who: Who, engines: Engines
) -> None:
    both = engines(who, "overlayfs"), engines(who, "unionfs")
    # Side by side: containers/storage sleeps to the next full second after each layer.
    with ThreadPoolExecutor(2) as pool:
        try:
            wanted, found = pool.map(STEPS[name], both)
        except NotHere as error:
            pytest.skip(str(error))
    if isinstance(found, dict) and isinstance(wanted, dict):
        assert_same(wanted, found)
    assert found == wanted
