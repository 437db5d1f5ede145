"""Listing directories: getdents64(2) with its offsets."""

import os
import stat
from collections.abc import Callable
from errno import EINVAL, ENOENT, ENOTDIR

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, names, opened, write
from tests.posix.places import Place
from tests.posix.trees import Dir, File, Special, Symlink, given

HUNDRED = {f"entry-{number:03}": File() for number in range(100)}
TREE = {
    "file": File(),
    "dir": Dir(children={"child": File()}),
    "link": Symlink(target="file"),
    "fifo": Special(type=stat.S_IFIFO),
    "socket": Special(type=stat.S_IFSOCK),
}
DTYPES = {"file": 8, "dir": 4, "link": 10, "fifo": 1, "socket": 12, ".": 4, "..": 4}

sizes = pytest.mark.parametrize("size", [64, 200, 1024, 32768])


def _names(entries: list[calls.Entry]) -> list[str]:
    return [entry.name for entry in entries if entry.name not in (".", "..")]


@sizes
@given(HUNDRED)
def test_everything_once(place: Place, size: int) -> None:
    with opened(place.path, os.O_DIRECTORY) as fd:
        found = [entry.name for entry in calls.list_all(fd, size)]
    assert sorted(found) == sorted([*HUNDRED, ".", ".."])


@given(TREE)
def test_types(place: Place) -> None:
    with opened(place.path, os.O_DIRECTORY) as fd:
        assert {entry.name: entry.dtype for entry in calls.list_all(fd)} == DTYPES


@given(TREE)
def test_dots_lead_where_they_say(place: Place) -> None:
    with opened(place / "dir", os.O_DIRECTORY) as fd:
        found = {entry.name: entry.ino for entry in calls.list_all(fd)}
    assert found["."] == os.stat(place / "dir").st_ino
    assert found[".."] == os.stat(place.path).st_ino
    assert found["child"] == os.stat(place / "dir/child").st_ino


@given(HUNDRED)
def test_rewind_shows_what_is_new(place: Place) -> None:
    with opened(place.path, os.O_DIRECTORY) as fd:
        assert len(_names(calls.list_all(fd))) == 100
        write(place / "new", b"")
        os.unlink(place / "entry-050")
        os.lseek(fd, 0, os.SEEK_SET)
        assert set(_names(calls.list_all(fd))) == set(HUNDRED) - {"entry-050"} | {"new"}


@given(HUNDRED)
def test_every_offset_continues(place: Place) -> None:
    """telldir(3) and seekdir(3): from each entry's offset exactly the rest follows."""
    with opened(place.path, os.O_DIRECTORY) as fd:
        whole = calls.list_all(fd)
        for index in (0, 1, 2, 17, 50, 99, 100, 101):
            os.lseek(fd, whole[index].offset, os.SEEK_SET)
            assert calls.list_all(fd, 200) == whole[index + 1 :]


@given(HUNDRED)
def test_offsets_survive_removal(place: Place) -> None:
    with opened(place.path, os.O_DIRECTORY) as fd:
        whole = calls.list_all(fd)
        for entry in whole[:50]:
            if entry.name not in (".", ".."):
                os.unlink(place / entry.name)
        os.lseek(fd, whole[49].offset, os.SEEK_SET)
        assert _names(calls.list_all(fd)) == _names(whole[50:])


@sizes
@given(HUNDRED)
def test_removal_while_listing(place: Place, size: int) -> None:
    """`rm -rf`: what is removed behind the position must not shift what lies ahead."""
    removed = []
    with opened(place.path, os.O_DIRECTORY) as fd:
        while some := calls.getdents(fd, size):
            for name in _names(some):
                os.unlink(place / name)
                removed.append(name)
    assert sorted(removed) == sorted(HUNDRED)
    assert names(place.path) == set()
    os.rmdir(place.path)
    os.mkdir(place.path)


@given(HUNDRED)
def test_creation_while_listing_ends(place: Place) -> None:
    """New names may show or not, but nothing twice, all the old ones, and an end."""
    found: list[str] = []
    with opened(place.path, os.O_DIRECTORY) as fd:
        while some := calls.getdents(fd, 300):
            found += _names(some)
            assert len(found) < 1000
            if len(found) < 500:
                write(place / f"new-{len(found)}", b"")
    assert len(found) == len(set(found))
    assert set(HUNDRED) <= set(found)


