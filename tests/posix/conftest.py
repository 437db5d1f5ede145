"""Runs every case in every place, each in a child process inside the place's mount."""

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.posix import differences, process
from tests.posix.places import KINDS, NEEDS, Mounted, Place

#: The places of the normal run; UNIONFS_TEST_PLACES names others, separated by commas.
_DEFAULT = [name for name in KINDS if not name.startswith("fuseoverlayfs")]
PLACES = os.environ.get("UNIONFS_TEST_PLACES", ",".join(_DEFAULT)).split(",")

#: pytest sets a failed session fixture up again for each case: once is enough.
_unmountable: set[str] = set()

_case_directory = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "given(tree): what the case finds in its directory")
    config.addinivalue_line(
        "markers", f"needs(*what): what the case cannot do without: {', '.join(NEEDS)}"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for number, item in enumerate(items):
        kind = _place_name(item)
        if kind is None:
            continue
        name = getattr(item, "originalname", item.name)
        item.stash[_case_directory] = f"{number}-{name}"
        for need in _needs(item) - KINDS[kind].can:
            item.add_marker(pytest.mark.skip(f"{kind}: {NEEDS[need]}"))


def _place_name(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    found = callspec.params.get("mounted") if callspec else None
    return found if isinstance(found, str) else None


def _needs(item: pytest.Item) -> set[str]:
    return {need for mark in item.iter_markers("needs") for need in mark.args}


@pytest.fixture(scope="session", params=PLACES)
def mounted(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """One mount, prepared for all the cases of this run that use it."""
    name = request.param
    if os.geteuid() != 0 and KINDS[name].caller != "user":
        pytest.skip(f"{name}: mounting it and acting as other users needs root")
    cases = {}
    for item in request.session.items:
        if _place_name(item) == name and not item.get_closest_marker("skip"):
            mark = item.get_closest_marker("given")
            cases[item.stash[_case_directory]] = mark.args[0] if mark else {}
    if name in _unmountable:
        pytest.fail(f"{name} could not be mounted before", pytrace=False)
    try:
        place = Mounted(name, cases)
    except Exception:
        _unmountable.add(name)
        raise
    yield place
    place.close()


@pytest.fixture
def place(mounted: Mounted, request: pytest.FixtureRequest) -> Place:
    """The case's own directory, mode 0777."""
    return mounted.place(request.node.stash[_case_directory])


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a case in a child inside its place, and hold it against the table of differences."""
    if "place" not in pyfuncitem.funcargs:
        return None
    mounted: Mounted = pyfuncitem.funcargs["mounted"]
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    def run() -> str | None:
        try:
            pyfuncitem.obj(**arguments)
        except BaseException:
            return str(pyfuncitem.repr_failure(pytest.ExceptionInfo.from_current()))
        return None

    try:
        failure: Any = mounted.run(run)
    except process.Hung as error:
        failure = f"Hung: {error}; the connection was aborted"
    _judge(pyfuncitem, mounted.name, failure)
    return True


def _judge(item: pytest.Function, place: str, failure: str | None) -> None:
    topic = re.sub(r"^test_", "", item.path.stem)
    parameters = re.sub(rf"\[({re.escape(place)})(?:-(.*))?\]$", r"[\2]", item.name, flags=re.S)
    case = f"{topic}::{parameters.removesuffix('[]').removeprefix('test_')}"
    row = differences.find(place, case)
    if failure is None:
        if row is not None:
            pytest.fail(f"passes although a difference is listed: {row}", pytrace=False)
    elif row is not None and row.seen in failure:
        pytest.xfail(row.reason)
    else:
        pytest.fail(failure, pytrace=False)
