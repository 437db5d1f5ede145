"""Listings: merged, each name once, and offsets that stay valid while names come and go."""

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tree.union import Entry, Union, hide, put
from unionfs._tree import ROOT

DT = {
    "dir": 4,
    "file": 8,
    "link": 10,
    "fifo": 1,
    "socket": 12,
    "char": 2,
}


def make_each_type(directory: Path) -> None:
    (directory / "dir").mkdir()
    (directory / "file").touch()
    (directory / "link").symlink_to("nowhere")
    os.mkfifo(directory / "fifo")
    os.mknod(directory / "socket", stat.S_IFSOCK | 0o644)
    os.mknod(directory / "char", stat.S_IFCHR | 0o644, os.makedev(1, 3))


# --- what is listed ---


def test_every_name_once_from_every_branch(union: Union) -> None:
    put(union.upper, "a", "all", "d/")
    put(union.lowers[0], "b", "all", "d/")
    put(union.lowers[1], "c", "all", "d/")
    assert union.names() == ["a", "all", "b", "c", "d"]


def test_dot_and_dot_dot_come_first(union: Union) -> None:
    put(union.lower, "d/e/f")
    d, e = union.stat("d").st_ino, union.stat("d/e").st_ino
    assert union.entries("d/e")[:2] == [Entry(".", e, 4, 1), Entry("..", d, 4, 2)]
    root = union.stat().st_ino
    assert union.entries()[:2] == [Entry(".", root, 4, 1), Entry("..", root, 4, 2)]


@pytest.mark.parametrize("where", ["upper", "lower1"])
def test_types(union: Union, where: str) -> None:
    make_each_type(union.base / where)
    assert {entry.name: entry.type for entry in union.entries("", 2)} == DT


def test_types_of_what_is_created(union: Union) -> None:
    union.entries()
    union.mkdir("dir")
    union.create("file")
    union.symlink("nowhere", "link")
    union.mknod("fifo", stat.S_IFIFO | 0o644)
    union.mknod("socket", stat.S_IFSOCK | 0o644)
    union.mknod("char", stat.S_IFCHR | 0o644, os.makedev(1, 3))
    assert {entry.name: entry.type for entry in union.entries("", 2)} == DT


@pytest.mark.parametrize("names_first", [False, True])
def test_whiteouts_hide_whatever_order_a_branch_lists_them_in(
    union: Union, whiteout: str, names_first: bool
) -> None:
    names = [f"{i:03}" for i in range(300)]
    put(union.lowers[1], *names)
    steps: list[tuple[Callable[[Path, str], None], list[str]]] = [
        (partial(hide, whiteout=whiteout), names[::2]),
        (put, names[1::4]),
    ]
    for step, subjects in reversed(steps) if names_first else steps:
        for name in subjects:
            step(union.lowers[0], name)
    assert union.names() == names[1::2]
    assert [name for name in names if union.exists(name)] == names[1::2]


def test_a_listing_and_look_ups_agree_after_every_kind_of_change(formatted: Union) -> None:
    union = formatted
    put(union.lowers[0], "a", "b", "d/a", "e/a")
    put(union.lowers[1], "b", "c", "d/b", "f/x/y")
    union.entries()
    union.unlink("a")
    union.rename("b", "new")
    union.rename("c", "b")
    union.create("a")
    union.unlink("a")
    union.rename("d", "moved")
    union.mkdir("d")
    union.unlink("e/a")
    union.rmdir("e")
    union.rename("f/x", "moved/x")
    expected = ["b", "d", "f", "moved", "moved/a", "moved/b", "moved/x", "moved/x/y", "new"]
    assert sorted(union.walk()) == expected
    union.restart()
    assert sorted(union.walk()) == expected
    for gone in ("a", "c", "e", "e/a", "d/a", "f/x"):
        assert not union.exists(gone)


def test_a_big_merged_directory(union: Union) -> None:
    names = {f"name-{i}" for i in range(2000)}
    put(union.lowers[1], *(f"d/{name}" for name in names))
    put(union.lowers[0], "d/name-7", "d/more")
    hide(union.lowers[0], "d/name-8", "aufs")
    hide(union.lowers[0], "d/name-9", "overlay")
    found = union.names("d")
    assert len(found) == 1999
    assert set(found) == names - {"name-8", "name-9"} | {"more"}


# --- offsets ---


def test_every_offset_continues_after_its_entry(union: Union) -> None:
    put(union.lowers[0], *(f"a{i}" for i in range(100)))
    put(union.lowers[1], *(f"b{i}" for i in range(100)))
    everything = union.entries()
    cookies = [entry.cookie for entry in everything]
    assert cookies == sorted(set(cookies))
    for i, cookie in enumerate(cookies):
        assert union.entries("", cookie) == everything[i + 1 :]
    assert union.entries("", 2**64 - 1) == []


