"""st_ino stays for life, and a listing says the same number as stat."""

import os
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.posix.acls import ACCESS, acl
from tests.tree.test_copyup import KINDS, NOBODY, acting_as, copy_up, make
from tests.tree.union import Union, put


def assert_listed_as_stated(union: Union) -> dict[str, int]:
    """Every d_ino is the st_ino of the same name, `.` and `..` included; returns them all."""
    found = {"": union.stat().st_ino}
    for directory in ["", *union.walk()]:
        if not stat.S_ISDIR(union.stat(directory).st_mode):
            continue
        for entry in union.entries(directory):
            if entry.name == ".":
                path = directory
            elif entry.name == "..":
                path = directory.rpartition("/")[0]
            else:
                path = f"{directory}/{entry.name}" if directory else entry.name
            st = union.stat(path)
            assert entry.ino == st.st_ino, path
            assert entry.type == stat.S_IFMT(st.st_mode) >> 12, path
            found[path] = st.st_ino
    return found


@pytest.fixture
def two_filesystems(
    base: Path, tmpfs: Callable[..., Path], make_union: Callable[..., Union]
) -> Union:
    """Two lowers on a tmpfs each, whose inode numbers are the same, under an upper elsewhere."""
    for name in ("lower1", "lower2"):
        tmpfs(name)
    return make_union()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rootless", [False, True], ids=["root", "rootless"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same-fs", "other-fs"])
def test_the_number_stays_for_life(
    request: pytest.FixtureRequest, kind: str, elsewhere: bool, rootless: bool
) -> None:
    union: Union = request.getfixturevalue("two_filesystems" if elsewhere else "union")
    union.restart(trusted=not rootless)
    put(union.lower, "d/", "e/")
    make(union.lower / "d/x", kind)
    ino = union.stat("d/x").st_ino
    node = union.node("d/x")

    def check(path: str) -> None:
        assert union.stat(path).st_ino == ino
        # Listed anew, by what is known and by what is on disk.
        for _ in range(2):
            assert [e.ino for e in union.entries(path.rpartition("/")[0]) if e.name == "x"] == [ino]
            union.tree.shrink(everything=True)
        union.restart()
        above = path.rpartition("/")[0]
        assert [e.ino for e in union.entries(above) if e.name == "x"] == [ino]
        assert union.stat(path).st_ino == ino

    check("d/x")
    copy_up(union, "d/x")
    assert union.branch("d/x") == 0
    check("d/x")
    node = union.node("d/x")
    union.rename("d/x", "e/x")
    assert union.node("e/x") == node
    check("e/x")
    union.rename("e/x", "x")
    check("x")
    union.rename("e", "new")
    union.rename("x", "new/x")
    check("new/x")
    union.rename("new", "d/new")
    check("d/new/x")


# --- files that cannot carry their origin ---


def records(union: Union) -> dict[str, str]:
    place = union.work / "origins"
    return {path.name: os.readlink(path) for path in place.iterdir()} if place.is_dir() else {}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("file", "empty", "dir")])
def test_a_record_goes_with_its_file(union: Union, kind: str) -> None:
    union.restart(trusted=False)
    for name in ("a", "b", "c", "kept"):
        make(union.lower / name, kind)
        os.chown(union.lower / name, 1, 1, follow_symlinks=False)
        copy_up(union, name)
    assert len(records(union)) == 4
    union.unlink("a")
    union.rename("b", "c")
    assert len(records(union)) == 2
    held = union.node("kept")
    union.link("kept", "other")
    union.unlink("kept")
    assert len(records(union)) == 2  # it has a name still
    ino = union.tree.getattr(held).st_ino
    union.restart()
    assert union.stat("other").st_ino == ino
    union.unlink("other")
    union.unlink("c")
    assert records(union) == {}


def test_a_file_without_a_name_needs_no_record(union: Union) -> None:
    os.mkfifo(union.lower / "fifo")
    union.restart(trusted=False)
    node = union.node("fifo")
    union.unlink("fifo")
    union.tree.setattr(node, mode=0o600)
    assert records(union) == {}


