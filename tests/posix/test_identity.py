"""A file stays the file it is: through copy-up, rename, forgotten caches and remounts."""

import os
import stat
from typing import Any

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, names, opened, read, same, write
from tests.posix.places import Place, remounted
from tests.posix.trees import Dir, File, Hardlink, Special, Symlink, given

TREE = {
    "file": File(content=b"file"),
    "pair": File(content=b"pair"),
    "dir": Dir(
        mode=0o755,
        children={
            "twin": Hardlink(to="pair"),
            "child": File(content=b"child"),
            "sub": Dir(children={"deep": File(content=b"deep")}),
        },
    ),
    "link": Symlink(target="file"),
    "fifo": Special(type=stat.S_IFIFO),
    "socket": Special(type=stat.S_IFSOCK),
    "empty": Dir(),
}
ALL = ["file", "pair", "dir", "link", "fifo", "socket", "empty", "dir/twin", "dir/sub/deep"]


def _facts(place: Place) -> dict[str, tuple[int, ...]]:
    """What must stay of every file below the place, and that listings agree with it."""
    found: dict[str, tuple[int, ...]] = {}
    for top, directories, files in os.walk(place.path):
        with os.scandir(top) as entries:
            listed = {entry.name: entry.inode() for entry in entries}
        assert set(listed) == set(directories + files)
        for name in directories + files:
            path = os.path.join(top, name)
            st = os.lstat(path)
            assert listed[name] == st.st_ino, path
            links = 0 if stat.S_ISDIR(st.st_mode) else st.st_nlink
            found[os.path.relpath(path, place.path)] = (
                st.st_ino, st.st_mode, links, st.st_uid, st.st_gid, st.st_mtime_ns
            )  # fmt: skip
    return found


def _unchanged(place: Place, before: dict[str, tuple[int, ...]]) -> None:
    assert _facts(place) == before


def _do_nothing(place: Place) -> None:
    pass


def _change_attributes(place: Place) -> None:
    for name in ALL:
        os.utime(place / name, (1, 2), follow_symlinks=False)


def _take_rights_away(place: Place) -> None:
    """Of the owner too: what says who a file is must not be lost with them."""
    os.utime(place / "empty", (1, 2))
    for name in ("file", "pair", "dir/sub/deep"):
        os.chmod(place / name, 0o200)
        os.chmod(place / name, 0)


def _change_content(place: Place) -> None:
    for name in ("file", "pair", "dir/sub/deep"):
        write(place / name, b"new")


def _rename(place: Place) -> None:
    for name in ("file", "pair", "link", "fifo", "socket", "empty"):
        os.rename(place / name, place / name + "-moved")
    os.rename(place / "dir", place / "dir-moved")
    os.rename(place / "dir-moved/sub", place / "sub-moved")


def _exchange(place: Place) -> None:
    calls.renameat2(place / "dir", place / "file", calls.RENAME_EXCHANGE)
    calls.renameat2(place / "fifo", place / "link", calls.RENAME_EXCHANGE)


def _link(place: Place) -> None:
    for name in ("file", "pair", "fifo", "link"):
        os.link(place / name, place / "empty/" + name, follow_symlinks=False)


def _unlink(place: Place) -> None:
    os.unlink(place / "pair")
    os.unlink(place / "dir/child")
    os.unlink(place / "fifo")


def _replace(place: Place) -> None:
    write(place / "tmp", b"replaced")
    os.rename(place / "tmp", place / "file")
    os.rename(place / "empty", place / "gone")
    os.mkdir(place / "empty")
    os.rmdir(place / "gone")


def _move_over(place: Place) -> None:
    os.rename(place / "dir/twin", place / "file")
    os.rename(place / "dir/sub", place / "empty")


CHANGES = {
    function.__name__[1:]: function
    for function in (
        _do_nothing, _change_attributes, _take_rights_away, _change_content, _rename, _exchange,
        _link, _unlink, _replace, _move_over,
    )
}  # fmt: skip
each_change = pytest.mark.parametrize("change", CHANGES)


@pytest.mark.parametrize("change", [change for change in CHANGES if change != "replace"])
@given(TREE)
def test_inode_numbers_follow_the_files(place: Place, change: str) -> None:
    """Each number was there before, for a file of the same type."""
    before = {facts[0]: stat.S_IFMT(facts[1]) for facts in _facts(place).values()}
    CHANGES[change](place)
    after = {facts[0]: stat.S_IFMT(facts[1]) for facts in _facts(place).values()}
    assert after.items() <= before.items()


@pytest.mark.needs("caches")
@each_change
@given(TREE)
def test_forgotten(place: Place, change: str) -> None:
    CHANGES[change](place)
    before = _facts(place)
    place.drop_caches()
    assert _facts(place) == before


@remounted(_unchanged)
@each_change
@given(TREE)
def test_remounted(place: Place, change: str) -> dict[str, tuple[int, ...]]:
    CHANGES[change](place)
    return _facts(place)


