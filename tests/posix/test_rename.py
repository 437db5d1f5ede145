"""rename(2) and renameat2(2)."""

import os
import stat
from errno import (
    EACCES,
    EEXIST,
    EINVAL,
    EISDIR,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EXDEV,
)

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, names, opened, raised, read, same, stamped, write
from tests.posix.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from tests.posix.places import USER, Place
from tests.posix.trees import Dir, File, Hardlink, Special, Symlink, given

TREE = {
    "file": File(content=b"file", mode=0o640),
    "other": File(content=b"other"),
    "pair": File(content=b"pair"),
    "twin": Hardlink(to="pair"),
    "link": Symlink(target="file"),
    "fifo": Special(type=stat.S_IFIFO),
    "socket": Special(type=stat.S_IFSOCK),
    "empty": Dir(),
    "empty2": Dir(),
    "full": Dir(
        mode=0o750,
        children={
            "a": File(content=b"a"),
            "b": File(content=b"b"),
            "sub": Dir(children={"deep": File(content=b"deep")}),
        },
    ),
    "full2": Dir(children={"x": File(content=b"x")}),
}

KINDS = ["file", "pair", "link", "fifo", "socket", "empty", "full"]


def _tree(path: str) -> dict[str, tuple[int, bytes]]:
    """Everything below a path: its type and content."""
    found = {}
    for top, directories, files in os.walk(path):
        for name in directories + files:
            full = os.path.join(top, name)
            st = os.lstat(full)
            data = read(full) if stat.S_ISREG(st.st_mode) else b""
            found[os.path.relpath(full, path)] = (stat.S_IFMT(st.st_mode), data)
    return found


FULL = {
    "a": (stat.S_IFREG, b"a"),
    "b": (stat.S_IFREG, b"b"),
    "sub": (stat.S_IFDIR, b""),
    "sub/deep": (stat.S_IFREG, b"deep"),
}


@pytest.mark.parametrize("name", KINDS)
@given(TREE)
def test_to_a_new_name(place: Place, name: str) -> None:
    before = os.lstat(place / name)
    os.rename(place / name, place / "new")
    after = os.lstat(place / "new")
    assert (after.st_ino, after.st_mode, after.st_size, after.st_nlink, after.st_mtime_ns) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
        before.st_nlink,
        before.st_mtime_ns,
    )
    assert name not in names(place.path) and "new" in names(place.path)
    with fails(ENOENT):
        os.lstat(place / name)


@pytest.mark.parametrize("name", KINDS)
@given(TREE)
def test_to_another_directory(place: Place, name: str) -> None:
    before = os.lstat(place / name)
    os.rename(place / name, place / "full2/new")
    assert same(place / "full2/new", place / "full2/new")
    assert os.lstat(place / "full2/new").st_ino == before.st_ino
    assert names(place / "full2") == {"x", "new"}
    if name == "full":
        assert _tree(place / "full2/new") == FULL
        assert os.path.samefile(place / "full2/new/..", place / "full2")


@pytest.mark.parametrize("source", ["file", "pair", "link", "fifo", "socket"])
@pytest.mark.parametrize("target", ["other", "link", "fifo"])
@given(TREE)
def test_replaces(place: Place, source: str, target: str) -> None:
    before = os.lstat(place / source)
    os.rename(place / source, place / target)
    assert os.lstat(place / target).st_ino == before.st_ino
    assert (source in names(place.path)) == (source == target)


@pytest.mark.parametrize("source", ["empty", "full"])
@given(TREE)
def test_replaces_an_empty_directory(place: Place, source: str) -> None:
    before = os.stat(place / source)
    expected = _tree(place / source)
    os.rename(place / source, place / "empty2")
    assert os.stat(place / "empty2").st_ino == before.st_ino
    assert _tree(place / "empty2") == expected
    assert source not in names(place.path)


@pytest.mark.parametrize("source", ["empty", "full"])
@given(TREE)
def test_replaces_a_directory_emptied_before(place: Place, source: str) -> None:
    expected = _tree(place / source)
    os.unlink(place / "full2/x")
    os.rename(place / source, place / "full2")
    assert _tree(place / "full2") == expected