def test_unlinking_while_reading_loses_nothing(union: Union, whiteout: str) -> None:
    union.restart(whiteout=whiteout)
    names = [f"{i:04}" for i in range(400)]
    put(union.lowers[0], *(f"d/{name}" for name in names[::2]))
    put(union.lowers[1], *(f"d/{name}" for name in names[1::2]))
    seen = []
    offset = 2
    while batch := union.entries("d", offset)[:7]:
        for entry in batch:
            seen.append(entry.name)
            union.unlink(f"d/{entry.name}")
        offset = batch[-1].cookie
    assert sorted(seen) == names
    assert union.names("d") == []
    union.rmdir("d")
    assert not union.exists("d")


def test_creating_while_reading_repeats_nothing(union: Union) -> None:
    put(union.lower, *(f"{i:03}" for i in range(100)))
    seen: list[str] = []
    offset = 2
    created = 0
    while batch := union.entries("", offset)[:10]:
        seen += [entry.name for entry in batch]
        offset = batch[-1].cookie
        if created < 50:
            for _ in range(5):
                union.create(f"new{created}")
                created += 1
    assert len(seen) == len(set(seen))
    assert {f"{i:03}" for i in range(100)} <= set(seen)


def test_copying_up_leaves_every_entry_in_its_place(union: Union) -> None:
    put(union.lower, *(f"{i:03}" for i in range(100)))
    before = union.entries()
    for entry in before[2::3]:
        union.write(entry.name, b"x")
    assert union.entries() == before


@pytest.mark.parametrize("size", [1, 7, 500])
@pytest.mark.parametrize("change", ["rename", "create", "create again"])
def test_a_reader_ends_whatever_it_adds(union: Union, change: str, size: int) -> None:
    """It meets what was there when it began, each name once, and nothing that came after."""
    names = [f"{i:03}" for i in range(100)]
    put(union.lowers[0], *(f"d/{name}" for name in names[::2]))
    put(union.lowers[1], *(f"d/{name}" for name in names[1::2]))
    before = union.entries("d")[2:]
    seen = []
    offset = 2
    while batch := union.entries("d", offset)[:size]:
        assert len(seen) <= len(names)
        for entry in batch:
            seen.append(entry)
            if change == "rename":
                union.rename(f"d/{entry.name}", f"d/{entry.name}x")
            elif change == "create":
                union.create(f"d/{entry.name}x")
            else:
                union.unlink(f"d/{entry.name}")
                union.create(f"d/{entry.name}")
        offset = batch[-1].cookie
    assert [(entry.name, entry.cookie) for entry in seen] == [
        (entry.name, entry.cookie) for entry in before
    ]
    # From the start everything is there, the new before the old.
    new = [entry.name for entry in union.entries("d")[2:]]
    added = [f"{name}x" for name in names] if change != "create again" else names
    assert sorted(new) == sorted(added + (names if change == "create" else []))
    assert new[: len(names)] == [
        entry.name + ("x" if change != "create again" else "") for entry in reversed(before)
    ]


def test_offsets_fit_programs_of_32_bits(union: Union) -> None:
    put(union.lower, "d/a", "d/b")
    for _ in range(50):
        union.create("d/c")
        assert all(entry.cookie < 2**31 for entry in union.entries("d"))
        union.unlink("d/c")


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["read", "read", "rewind", "create", "unlink", "rename", "replace"]),
        st.integers(0, 39),
        st.integers(0, 39),
    ),
    max_size=60,
)


class Reader:
    """One reader of a directory, and what it may still meet."""

    def __init__(self, union: Union) -> None:
        self._union = union
        self.rewind()

    def rewind(self) -> None:
        self._offset = 0
        self._awaited: set[str] = set()  # there since it began, and not read yet
        self._possible: set[str] = set()

    def changed(self, present: set[str]) -> None:
        self._awaited &= present

    def read(self, count: int) -> bool:
        """Reads so many entries; whether there are more."""
        if self._offset == 0:
            self._awaited = set(self._union.names())
            self._possible = set(self._awaited)
        batch = self._union.entries("", self._offset)[:count]
        for entry in batch:
            self._offset = entry.cookie
            if entry.name not in (".", ".."):
                # Not a second time, and not what came after it began.
                assert entry.name in self._possible
                self._possible.discard(entry.name)
                self._awaited.discard(entry.name)
        if not batch:
            assert not self._awaited, "there all the time, and never read"
        return bool(batch)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=CHANGES, whiteout=st.sampled_from(["aufs", "overlay"]))