@given(HUNDRED)
def test_rename_while_listing(place: Place) -> None:
    found: list[str] = []
    with opened(place.path, os.O_DIRECTORY) as fd:
        while some := calls.getdents(fd, 400):
            found += _names(some)
            if "entry-099" in names(place.path):
                os.rename(place / "entry-099", place / "entry-099x")
    untouched = set(HUNDRED) - {"entry-099"}
    assert untouched <= set(found)
    assert len([name for name in found if name in untouched]) == len(untouched)


@pytest.mark.parametrize("change", ["rename", "create"])
@given(HUNDRED)
def test_adding_a_name_for_each_ends(place: Place, change: str) -> None:
    """`for name in *; do mv $name $name.bak` ends, and has met every name once.

    ext4 may meet some of the new names too.
    """
    found: list[str] = []
    with opened(place.path, os.O_DIRECTORY) as fd:
        while some := calls.getdents(fd, 400):
            for name in _names(some):
                found.append(name)
                assert len(found) < 10 * len(HUNDRED), "the reader meets what it has renamed"
                if change == "rename":
                    os.rename(place / name, place / f"{name}+")
                else:
                    write(place / f"{name}+", b"")
    assert len(found) == len(set(found))
    assert set(HUNDRED) <= set(found)


@given(HUNDRED)
def test_two_descriptors_do_not_disturb(place: Place) -> None:
    with opened(place.path, os.O_DIRECTORY) as one, opened(place.path, os.O_DIRECTORY) as two:
        first = calls.getdents(one, 500)
        assert len(_names(calls.list_all(two))) == 100
        rest = calls.list_all(one)
    assert sorted(_names(first + rest)) == sorted(HUNDRED)


@given(TREE)
def test_small_buffer(place: Place) -> None:
    with opened(place.path, os.O_DIRECTORY) as fd, fails(EINVAL):
        calls.getdents(fd, 8)


@given(TREE)
def test_not_a_directory(place: Place) -> None:
    with opened(place / "file") as fd, fails(ENOTDIR):
        calls.getdents(fd)


@given(TREE)
def test_removed_directory(place: Place) -> None:
    with opened(place / "dir", os.O_DIRECTORY) as fd:
        os.unlink(place / "dir/child")
        os.rmdir(place / "dir")
        try:
            assert _names(calls.list_all(fd)) == []
        except OSError as error:
            assert error.errno == ENOENT


@given(TREE)
def test_one_descriptor_sees_every_change(place: Place) -> None:
    with opened(place / "dir", os.O_DIRECTORY) as fd:
        steps: list[tuple[Callable[[], object], set[str]]] = [
            (lambda: write(place / "dir/a", b""), {"child", "a"}),
            (lambda: os.mkdir(place / "dir/b"), {"child", "a", "b"}),
            (lambda: os.unlink(place / "dir/child"), {"a", "b"}),
            (lambda: os.rename(place / "dir/a", place / "dir/c"), {"b", "c"}),
            (lambda: os.rename(place / "file", place / "dir/b2"), {"b", "b2", "c"}),
            (lambda: os.rename(place / "dir/c", place / "dir/b2"), {"b", "b2"}),
            (lambda: os.symlink("t", place / "dir/child"), {"b", "b2", "child"}),
            (lambda: os.link(place / "dir/b2", place / "dir/l"), {"b", "b2", "child", "l"}),
        ]
        for step, expected in steps:
            step()
            os.lseek(fd, 0, os.SEEK_SET)
            assert set(_names(calls.list_all(fd))) == expected


def test_large_directory(place: Place) -> None:
    for number in range(3000):
        os.mknod(place / f"{number:04}")
    assert names(place.path) == {f"{number:04}" for number in range(3000)}
    for number in range(0, 3000, 2):
        os.unlink(place / f"{number:04}")
    assert names(place.path) == {f"{number:04}" for number in range(1, 3000, 2)}


@given({"dir": Dir(children={"n" * 255: File(), "m" * 254: File(), "x": File()})})
def test_long_names(place: Place) -> None:
    assert names(place / "dir") == {"n" * 255, "m" * 254, "x"}


@given(TREE)
def test_scandir_and_walk(place: Place) -> None:
    assert sorted(
        (os.path.relpath(top, place.path), sorted(directories), sorted(files))
        for top, directories, files in os.walk(place.path)
    ) == [(".", ["dir"], ["fifo", "file", "link", "socket"]), ("dir", [], ["child"])]