@given(TREE)
def test_over_a_full_directory(place: Place) -> None:
    with fails(ENOTEMPTY, EEXIST):
        os.rename(place / "empty", place / "full")
    assert _tree(place / "full") == FULL


@pytest.mark.parametrize("source", ["file", "link", "fifo"])
@given(TREE)
def test_file_over_a_directory(place: Place, source: str) -> None:
    with fails(EISDIR):
        os.rename(place / source, place / "empty")


@pytest.mark.parametrize("target", ["file", "link", "fifo"])
@given(TREE)
def test_directory_over_a_file(place: Place, target: str) -> None:
    with fails(ENOTDIR):
        os.rename(place / "empty", place / target)


@given(TREE)
def test_to_itself(place: Place) -> None:
    for name in ("file", "full"):
        os.rename(place / name, place / name)
        assert name in names(place.path)


@given(TREE)
def test_over_its_own_twin_does_nothing(place: Place) -> None:
    os.rename(place / "pair", place / "twin")
    assert {"pair", "twin"} <= names(place.path)
    assert os.stat(place / "pair").st_nlink == 2


@given(TREE)
def test_into_itself(place: Place) -> None:
    for target in ("full/new", "full/sub/new", "full/sub"):
        with fails(EINVAL, ENOTEMPTY):
            os.rename(place / "full", place / target)


@given(TREE)
def test_over_an_ancestor(place: Place) -> None:
    with fails(ENOTEMPTY):
        os.rename(place / "full/sub", place / "full")


@given(TREE)
def test_dots(place: Place) -> None:
    for source, target in (
        ("full/.", "new"),
        ("full/..", "new"),
        ("empty", "full/."),
        ("empty", "full/.."),
    ):
        with fails(EINVAL, 16):  # EBUSY
            os.rename(place / source, place / target)


@given(TREE)
def test_missing(place: Place) -> None:
    with fails(ENOENT):
        os.rename(place / "missing", place / "new")


@given(TREE)
def test_slashes(place: Place) -> None:
    os.rename(place / "empty/", place / "moved/")
    with fails(ENOTDIR):
        os.rename(place / "file", place / "moved2/")
    with fails(ENOTDIR):
        os.rename(place / "file/", place / "moved2")


@given(TREE)
def test_other_filesystem(place: Place) -> None:
    with fails(EXDEV):
        os.rename(place / "file", "/dev/shm/unionfs-test-rename")


@given(TREE)
def test_directory_with_content_keeps_everything(place: Place) -> None:
    os.rename(place / "full", place / "moved")
    assert _tree(place / "moved") == FULL
    assert os.stat(place / "moved").st_mode & 0o777 == 0o750
    write(place / "moved/a", b"A")
    os.unlink(place / "moved/b")
    write(place / "moved/c", b"c")
    os.rename(place / "moved", place / "again")
    assert _tree(place / "again") == {
        "a": (stat.S_IFREG, b"A"),
        "c": (stat.S_IFREG, b"c"),
        "sub": (stat.S_IFDIR, b""),
        "sub/deep": (stat.S_IFREG, b"deep"),
    }


@given(TREE)
def test_old_name_of_a_directory_starts_empty(place: Place) -> None:
    os.rename(place / "full", place / "moved")
    with fails(ENOENT):
        os.stat(place / "full/a")
    os.mkdir(place / "full")
    assert names(place / "full") == set()
    with fails(ENOENT):
        os.stat(place / "full/a")
    os.rename(place / "moved/a", place / "full/a")
    assert read(place / "full/a") == b"a"


@given(TREE)
def test_directories_trade_places_by_three_renames(place: Place) -> None:
    os.rename(place / "full", place / "tmp")
    os.rename(place / "full2", place / "full")
    os.rename(place / "tmp", place / "full2")
    assert names(place / "full") == {"x"}
    assert _tree(place / "full2") == FULL


@given(TREE)
def test_chain_of_directory_renames(place: Place) -> None:
    os.rename(place / "full/sub", place / "full2/sub")
    os.rename(place / "full2", place / "full/inner")
    os.rename(place / "full", place / "outer")
    assert read(place / "outer/inner/sub/deep") == b"deep"
    assert read(place / "outer/inner/x") == b"x"
    assert names(place / "outer") == {"a", "b", "inner"}