@remounted(_unchanged)
@given(TREE)
def test_unchanged_and_remounted(place: Place) -> dict[str, tuple[int, ...]]:
    before = _facts(place)
    for top, _, files in os.walk(place.path):
        for name in files:
            if stat.S_ISREG(os.lstat(os.path.join(top, name)).st_mode):
                read(os.path.join(top, name))
    return before


def _links_are_one(place: Place, ino: int) -> None:
    assert same(place / "pair", place / "dir/twin")
    assert os.stat(place / "pair").st_ino == ino
    assert os.stat(place / "pair").st_nlink == 2
    write(place / "dir/twin", b"after")
    assert read(place / "pair") == b"after"
    os.unlink(place / "dir/twin")
    assert os.stat(place / "pair").st_nlink == 1


@remounted(_links_are_one)
@pytest.mark.parametrize("name", ["pair", "dir/twin"])
@given(TREE)
def test_links_written_through_one_name(place: Place, name: str) -> int:
    ino = os.stat(place / "pair").st_ino
    write(place / name, b"written")
    return ino


@remounted(_links_are_one)
@given(TREE)
def test_links_never_touched(place: Place) -> int:
    return os.stat(place / "pair").st_ino


@pytest.mark.needs("caches")
@pytest.mark.parametrize("name", ["pair", "dir/twin"])
@given(TREE)
def test_links_after_forgetting(place: Place, name: str) -> None:
    ino = os.stat(place / "pair").st_ino
    write(place / name, b"written")
    place.drop_caches()
    _links_are_one(place, ino)


@pytest.mark.needs("caches")
@given(TREE)
def test_open_files_survive_forgetting(place: Place) -> None:
    with (
        opened(place / "file", os.O_RDWR) as plain,
        opened(place / "pair", os.O_RDWR) as gone,
        opened(place / "dir", os.O_DIRECTORY) as directory,
        opened(place / "dir/child", os.O_PATH) as path,
    ):
        os.unlink(place / "pair")
        os.unlink(place / "dir/twin")
        os.rename(place / "file", place / "moved")
        os.rename(place / "dir", place / "dir-moved")
        place.drop_caches()
        assert os.fstat(gone).st_nlink == 0
        assert os.pread(gone, 10, 0) == b"pair"
        os.pwrite(gone, b"PAIR", 0)
        os.pwrite(plain, b"FILE", 0)
        place.drop_caches()
        assert os.pread(gone, 10, 0) == b"PAIR"
        assert read(place / "moved") == b"FILE"
        assert set(os.listdir(directory)) == {"child", "sub"}
        assert same(path, place / "dir-moved/child")


@pytest.mark.needs("caches")
@given(TREE)
def test_working_directory_survives_forgetting(place: Place) -> None:
    os.chdir(place / "dir/sub")
    os.rename(place / "dir", place / "moved")
    place.drop_caches()
    assert os.getcwd() == place / "moved/sub"
    assert read("deep") == b"deep"
    write("new", b"n")
    place.drop_caches()
    assert names(place / "moved/sub") == {"deep", "new"}


@pytest.mark.needs("caches")
@given(TREE)
def test_missing_names_survive_forgetting(place: Place) -> None:
    os.unlink(place / "file")
    os.unlink(place / "dir/child")
    os.rmdir(place / "empty")
    for _ in range(2):
        for name in ("file", "dir/child", "empty", "never"):
            with fails(2):
                os.lstat(place / name)
        place.drop_caches()


@pytest.mark.needs("caches")
@given({str(number): File() for number in range(100)})
def test_listing_survives_forgetting(place: Place) -> None:
    with opened(place.path, os.O_DIRECTORY) as fd:
        found = calls.getdents(fd, 700)
        position = found[-1].offset
        place.drop_caches()
        found += calls.list_all(fd, 700)
        os.lseek(fd, position, os.SEEK_SET)
        rest = calls.list_all(fd)
    seen = [entry.name for entry in found if entry.name not in (".", "..")]
    assert sorted(seen, key=int) == [str(number) for number in range(100)]
    assert rest == found[-len(rest) :]


def _holds(place: Place, facts: Any) -> None:
    assert {name: read(place / name) for name in facts} == facts
    with fails(2):
        os.stat(place / "gone")
    assert names(place / "again") == set()


@remounted(_holds)
@given(
    {
        "file": File(content=b"old" * 10_000),
        "gone": File(),
        "again": Dir(children={"old": File(), "older": Dir()}),
        "dir": Dir(children={"child": File(content=b"child")}),
    }
)
def test_changes_outlive_a_remount(place: Place) -> dict[str, bytes]:
    with opened(place / "file", os.O_RDWR) as fd:
        os.pwrite(fd, b"new", 12_345)
    os.unlink(place / "gone")
    os.unlink(place / "again/old")
    os.rmdir(place / "again/older")
    os.rmdir(place / "again")
    os.mkdir(place / "again")
    os.rename(place / "dir", place / "moved")
    write(place / "moved/new", b"n")
    facts = {name: read(place / name) for name in ("file", "moved/child", "moved/new")}
    assert len(facts["file"]) == 30_000 and facts["file"][12_345:12_348] == b"new"
    return facts