def test_a_record_of_links(union: Union) -> None:
    """All names lead to the copy, in the upper or not."""
    (union.lower / "a").symlink_to("target")
    os.link(union.lower / "a", union.lower / "b", follow_symlinks=False)
    union.restart(trusted=False)
    ino = union.stat("a").st_ino
    union.tree.setattr(union.node("a"), mtime_ns=1)
    for _ in range(2):
        assert {union.stat(name).st_ino for name in "ab"} == {ino}
        assert {union.stat(name).st_mtime_ns for name in "ab"} == {1}
        assert {entry.ino for entry in union.entries() if entry.name in "ab"} == {ino}
        union.restart()
    union.unlink("a")
    union.restart()
    assert union.stat("b").st_ino == ino
    union.unlink("b")
    assert records(union) == {}


def test_a_later_file_of_the_same_inode_is_another_one(union: Union) -> None:
    (union.lower / "link").symlink_to("target")
    union.restart(trusted=False)
    ino = union.stat("link").st_ino
    copy_up(union, "link")
    union.restart()
    ((record, value),) = records(union).items()
    real = (union.upper / "link").lstat().st_ino
    assert int(record, 16) == real != ino
    assert value.split()[0] == str(ino)
    assert union.stat("link").st_ino == ino
    for other in (f"{ino} 1.000000000", f"{ino}", f"word {value.split()[1]}", ""):
        (union.work / "origins" / record).unlink()
        if other:
            (union.work / "origins" / record).symlink_to(other)
        union.restart()
        assert union.stat("link").st_ino == real


@pytest.mark.parametrize("mode", [0, 0o200, 0o333])
def test_rights_that_the_owner_has_not(union: Union, mode: int) -> None:
    """An attribute that cannot be read any more says nothing any more."""
    put(union.lower, "f", "g", "d/inside", "d/below", "e/")
    union.base.chmod(0o755)
    for path in (union.upper, union.work, *(union.lower / x for x in ("f", "g", "d", "e"))):
        os.chown(path, NOBODY, NOBODY)
    os.chown(union.lower / "d/inside", NOBODY, NOBODY)
    with acting_as(NOBODY):
        union.restart(trusted=False, keep_open=True)
        numbers = {path: union.stat(path).st_ino for path in ("f", "g", "d", "d/inside", "e")}
        copy_up(union, "g")
        for path in ("d/inside", "f", "d", "e"):
            copy_up(union, path)
            union.tree.setattr(union.node(path), mode=mode)
        union.tree.setxattr(union.node("g"), ACCESS, acl("u:0 g:4 o:0"))
        for _ in range(2):
            for path in ("f", "g", "d", "e"):
                assert union.stat(path).st_ino == numbers[path], path
            union.restart()
        assert stat.S_IMODE(union.stat("d").st_mode) == mode
        union.tree.setattr(union.node("d"), mode=0o700)
        for _ in range(2):
            assert union.names("d") == ["below", "inside"]
            union.restart()
        assert union.stat("d/inside").st_ino == numbers["d/inside"]
        union.restart()


def test_a_filesystem_without_attributes(base: Path, tmpfs: Callable[..., Path]) -> None:
    """Where times of birth are missing too nothing can be recorded; copying up works."""
    memory = tmpfs("memory", kind="ramfs")
    for name in ("upper", "work"):
        (memory / name).mkdir()
        (base / name).symlink_to(memory / name)
    union = Union(base, 1)
    make(union.lower / "f", "file")
    make(union.lower / "l", "link")
    for name in ("f", "l"):
        copy_up(union, name)
    before = union.visible()
    union.restart()
    after = union.visible()
    union.restart()
    assert {path: seen[:4] for path, seen in after.items()} == {
        path: seen[:4] for path, seen in before.items()
    }
    assert after["f"][5] == b"content"
    assert records(union) == {}


