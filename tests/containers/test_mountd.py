"""podman on unionfs-quickmount: what it mounts is what unionfs-mount mounts, only sooner."""

import pytest

from testbed.images import BASE
from tests.containers.conftest import Engines
from tests.containers.engines import Who

pytestmark = [pytest.mark.container, pytest.mark.timeout(120)]

STEPS = f"""
FROM {BASE}
RUN echo changed >> /data/file && mv /data/dir /data/moved
RUN rm /data/file && mkdir /data/file
"""


def test_an_engine_builds_and_runs(who: Who, engines: Engines) -> None:
    engine = engines(who, "unionfs-mountd")
    image = engine.build(STEPS)
    container = engine.podman("create", image, "sh", "-c", "sleep 100")
    engine.podman("start", container)
    try:
        look = "cat /data/moved/1 && test -d /data/file && echo mine > /mine"
        assert engine.podman("exec", container, "sh", "-ec", look).split() == ["1"] * 100
        served_by = engine.inside("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
        assert "unionfs-mountd" in served_by
        assert "unionfs-mount\n" not in served_by
        assert "/mine" in engine.podman("diff", container)
    finally:
        engine.podman("rm", "--force", "--time=0", container)
        engine.podman("rmi", image)
    assert (engine.home / "mountd.log").read_text() == ""