@given(TREE)
def test_there_and_back(place: Place) -> None:
    for name in ("file", "full", "link"):
        ino = os.lstat(place / name).st_ino
        os.rename(place / name, place / "away")
        os.rename(place / "away", place / name)
        assert os.lstat(place / name).st_ino == ino
    assert _tree(place / "full") == FULL
    assert read(place / "file") == b"file"


@given(TREE)
def test_removed_then_replaced(place: Place) -> None:
    """A name that was removed, and so may have a whiteout, becomes a target."""
    os.unlink(place / "other")
    os.rename(place / "file", place / "other")
    assert read(place / "other") == b"file"
    os.unlink(place / "full2/x")
    os.rmdir(place / "full2")
    os.rename(place / "full", place / "full2")
    assert _tree(place / "full2") == FULL


@given(TREE)
def test_file_takes_the_name_of_a_removed_directory(place: Place) -> None:
    os.rmdir(place / "empty")
    os.rename(place / "file", place / "empty")
    assert read(place / "empty") == b"file"
    os.unlink(place / "other")
    os.rename(place / "full", place / "other")
    assert _tree(place / "other") == FULL


@given(TREE)
def test_open_file_follows(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        os.rename(place / "file", place / "full/file")
        os.pwrite(fd, b"FILE", 0)
        assert os.readlink(f"/proc/self/fd/{fd}") == place / "full/file"
        assert same(fd, place / "full/file")
    assert read(place / "full/file") == b"FILE"


@given(TREE)
def test_open_directory_follows(place: Place) -> None:
    with opened(place / "full", os.O_DIRECTORY) as fd:
        os.rename(place / "full", place / "moved")
        assert set(os.listdir(fd)) == {"a", "b", "sub"}
        os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.unlink("a", dir_fd=fd)
    assert names(place / "moved") == {"b", "sub", "new"}


@given(TREE)
def test_times(place: Place) -> None:
    with (
        opened(place / "file", os.O_PATH) as fd,
        stamped({fd: "c", place / "full": "mc", place.path: "mc", place / "empty": ""}),
    ):
        os.rename(place / "file", place / "full/file")


@given(TREE)
def test_times_of_directories(place: Place) -> None:
    with (
        opened(place / "full", os.O_PATH) as fd,
        stamped({fd: "c", place / "full2": "mc", place.path: "mc"}),
    ):
        os.rename(place / "full", place / "full2/moved")


@given(TREE)
def test_times_of_what_is_replaced(place: Place) -> None:
    with opened(place / "pair") as fd, stamped({fd: "c"}):
        os.rename(place / "file", place / "pair")
        assert os.fstat(fd).st_nlink == 1


@pytest.mark.needs("users")
@given({"mine": Dir(uid=USER, children={"file": File()}), "theirs": Dir(children={"file": File()})})
def test_without_the_right(place: Place) -> None:
    for source, target in (("mine/file", "theirs/new"), ("theirs/file", "mine/new")):
        assert place.as_user(raised, os.rename, place / source, place / target) == EACCES
    place.as_user(os.rename, place / "mine/file", place / "mine/new")


@pytest.mark.needs("users")
@given({"mine": Dir(uid=USER, children={"dir": Dir(mode=0o755)}), "also": Dir(uid=USER)})
def test_foreign_directory_to_another_parent(place: Place) -> None:
    """ ".." of the directory changes: that needs the right to write to it."""
    assert place.as_user(raised, os.rename, place / "mine/dir", place / "also/dir") == EACCES
    place.as_user(os.rename, place / "mine/dir", place / "mine/new")


# -- renameat2 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["other", "link", "empty", "full", "fifo", "file"])
@given(TREE)
def test_noreplace_of_what_exists(place: Place, target: str) -> None:
    before = os.lstat(place / target)
    with fails(EEXIST):
        calls.renameat2(place / "file", place / target, RENAME_NOREPLACE)
    assert os.lstat(place / target).st_ino == before.st_ino
    assert read(place / "file") == b"file"


@pytest.mark.parametrize("name", KINDS)
@given(TREE)
def test_noreplace(place: Place, name: str) -> None:
    ino = os.lstat(place / name).st_ino
    os.unlink(place / "other")
    calls.renameat2(place / name, place / "other", RENAME_NOREPLACE)
    assert os.lstat(place / "other").st_ino == ino
    assert name not in names(place.path)


@pytest.mark.parametrize("one", ["file", "link", "empty", "full", "pair"])
@pytest.mark.parametrize("two", ["other", "fifo", "empty2", "full2"])
@given(TREE)
def test_exchange(place: Place, one: str, two: str) -> None:
    before = os.lstat(place / one), os.lstat(place / two)
    trees = _tree(place / one), _tree(place / two)
    calls.renameat2(place / one, place / two, RENAME_EXCHANGE)
    after = os.lstat(place / one), os.lstat(place / two)
    assert [st.st_ino for st in after] == [st.st_ino for st in reversed(before)]
    assert [st.st_mode for st in after] == [st.st_mode for st in reversed(before)]
    assert (_tree(place / one), _tree(place / two)) == (trees[1], trees[0])


@pytest.mark.parametrize("one", ["file", "empty", "full"])
@given(TREE)
def test_exchange_across_directories(place: Place, one: str) -> None:
    trees = _tree(place / one)
    ino = os.lstat(place / one).st_ino
    calls.renameat2(place / one, place / "full2/x", RENAME_EXCHANGE)
    assert os.lstat(place / "full2/x").st_ino == ino
    assert read(place / one) == b"x"
    assert _tree(place / "full2/x") == trees
    calls.renameat2(place / one, place / "full2/x", RENAME_EXCHANGE)
    assert read(place / "full2/x") == b"x"


@given(TREE)
def test_exchange_with_what_is_missing(place: Place) -> None:
    for source, target in (("file", "missing"), ("missing", "file")):
        with fails(ENOENT):
            calls.renameat2(place / source, place / target, RENAME_EXCHANGE)


@given(TREE)
def test_exchange_with_an_ancestor(place: Place) -> None:
    with fails(EINVAL, ENOTEMPTY):
        calls.renameat2(place / "full", place / "full/sub", RENAME_EXCHANGE)
    with fails(EINVAL, ENOTEMPTY):
        calls.renameat2(place / "full/sub", place / "full", RENAME_EXCHANGE)


@given(TREE)
def test_exchange_times(place: Place) -> None:
    with (
        opened(place / "file", os.O_PATH) as one,
        opened(place / "full2/x", os.O_PATH) as two,
        stamped({one: "c", two: "c", place.path: "mc", place / "full2": "mc"}),
    ):
        calls.renameat2(place / "file", place / "full2/x", RENAME_EXCHANGE)


@given(TREE)
def test_exchange_link_counts(place: Place) -> None:
    start, inner = os.stat(place.path).st_nlink, os.stat(place / "full2").st_nlink
    calls.renameat2(place / "empty", place / "full2/x", RENAME_EXCHANGE)
    assert os.stat(place.path).st_nlink == start - 1
    assert os.stat(place / "full2").st_nlink == inner + 1


@pytest.mark.parametrize("flags", [RENAME_EXCHANGE | RENAME_NOREPLACE, 1 << 10, 8])
@given(TREE)
def test_bad_flags(place: Place, flags: int) -> None:
    with fails(EINVAL):
        calls.renameat2(place / "file", place / "new", flags)


@pytest.mark.needs("devices")
@given(TREE)
def test_whiteout_of_ext4(place: Place) -> None:
    calls.renameat2(place / "file", place / "new", RENAME_WHITEOUT)
    assert stat.S_ISCHR(os.lstat(place / "file").st_mode)
    assert os.lstat(place / "file").st_rdev == 0


@given({"a": Dir(children={str(n): File(content=str(n).encode()) for n in range(60)}), "b": Dir()})
def test_many_files_between_directories(place: Place) -> None:
    for number in range(60):
        os.rename(place / f"a/{number}", place / f"b/{59 - number}")
    assert names(place / "a") == set()
    assert {name: read(place / f"b/{name}") for name in names(place / "b")} == {
        str(59 - number): str(number).encode() for number in range(60)
    }
    os.rmdir(place / "a")