def test_forgotten_and_found_again(union: Union) -> None:
    put(union.lower, "d/f")
    ino = union.stat("d/f").st_ino
    shrink = partial(union.tree.shrink, everything=True)
    for change in (lambda: None, lambda: union.write("d/f", b"x"), shrink):
        change()
        tree, d = union.tree, union.node("d")
        node = union.node("d/f")
        tree.forget(node, 1 << 40)
        tree.forget(d, 1 << 40)
        assert tree.stats()["nodes"] == 1
        assert union.stat("d/f").st_ino == ino


def test_numbers_are_those_of_the_branch_on_the_uppers_filesystem(union: Union) -> None:
    put(union.upper, "u", "d/")
    put(union.lower, "l", "d/", "e/")
    for path, place in (
        ("", union.upper),
        ("u", union.upper / "u"),
        ("d", union.upper / "d"),
        ("l", union.lower / "l"),
        ("e", union.lower / "e"),
    ):
        assert union.stat(path).st_ino == place.stat().st_ino
    node = union.create("new")
    assert union.tree.getattr(node).st_ino == (union.upper / "new").stat().st_ino


def test_a_listing_says_what_stat_says(union: Union) -> None:
    put(union.upper, "d/u", "both/x")
    put(union.lowers[0], "d/l", "d/s/f", "both/x")
    put(union.lowers[1], "d/s/g", "both/y", "e/f")
    before = assert_listed_as_stated(union)
    assert len(set(before.values())) == len(before)
    copy_up(union, "d/l")
    copy_up(union, "d/s/g")
    copy_up(union, "e")
    assert assert_listed_as_stated(union) == before
    union.restart()
    assert assert_listed_as_stated(union) == before
    union.rename("d", "moved")
    union.rename("e/f", "f")
    after = assert_listed_as_stated(union)
    assert sorted(after.values()) == sorted(before.values())
    union.restart()
    assert assert_listed_as_stated(union) == after


def test_filesystems_with_the_same_numbers(two_filesystems: Union) -> None:
    union = two_filesystems
    for lower in union.lowers:
        put(lower, *(f"{lower.name}-{i}" for i in range(20)), "d/", f"d/{lower.name}")
    alike = {os.stat(path).st_ino for path in union.lowers[0].iterdir()}
    assert alike & {os.stat(path).st_ino for path in union.lowers[1].iterdir()}
    before = assert_listed_as_stated(union)
    assert len(set(before.values())) == len(before)
    for path in list(before):
        if path:
            copy_up(union, path)
    assert assert_listed_as_stated(union) == before
    union.restart()
    assert assert_listed_as_stated(union) == before
    # Files of the upper's own are still told from them.
    for i in range(20):
        union.create(f"new{i}")
    after = assert_listed_as_stated(union)
    assert len(set(after.values())) == len(after)


def test_a_removed_file_and_the_next_one_differ(union: Union) -> None:
    """The filesystem gives an inode number again as soon as it is free."""
    numbers = set()
    for _ in range(20):
        node = union.create("f")
        union.unlink("f")
        numbers.add(union.tree.getattr(node).st_ino)
    # All are still referenced, so all exist still.
    assert len(numbers) == 20


def test_a_reused_number_is_a_new_node(union: Union) -> None:
    for i in range(50):
        node = union.create("f", b"%d" % i)
        union.link("f", "g")
        assert union.node("g") == node
        union.unlink("f")
        union.unlink("g")
        union.tree.forget(node, 1 << 40)
        new = union.create("f", b"new")
        assert union.tree.getattr(new).st_nlink == 1
        assert union.read_node(new) == b"new"
        union.unlink("f")
        union.tree.forget(new, 1 << 40)


def test_exchanged_files_keep_their_numbers(union: Union) -> None:
    put(union.lower, "a/f", "b/g")
    f, g = union.stat("a/f").st_ino, union.stat("b/g").st_ino
    union.rename("a/f", "b/g", 2)
    for _ in range(2):
        assert (union.stat("b/g").st_ino, union.stat("a/f").st_ino) == (f, g)
        assert_listed_as_stated(union)
        union.restart()