def test_readers_beside_every_change(
    union: Union, changes: list[tuple[str, int, int]], whiteout: str
) -> None:
    """POSIX readdir: what is there all the time is read once; here also: what comes, never."""
    union.restart(whiteout=whiteout)
    for branch in (union.upper, *union.lowers):
        for path in branch.iterdir():
            path.unlink()
    put(union.lowers[0], *(f"{i}" for i in range(0, 30, 2)))
    put(union.lowers[1], *(f"{i}" for i in range(0, 30, 3)))
    present = set(union.names())
    readers = [Reader(union) for _ in range(3)]
    for what, first, second in changes:
        a, b = str(first), str(second)
        if what == "read":
            readers[second % 3].read(first % 7 + 3)
        elif what == "rewind":
            readers[second % 3].rewind()
        elif what == "create" and a not in present:
            union.create(a)
            present.add(a)
        elif what == "unlink" and a in present:
            union.unlink(a)
            present.discard(a)
        elif what == "rename" and a in present and b not in present:
            union.rename(a, b)
            present ^= {a, b}
        elif what == "replace" and a in present and b in present and a != b:
            union.rename(a, b)
            present.discard(a)
        assert set(union.names()) == present
        for reader in readers:
            reader.changed(present)
    for reader in readers:
        while reader.read(5):
            pass
    union.restart()
    assert set(union.names()) == present


# --- memory ---


def test_names_that_come_and_go_cost_no_memory(base: Path, tmpfs: Callable[..., Path]) -> None:
    union = Union(tmpfs("fs"), 1)
    put(union.lower, *(f"d/{i}" for i in range(10)))
    tree, d = union.tree, union.node("d")
    tree.readdir(d)
    mode = stat.S_IFREG | 0o644
    early = None
    for i in range(100_000):
        name = b"name-%d" % i
        node, _ = tree.mknod(d, name, mode)
        tree.unlink(d, name)
        tree.forget(node)
        if i == 1000:
            early = tree.stats()
    late = tree.stats()
    assert early is not None
    assert late["listing_entries"] <= 200
    assert late["listing_entries"] <= early["listing_entries"] + 128
    assert late["memory"] <= early["memory"] + 10_000
    for what in ("nodes", "names", "fds", "pinned_fds", "listings"):
        assert late[what] == early[what], what
    assert union.names("d") == [str(i) for i in range(10)]
    union.restart()


def test_a_node_costs_at_most_256_bytes(tmpfs: Callable[..., Path]) -> None:
    union = Union(tmpfs("fs"), 1)
    names = [f"file-number-{i:05}.txt".encode() for i in range(20_000)]
    put(union.lower, *(f"d/{name.decode()}" for name in names), content=b"")
    tree, d = union.tree, union.node("d")

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    before = resident(), tree.stats()["memory"]
    for name in names:
        tree.lookup(d, name)
    assert resident() - before[0] <= 256 * len(names)
    assert tree.stats()["memory"] - before[1] <= 256 * len(names)
    union.restart()


def test_shrinking_gives_listings_and_descriptors_back(union: Union) -> None:
    put(union.lower, *(f"d{i}/f" for i in range(20)))
    for i in range(20):
        assert union.names(f"d{i}") == ["f"]
        assert union.read(f"d{i}/f")
    stats = union.tree.stats()
    assert stats["listings"] >= 20
    assert stats["listing_entries"] >= 20
    assert stats["fds"] > 20
    union.tree.shrink()  # listings that somebody may be reading by offset stay
    after = union.tree.stats()
    assert (after["listings"], after["fds"]) == (stats["listings"], 0)
    union.tree.shrink(everything=True)
    stats = union.tree.stats()
    assert (stats["listings"], stats["listing_entries"], stats["fds"]) == (0, 0, 0)
    # Everything is reached again.
    for i in range(20):
        assert union.names(f"d{i}") == ["f"]


def test_forgetting_directories_gives_their_listings_back(union: Union) -> None:
    put(union.lower, *(f"d{i}/f" for i in range(20)))
    tree = union.tree
    union.entries()
    before = tree.stats()
    nodes = [union.node(f"d{i}") for i in range(20)]
    for node in nodes:
        tree.readdir(node)
        tree.forget(node)
    after = tree.stats()
    for what in ("nodes", "names", "fds", "listings", "listing_entries"):
        assert after[what] == before[what], what


def test_a_removed_directory_is_empty(union: Union) -> None:
    put(union.lower, "d/")
    union.mkdir("e")
    nodes = union.node("d"), union.node("e")
    for name in ("d", "e"):
        union.rmdir(name)
    union.tree.shrink(everything=True)
    for node in nodes:
        assert [name for name, *_ in union.tree.readdir(node)] == [b".", b".."]
        with pytest.raises(FileNotFoundError):
            union.tree.lookup(node, b"f")
        with pytest.raises(FileNotFoundError):
            union.tree.mknod(node, b"f", stat.S_IFREG | 0o644)
    assert union.tree.stats()["listings"] == 0


def test_reading_what_is_no_directory(union: Union) -> None:
    put(union.lower, "f")
    with pytest.raises(NotADirectoryError):
        union.entries("f")
    assert union.tree.readdir(ROOT, 2)[0][0] == b"f"
