"""Fixtures of the container tests: one bed for the run, and in it an engine for each kind."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from typing import get_args

import pytest

pytest.register_assert_rewrite("tests.containers.steps", "tests.containers.engines")

from testbed.bed import UID, Bed, Failed  # noqa: E402
from tests.containers.engines import MOUNT_PROGRAM, Driver, Engine, Who  # noqa: E402

_PROGRAMS = ("bwrap", "buildah", "busybox", "cc", "crun", "newuidmap", "nsenter", "podman", "runc")

Engines = Callable[[Who, Driver], Engine]


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """Namespaces in which engines run, as root and as an ordinary user."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make the test bed's namespaces; it acts as other users in them")
    if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with Bed() as bed:
        yield bed


@pytest.fixture(scope="session")
def engines(bed: Bed) -> Engines:
    """engines(who, driver): an engine with a store of its own, made when it is first wanted."""
    return functools.cache(functools.partial(Engine, bed))


@pytest.fixture(scope="session")
def user_bed(bed: Bed) -> Bed:
    """The bed, where the ordinary user in it can run unionfs."""
    try:
        bed.run(MOUNT_PROGRAM, "--version", uid=UID)
    except Failed:
        pytest.skip(f"other users may not enter the directory of {MOUNT_PROGRAM}")
    return bed


@pytest.fixture(params=get_args(Who))
def who(request: pytest.FixtureRequest) -> Who:
    """Who uses the engine."""
    chosen: Who = request.param
    if chosen == "user":
        request.getfixturevalue("user_bed")
    return chosen


@pytest.fixture
def engine(who: Who, engines: Engines) -> Engine:
    """An engine over unionfs."""
    return engines(who, "unionfs")