def test_replacing_a_file_takes_the_name_and_keeps_the_number(union: Union) -> None:
    put(union.lower, "a", "b")
    a = union.stat("a").st_ino
    union.entries()
    union.rename("a", "b")
    assert union.stat("b").st_ino == a
    assert_listed_as_stated(union)
    union.restart()
    assert union.stat("b").st_ino == a
    assert_listed_as_stated(union)


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_without_privileges(union: Union, kind: str) -> None:
    make(union.lower / "x", kind)
    union.base.chmod(0o755)
    for path in (union.upper, union.work, union.lower / "x"):
        os.chown(path, NOBODY, NOBODY)
    with acting_as(NOBODY):
        union.restart(trusted=False)
        ino = union.stat("x").st_ino
        copy_up(union, "x")
        union.restart()
        assert_listed_as_stated(union)
        assert union.stat("x").st_ino == ino
        assert union.tree.listxattr(union.node("x")) == []
        union.restart()


# --- hard links ---


def links(union: Union, *paths: str) -> set[tuple[int, int, bytes]]:
    found = set()
    for path in paths:
        st = union.stat(path)
        found.add((st.st_ino, st.st_nlink, union.read(path)))
    return found


def test_no_inode_to_count_a_link(
    scarce: Callable[[int], None], make_union: Callable[..., Union]
) -> None:
    """A count that is too low would have the copy go with a name that is not the last one."""
    union = make_union()
    put(union.lower, "a")
    os.link(union.lower / "a", union.lower / "b")
    union.write("a", b"changed")
    names = ["a", "b"]
    for free in range(4):
        scarce(free)
        with suppress(OSError):
            union.link("a", f"more-{free}")
            names.append(f"more-{free}")
        for _ in range(2):
            assert {union.stat(name).st_nlink for name in names} == {len(names)}
            union.restart()
    assert len(names) > 2


def test_names_of_one_upper_file_share_a_node(union: Union) -> None:
    put(union.upper, "a", "d/")
    os.link(union.upper / "a", union.upper / "d/b")
    assert union.node("a") == union.node("d/b")
    assert union.stat("a").st_nlink == 2
    union.unlink("a")
    assert union.stat("d/b").st_nlink == 1
    union.restart()
    assert union.stat("d/b").st_nlink == 1


def test_a_name_found_after_another_one_is_gone_is_the_same_file(union: Union) -> None:
    """The kernel has pages and attributes by node: two nodes of one file would go apart."""
    put(union.upper, "a")
    os.link(union.upper / "a", union.upper / "b")
    node = union.node("a")
    union.unlink("a")
    assert union.node("b") == node
    assert union.tree.getattr(node).st_nlink == 1
    union.write("b", b"U")
    assert union.read_node(node) == b"Upper: a"
    union.unlink("b")
    assert union.tree.getattr(node).st_nlink == 0
    assert union.read_node(node) == b"Upper: a"


@pytest.mark.parametrize("through", ["a", "d/b", "d/e/c"])
def test_lower_links_stay_one_file(union: Union, through: str) -> None:
    paths = ("a", "d/b", "d/e/c")
    put(union.lower, "a", "d/e/")
    for path in paths[1:]:
        os.link(union.lower / "a", union.lower / path)
    before = links(union, *paths)
    assert len({union.node(path) for path in paths}) == 1
    assert [nlink for _, nlink, _ in before] == [3]
    union.write(through, b"L")
    expected = {(ino, 3, b"L" + content[1:]) for ino, _, content in before}
    assert links(union, *paths) == expected
    union.restart()
    for path in paths:  # also when each is asked for alone
        assert links(union, path) == expected
        union.restart()
    assert links(union, *paths) == expected
    assert_listed_as_stated(union)


