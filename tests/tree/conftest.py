"""Unions on plain directories, without a mount."""

import gc
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.mounts import mounts_below
from tests.tree.union import FORMATS, Union

#: No test here waits for anything but its own system calls.
TIMEOUT = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("owners, devices and trusted.* attributes of branches are root's to set")


@pytest.fixture(scope="package", autouse=True)
def _nothing_is_left_by_others() -> None:
    """Garbage of tests elsewhere may hold descriptors, and be collected in the middle of a test."""
    gc.collect()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """In the place of the fixture above: nothing is started here, so no process is looked for.

    Descriptors are, instead: a tree that is closed gives every one back.
    """
    directory = Path(tempfile.gettempdir())
    before = os.listdir("/proc/self/fd"), mounts_below(directory)
    yield
    gc.collect(0)
    assert (os.listdir("/proc/self/fd"), mounts_below(directory)) == before


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that is gone after the test."""
    path = Path(tempfile.mkdtemp(prefix="tree-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def tmpfs(base: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a filesystem in memory and returns its directory: a tmpfs, or another type."""
    with ExitStack() as mounts:

        def mount(name: str, options: str = "size=64m", kind: str = "tmpfs") -> Path:
            path = base / name
            path.mkdir()
            subprocess.run(["mount", "-t", kind, "-o", options, kind, path], check=True)
            mounts.callback(partial(subprocess.run, ["umount", "-l", path], check=True))
            return path

        yield mount


@pytest.fixture
def scarce(base: Path, tmpfs: Callable[..., Path]) -> Callable[[int], None]:
    """The upper and the work directory where a test says how many inodes are left."""
    fs = tmpfs("fs", "nr_inodes=64")
    for name in ("upper", "work"):
        (fs / name).mkdir()
        (base / name).symlink_to(fs / name)

    def leave(free: int) -> None:
        for filler in fs.glob("filler-*"):
            filler.unlink()
        for number in range(os.statvfs(fs).f_ffree - free):
            (fs / f"filler-{number}").touch()

    return leave


@pytest.fixture(params=FORMATS)
def whiteout(request: pytest.FixtureRequest) -> str:
    """A format of whiteouts."""
    format_: str = request.param
    return format_


@pytest.fixture
def make_union(base: Path) -> Iterator[Callable[..., Union]]:
    """Makes a union of directories below the test's; arguments are those of `Union`."""
    made = []

    def make(lowers: int = 2, **options: object) -> Union:
        union = Union(base, lowers, **options)  # type: ignore[arg-type]
        made.append(union)
        return union

    yield make
    for union in made:
        union.restart()


@pytest.fixture
def union(make_union: Callable[..., Union]) -> Union:
    """Two lowers under an upper, whiteouts as aufs writes them."""
    return make_union()


@pytest.fixture
def formatted(make_union: Callable[..., Union], whiteout: str) -> Union:
    """Two lowers under an upper, in either format."""
    return make_union(whiteout=whiteout)
