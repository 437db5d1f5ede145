"""Two names of one file of an image stay one file: what the kernel's driver does not do."""

import pytest

from testbed.images import BASE
from tests.containers.engines import Engine

pytestmark = [pytest.mark.container, pytest.mark.timeout(120)]

_BOTH = ["data/one-name", "data/other-name"]


def test_what_is_written_to_one_name_is_read_from_the_other(engine: Engine) -> None:
    """While the container runs, after a restart, and in the image that is committed then."""
    script = """
    [ -e /data/started ] || echo more >> /data/one-name
    touch /data/started
    cat /data/other-name
    stat -c %h /data/other-name
    """
    container = engine.podman("create", BASE, "sh", "-ec", script)
    for _ in range(2):
        said = engine.podman("start", "--attach", container)
        assert said.splitlines() == ["two names", "more", "2"]
    image = engine.podman("commit", "--quiet", container)
    engine.podman("rm", container)
    tree = engine.look(image)
    assert tree[_BOTH[0]] == tree[_BOTH[1]]
    assert tree[_BOTH[0]][7] == _BOTH


def test_a_commit_brings_along_a_name_that_nobody_looked_at(engine: Engine) -> None:
    container = engine.podman("create", BASE, "sh", "-ec", "echo more >> /data/one-name")
    engine.podman("start", "--attach", container)
    changes = engine.podman("diff", container).splitlines()
    image = engine.podman("commit", "--quiet", container)
    engine.podman("rm", container)
    assert {f"C /{name}" for name in _BOTH} < set(changes)
    assert engine.look(image)[_BOTH[1]][7] == _BOTH


def test_the_layers_of_a_build_keep_the_names_together(engine: Engine) -> None:
    image = engine.build(
        f"FROM {BASE}\nRUN echo more >> /data/one-name\nRUN cat /data/other-name\n"
    )
    tree = engine.look(image)
    assert tree[_BOTH[0]] == tree[_BOTH[1]]
    assert tree[_BOTH[0]][4] == len("two names\nmore\n")