@pytest.mark.parametrize("known", [["a", "d/b"], ["d/b", "a"], ["d/b"]], ids="-".join)
@pytest.mark.parametrize("through", ["a", "d/b"])
def test_a_name_in_a_directory_that_may_not_be_written(
    union: Union, known: list[str], through: str
) -> None:
    """Changing a file takes no right to its directory: the name stays where it is, and leads to
    the copy until it can come with it."""
    put(union.lower, "a", "d/other")
    os.link(union.lower / "a", union.lower / "d/b")
    put(union.upper, "d/")
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", union.base], check=True)
    os.chown(union.upper / "d", 0, 0)
    with acting_as(NOBODY):
        union.restart(trusted=False, keep_open=True)
        before = links(union, *known)
        union.write(through, b"L")
        expected = {(ino, 2, b"L" + content[1:]) for ino, _, content in before}
        assert links(union, *known, "a", "d/b") == expected
        for path in (*known, "a", "d/b"):  # also when it is asked for alone
            union.restart()
            assert links(union, path) == expected
        with pytest.raises(PermissionError):
            union.write("d/other", b"L")
        assert os.listdir(union.upper / "d") == []
    os.chown(union.upper / "d", NOBODY, NOBODY)
    with acting_as(NOBODY):
        union.rename("d/b", "d/c")
        assert union.names("d") == ["c", "other"]
        for _ in range(2):
            assert links(union, "a", "d/c") == expected
            union.restart()


@pytest.mark.parametrize("known", [["a", ".wh.b"], [".wh.b", "a"]], ids=" ".join)
def test_a_name_that_looks_like_a_whiteout(
    make_union: Callable[..., Union], known: list[str]
) -> None:
    """As a union over an upper of format overlay has one."""
    union = make_union(whiteout="overlay")
    put(union.lower, "a", "b")
    os.setxattr(union.lower / "a", "trusted.unionfs.plain", b"y")
    os.link(union.lower / "a", union.lower / ".wh.b")
    [(ino, _, content)] = links(union, *known)
    union.write("a", b"L")
    for _ in range(2):
        assert union.names() == [".wh.b", "a", "b"]
        assert links(union, *known) == {(ino, 2, b"L" + content[1:])}
        union.restart()


@pytest.mark.parametrize("copied", [False, True])
def test_removing_names_of_a_lower_file(union: Union, copied: bool) -> None:
    put(union.lower, "a")
    for name in "bc":
        os.link(union.lower / "a", union.lower / name)
    if copied:
        union.write("b", b"L")
    content = union.read("a")
    remaining = ["a", "b", "c"]
    while remaining:
        node = union.node(remaining[0])
        union.unlink(remaining.pop(0))
        assert union.tree.getattr(node).st_nlink == len(remaining)
        assert union.read_node(node) == content
        union.restart()
        assert union.names() == remaining
        for name in remaining:
            assert union.stat(name).st_nlink == len(remaining)
            assert union.read(name) == content
    assert union.scratch() <= {"links"}


def test_linking_a_lower_file(union: Union) -> None:
    put(union.lower, "a", "d/")
    ino = union.stat("a").st_ino
    node = union.link("a", "d/b")
    assert node == union.node("a")
    for _ in range(2):
        assert links(union, "a", "d/b") == {(ino, 2, b"lower1: a")}
        assert_listed_as_stated(union)
        union.restart()
    union.write("d/b", b"L")
    assert links(union, "a", "d/b") == {(ino, 2, b"Lower1: a")}


def test_renaming_onto_another_name_of_the_same_file_does_nothing(union: Union) -> None:
    """rename(2): "If oldpath and newpath are existing hard links referring to the same file"."""
    put(union.lower, "a")
    os.link(union.lower / "a", union.lower / "b")
    for copied in (False, True):
        if copied:
            union.write("a", b"L")
        union.rename("a", "b")
        assert union.names() == ["a", "b"]
        assert union.stat("a").st_nlink == 2
