"""Runs every case in every place, each in a child process inside the place's mount."""

import os
import re
from collections.abc import Iterator

import pytest

from tests.posix import differences, process
from tests.posix.places import KINDS, NEEDS, Mounted

#: The places of the normal run; UNIONFS_TEST_PLACES names others (KINDS) or "all", by commas.
_DEFAULT = ["plain", "overlay-merged", *(kind for kind in KINDS if kind.startswith("unionfs-"))]
PLACES = os.environ.get("UNIONFS_TEST_PLACES", ",".join(_DEFAULT)).split(",")
if PLACES == ["all"]:
    PLACES = [kind for kind in KINDS if not kind.startswith("fuseoverlayfs")]

#: Topics of bytes and of paths, whose way through the union is the same in the three places below
#: as in `unionfs-merged`: these differ in whose the files are, what their modes are and who may do
#: what. In `unionfs-user` the way differs, too: without privileges the daemon keeps files open.
_SAME_FOR_EVERY_OWNER = {"direct", "ipc", "locks", "mmap", "names", "paths", "readdir"}
_SAME_FOR_EVERY_OWNER |= {"read_write"}
_OTHER_OWNERS = {"unionfs-mapped", "unionfs-namespace", "unionfs-records"}

#: pytest sets a failed session fixture up again for each case: once is enough.
_unmountable: set[str] = set()

#: The case in which a place hung: its connection has been aborted, the others cannot run.
_hung_in: dict[str, str] = {}

_workers: dict[str, process.Worker] = {}

_case_directory = pytest.StashKey[str]()
_number = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "remounted(check): check(place, result) after a remount")
    config.addinivalue_line("markers", "given(tree): what the case finds in its directory")
    config.addinivalue_line(
        "markers", f"needs(*what): what the case cannot do without: {', '.join(NEEDS)}"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave topics in which a place cannot differ to --long, unless it was asked for by name."""
    if "UNIONFS_TEST_PLACES" in os.environ:
        return
    for item in items:
        kind = _place_name(item)
        if kind is None:
            continue
        topics = KINDS[kind].topics
        as_elsewhere = kind in _OTHER_OWNERS and _topic(item) in _SAME_FOR_EVERY_OWNER
        if as_elsewhere or (topics is not None and _topic(item) not in topics):
            item.add_marker(pytest.mark.long)


def pytest_collection_finish(session: pytest.Session) -> None:
    for number, item in enumerate(session.items):
        kind = _place_name(item)
        if kind is None:
            continue
        name = getattr(item, "originalname", item.name)
        item.stash[_number] = number
        item.stash[_case_directory] = f"{number}-{name}"
        for need in _needs(item) - KINDS[kind].can:
            item.add_marker(pytest.mark.skip(f"{kind}: {NEEDS[need]}"))


def _place_name(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    found = callspec.params.get("mounted") if callspec else None
    return found if isinstance(found, str) else None


def _topic(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("test_")


def _needs(item: pytest.Item) -> set[str]:
    return {need for mark in item.iter_markers("needs") for need in mark.args}


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> None:
    """In place of the check after every test: a place's mounts live and die with its namespace.

    Looking through /proc for each of thousands of short cases would cost more than the cases.
    """


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
    worker = place.worker(lambda what: _execute(request.session.items[what[0]], place, *what[1:]))
    _workers[name] = worker
    yield place
    worker.close()
    place.close()


@pytest.fixture
def place(mounted: Mounted) -> None:
    """The case's own directory, mode 0777; made where the case runs, by `_execute`."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a case in a child inside its place, and hold it against the table of differences."""
    name = _place_name(pyfuncitem)
    if name is None:
        return None
    if name in _hung_in:
        pytest.fail(f"{name} was aborted when it hung in {_hung_in[name]}", pytrace=False)
    try:
        failure, facts = _workers[name].call((pyfuncitem.stash[_number], False, None))
        if failure is None and pyfuncitem.get_closest_marker("remounted"):
            _workers[name].close()  # what a case left open would keep the place busy
            mounted = pyfuncitem.funcargs["mounted"]
            assert isinstance(mounted, Mounted)
            mounted.remount()
            failure, _ = _workers[name].call((pyfuncitem.stash[_number], True, facts))
    except process.Hung as error:
        _hung_in[name] = pyfuncitem.name
        failure = f"Hung: {error}"
    except process.Broken as error:
        failure = f"Broken: {error}"
    _judge(pyfuncitem, name, failure)
    return True


def _execute(
    item: pytest.Item, mounted: Mounted, remounted: bool, facts: object
) -> tuple[str | None, object]:
    """In the child: run one case; the report of its failure, or None, and what it returned.

    A case marked `remounted(check)` is followed, after the place was mounted again, by
    check(place, what the case returned).
    """
    assert isinstance(item, pytest.Function)
    place = mounted.place(item.stash[_case_directory])
    try:
        if remounted:
            mark = item.get_closest_marker("remounted")
            assert mark is not None
            return None, mark.args[0](place, facts)
        arguments = {
            name: item.callspec.params[name]
            for name in item._fixtureinfo.argnames
            if name != "place"
        }
        return None, item.obj(place=place, **arguments)
    except BaseException:
        return str(item.repr_failure(pytest.ExceptionInfo.from_current())), None


def _judge(item: pytest.Function, place: str, failure: str | None) -> None:
    parameters = re.sub(rf"\[({re.escape(place)})(?:-(.*))?\]$", r"[\2]", item.name, flags=re.S)
    case = f"{_topic(item)}::{parameters.removesuffix('[]').removeprefix('test_')}"
    row = differences.find(place, case)
    if failure is None:
        if row is not None:
            pytest.fail(f"passes although a difference is listed: {row}", pytrace=False)
    elif row is not None and row.seen in failure:
        pytest.xfail(row.reason)
    else:
        pytest.fail(failure, pytrace=False)
