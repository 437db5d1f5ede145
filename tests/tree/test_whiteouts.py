"""What stands in the upper after each operation: exactly, in both formats."""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from errno import ENOTEMPTY, EPERM
from pathlib import Path

import pytest

from tests.posix.asserts import fails
from tests.tree.union import Union, hide, on_disk, put

NOREPLACE, EXCHANGE = 1, 2  # renameat2(2)


@dataclass(frozen=True)
class Case:
    """Paths in the branches, what is done, and what the upper then holds.

    Words for content: "dir"; "opaque" a directory that hides what is below; "gone" a whiteout
    of that name; "-> x" a link; anything else is a file of that content. `lower` and `lower2` end
    directories with a slash; a name after "!" is a whiteout.
    """

    id: str
    act: Callable[[Union], object]
    lower: tuple[str, ...] = ()
    lower2: tuple[str, ...] = ()
    upper: tuple[str, ...] = ()
    expected: Mapping[str, str] = field(default_factory=dict)


def expected_on_disk(case: Case, whiteout: str) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path, what in case.expected.items():
        above, _, name = path.rpartition("/")
        prefix = f"{above}/" if above else ""
        if what == "gone":
            if whiteout == "aufs":
                found[f"{prefix}.wh.{name}"] = b""
            else:
                found[path] = "whiteout"
        elif what == "opaque":
            if whiteout == "aufs":
                found[path] = "dir"
                found[f"{path}/.wh..wh..opq"] = b""
            else:
                found[path] = "opaque dir"
        elif what in ("dir", "fifo") or what.startswith("-> "):
            found[path] = what
        else:
            found[path] = what.encode()
    return found


def both(*steps: Callable[[Union], object]) -> Callable[[Union], None]:
    def act(union: Union) -> None:
        for step in steps:
            step(union)

    return act


def unlink(path: str) -> Callable[[Union], object]:
    return lambda union: union.unlink(path)


def rmdir(path: str) -> Callable[[Union], object]:
    return lambda union: union.rmdir(path)


def mkdir(path: str) -> Callable[[Union], object]:
    return lambda union: union.mkdir(path)


def create(path: str, data: str = "new") -> Callable[[Union], object]:
    return lambda union: union.create(path, data.encode())


def rename(old: str, new: str, flags: int = 0) -> Callable[[Union], object]:
    return lambda union: union.rename(old, new, flags)


CASES = [
    # --- unlink ---
    Case("unlink-lower", unlink("f"), lower=("f",), expected={"f": "gone"}),
    Case("unlink-bottom", unlink("f"), lower2=("f",), expected={"f": "gone"}),
    Case("unlink-upper", unlink("f"), upper=("f",)),
    Case("unlink-upper-over-lower", unlink("f"), ("f",), (), ("f",), {"f": "gone"}),
    Case(
        "unlink-copied-up",
        both(lambda union: union.write("f", b"x"), unlink("f")),
        lower=("f",),
        expected={"f": "gone"},
    ),
    Case(
        "unlink-in-directories-brings-up-only-those",
        unlink("d/e/f"),
        lower=("d/e/f", "d/e/g", "d/h"),
        expected={"d": "dir", "d/e": "dir", "d/e/f": "gone"},
    ),
    Case("unlink-what-no-lower-shows", unlink("f"), ("!f",), ("f",), ("f",)),
    Case("unlink-over-directory", unlink("f"), ("f/g",), (), ("f",), {"f": "gone"}),
    Case(
        "unlink-over-a-name-beside-its-own-whiteout",
        unlink("f"),
        ("!f", "f"),
        ("f",),
        ("f",),
        {"f": "gone"},
    ),
    Case(
        "unlink-over-a-whiteout-beside-its-own-name",
        unlink("f"),
        ("f", "!f"),
        ("f",),
        ("f",),
        {"f": "gone"},
    ),
    # --- create over a whiteout ---
    Case(
        "create-again",
        both(unlink("f"), create("f")),
        lower=("f",),
        expected={"f": "new"},
    ),
    Case(
        "create-and-unlink-again",
        both(unlink("f"), create("f"), unlink("f")),
        lower=("f",),
        expected={"f": "gone"},
    ),
    Case("create-over-found-whiteout", create("f"), (), ("f",), ("!f",), {"f": "new"}),
    Case("create-over-lower-whiteout", create("f"), ("!f",), ("f",), (), {"f": "new"}),
    Case(
        "symlink-again",
        both(unlink("f"), lambda union: union.symlink("target", "f")),
        lower=("f",),
        expected={"f": "-> target"},
    ),
    Case(
        "fifo-again",
        both(unlink("f"), lambda union: union.mknod("f", stat.S_IFIFO | 0o644)),
        lower=("f",),
        expected={"f": "fifo"},
    ),
    Case(
        "link-again",
        both(unlink("f"), lambda union: union.link("g", "f")),
        lower=("f",),
        upper=("g",),
        expected={"f": "upper: g", "g": "upper: g"},
    ),
    Case(
        "mkdir-over-file",
        both(unlink("f"), mkdir("f")),
        lower=("f",),
        expected={"f": "opaque"},
    ),
    # --- directories ---
    Case("mkdir", mkdir("d"), expected={"d": "dir"}),
    Case("rmdir-upper", rmdir("d"), upper=("d/",)),
    Case("rmdir-lower", rmdir("d"), lower=("d/",), expected={"d": "gone"}),
    Case("rmdir-merged", rmdir("d"), ("d/",), ("d/",), ("d/",), {"d": "gone"}),
    Case(
        "rmdir-with-whiteouts",
        both(unlink("d/f"), unlink("d/g"), rmdir("d")),
        lower=("d/f",),
        lower2=("d/g",),
        expected={"d": "gone"},
    ),
    Case("rmdir-lower-with-whiteouts", rmdir("d"), ("d/!f",), ("d/f",), (), {"d": "gone"}),
    Case("rmdir-what-no-lower-shows", rmdir("d"), ("!d",), ("d/f",), ("d/",)),
    Case(
        "mkdir-again",
        both(unlink("d/f"), rmdir("d"), mkdir("d")),
        lower=("d/f",),
        expected={"d": "opaque"},
    ),
    Case(
        "rmdir-again",
        both(rmdir("d"), mkdir("d"), rmdir("d")),
        lower=("d/",),
        expected={"d": "gone"},
    ),
    Case(
        "no-whiteout-in-an-opaque-directory",
        both(unlink("d/f"), rmdir("d"), mkdir("d"), create("d/f"), unlink("d/f")),
        lower=("d/f",),
        expected={"d": "opaque"},
    ),
    Case(
        "no-whiteout-in-a-new-directory",
        both(mkdir("d"), create("d/f"), unlink("d/f"), mkdir("d/e"), rmdir("d/e")),
        expected={"d": "dir"},
    ),
    Case(
        "no-whiteout-below-a-directory-that-hides-a-file",
        both(create("d/f"), unlink("d/f")),
        lower=("d",),
        upper=("d/",),
        expected={"d": "dir"},
    ),
    # --- renaming files ---
    Case("rename-upper", rename("a", "b"), upper=("a",), expected={"b": "upper: a"}),
    Case(
        "rename-lower",
        rename("a", "b"),
        lower=("a",),
        expected={"a": "gone", "b": "lower1: a"},
    ),
    Case(
        "rename-back",
        both(rename("a", "b"), rename("b", "a")),
        lower=("a",),
        expected={"a": "lower1: a"},
    ),
    Case(
        "rename-upper-over-lower",
        rename("a", "b"),
        lower=("b",),
        upper=("a",),
        expected={"b": "upper: a"},
    ),
    Case(
        "rename-lower-over-lower",
        rename("a", "b"),
        lower=("a", "b"),
        expected={"a": "gone", "b": "lower1: a"},
    ),
    Case(
        "rename-over-whiteout",
        both(unlink("b"), rename("a", "b")),
        lower=("a", "b"),
        expected={"a": "gone", "b": "lower1: a"},
    ),
    Case(
        "rename-upper-over-whiteout",
        both(unlink("b"), rename("a", "b")),
        lower=("b",),
        upper=("a",),
        expected={"b": "upper: a"},
    ),
    Case(
        "rename-noreplace-over-whiteout",
        both(unlink("b"), rename("a", "b", NOREPLACE)),
        lower=("a", "b"),
        expected={"a": "gone", "b": "lower1: a"},
    ),
    Case(
        "rename-into-directory",
        rename("a", "d/b"),
        lower=("a", "d/c"),
        expected={"a": "gone", "d": "dir", "d/b": "lower1: a"},
    ),
    Case(
        "rename-what-no-lower-shows",
        rename("a", "b"),
        ("!a",),
        ("a",),
        ("a",),
        {"b": "upper: a"},
    ),
    Case(
        "exchange-files",
        rename("a", "b", EXCHANGE),
        lower=("a", "b"),
        expected={"a": "lower1: b", "b": "lower1: a"},
    ),
    # --- renaming directories ---
    Case(
        "rename-new-directory",
        rename("d", "e"),
        upper=("d/f",),
        expected={"e": "dir", "e/f": "upper: d/f"},
    ),
    Case(
        "rename-lower-directory",
        rename("d", "e"),
        lower=("d/f",),
        lower2=("d/g",),
        expected={"d": "gone", "e": "opaque", "e/f": "lower1: d/f", "e/g": "lower2: d/g"},
    ),
    Case(
        "rename-deep-directory",
        rename("d", "e"),
        lower=("d/s/f", "d/t/"),
        upper=("d/s/u",),
        expected={
            "d": "gone",
            "e": "opaque",
            "e/s": "opaque",
            "e/s/f": "lower1: d/s/f",
            "e/s/u": "upper: d/s/u",
            "e/t": "opaque",
        },
    ),
    Case(
        "rename-new-directory-over-whiteout",
        both(rmdir("e"), rename("d", "e")),
        lower=("e/",),
        upper=("d/f",),
        expected={"e": "opaque", "e/f": "upper: d/f"},
    ),
    Case(
        "rename-lower-directory-over-whiteout",
        both(rmdir("e"), rename("d", "e")),
        lower=("d/f", "e/"),
        expected={"d": "gone", "e": "opaque", "e/f": "lower1: d/f"},
    ),
    Case(
        "rename-directory-over-whiteout-of-a-file",
        both(unlink("e"), rename("d", "e")),
        lower=("e",),
        upper=("d/f",),
        expected={"e": "opaque", "e/f": "upper: d/f"},
    ),
    Case(
        "rename-new-directory-over-empty-lower",
        rename("d", "e"),
        lower=("e/",),
        upper=("d/f",),
        expected={"e": "opaque", "e/f": "upper: d/f"},
    ),
    Case(
        "rename-new-directory-over-empty-merged",
        both(unlink("e/g"), rename("d", "e")),
        lower=("e/g",),
        upper=("d/f",),
        expected={"e": "opaque", "e/f": "upper: d/f"},
    ),
    Case(
        "rename-lower-directory-over-empty-merged",
        both(unlink("e/g"), rename("d", "e")),
        lower=("d/f", "e/g"),
        expected={"d": "gone", "e": "opaque", "e/f": "lower1: d/f"},
    ),
    Case(
        "rename-directory-and-back",
        both(rename("d", "e"), rename("e", "d")),
        lower=("d/f",),
        expected={"d": "opaque", "d/f": "lower1: d/f"},
    ),
    Case(
        "exchange-directories",
        rename("d", "e", EXCHANGE),
        lower=("d/f", "e/g"),
        expected={"d": "opaque", "d/g": "lower1: e/g", "e": "opaque", "e/f": "lower1: d/f"},
    ),
    Case(
        "exchange-directory-and-file",
        rename("d", "f", EXCHANGE),
        lower=("d/g", "f"),
        expected={"d": "lower1: f", "f": "opaque", "f/g": "lower1: d/g"},
    ),
    Case(
        "unlink-in-renamed-directory",
        both(rename("d", "e"), unlink("e/f")),
        lower=("d/f", "d/g"),
        expected={"d": "gone", "e": "opaque", "e/g": "lower1: d/g"},
    ),
]


def build(root: Path, paths: tuple[str, ...], whiteout: str) -> None:
    for path in paths:
        if "!" in path:
            # A name beside its own whiteout: only the prefixed format can say that.
            bare = path.replace("!", "")
            hide(root, bare, "aufs" if bare in paths else whiteout)
        else:
            put(root, path)


@pytest.mark.parametrize("indexed", [False, True], ids=["searched", "indexed"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_upper_after(formatted: Union, case: Case, indexed: bool) -> None:
    union = formatted
    format_ = str(union.options["whiteout"])
    build(union.lowers[0], case.lower, format_)
    build(union.lowers[1], case.lower2, format_)
    build(union.upper, case.upper, format_)
    if indexed:
        for path in ["", *union.walk()]:
            if stat.S_ISDIR(union.stat(path).st_mode):
                union.entries(path)
    case.act(union)
    assert on_disk(union.upper) == expected_on_disk(case, format_)
    assert union.scratch() == set()
    # What is remembered is what is there.
    seen = union.visible()
    for path, what in case.expected.items():
        assert union.exists(path) == (what != "gone")
    union.restart()
    assert union.visible() == seen


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_lowers_after(formatted: Union, case: Case) -> None:
    union = formatted
    format_ = str(union.options["whiteout"])
    for root, paths in zip(
        (*union.lowers, union.upper), (case.lower, case.lower2, case.upper), strict=True
    ):
        build(root, paths, format_)

    def state() -> list[tuple[object, ...]]:
        return [
            (path, st.st_ino, st.st_mode, st.st_mtime_ns, st.st_ctime_ns, st.st_atime_ns)
            for root in union.lowers
            for path in sorted([root, *root.rglob("*")])
            for st in [path.lstat()]
        ]

    before = state()
    case.act(union)
    assert state() == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_marks_of_the_other_format_count_as_much(formatted: Union, case: Case) -> None:
    """An upper may have been written with another `whiteout=`, a lower by anybody."""
    union = formatted
    other = "aufs" if union.options["whiteout"] == "overlay" else "overlay"
    for root, paths in zip(
        (*union.lowers, union.upper), (case.lower, case.lower2, case.upper), strict=True
    ):
        build(root, paths, other)
    case.act(union)
    seen = union.visible()
    for path, what in case.expected.items():
        assert union.exists(path) == (what != "gone"), path
    assert union.scratch() == set()
    union.restart()
    assert union.visible() == seen


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_redirects_show_the_same(formatted: Union, case: Case) -> None:
    """However a directory is renamed: what is seen is what `rename_dir=copy` shows."""
    union = formatted
    union.restart(rename_dir="redirect")
    format_ = str(union.options["whiteout"])
    for root, paths in zip(
        (*union.lowers, union.upper), (case.lower, case.lower2, case.upper), strict=True
    ):
        build(root, paths, format_)
    case.act(union)
    seen = union.visible()
    shown = {path for path, what in case.expected.items() if what != "gone"}
    assert shown <= set(seen)
    assert {path for path, what in case.expected.items() if what == "gone"}.isdisjoint(seen)
    for path in shown:
        content = case.expected[path]
        if content not in ("dir", "opaque", "fifo") and not content.startswith("-> "):
            assert union.read(path) == content.encode()
    assert union.scratch() == set()
    union.restart()
    assert union.visible() == seen


def test_marks_of_a_daemon_without_privileges(union: Union) -> None:
    """It may not write trusted.*; devices it may make since Linux 5.8."""
    put(union.lower, "d/f", "f")
    union.restart(whiteout="overlay", trusted=False)
    union.unlink("f")
    union.unlink("d/f")
    union.rmdir("d")
    union.mkdir("d")
    assert os.getxattr(union.upper / "d", "user.overlay.opaque") == b"y"
    assert "trusted.overlay.opaque" not in os.listxattr(union.upper / "d")
    union.restart()
    assert sorted(union.walk()) == ["d"]


# --- what fails changes nothing ---


@pytest.fixture
def immutable(base: Path) -> Iterator[Callable[[Path], None]]:
    """Makes a file of the upper one that root cannot remove; ends with the test."""

    def protect(path: Path) -> None:
        done = subprocess.run(["chattr", "+i", path], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("this filesystem has no immutable files")
        protected.append(path)

    protected: list[Path] = []
    yield protect
    for path in protected:
        subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.parametrize(
    "act",
    [
        unlink("f"),
        rename("f", "g"),
        rename("f", "f2"),
        rename("g", "f"),
        rename("g", "f", EXCHANGE),
    ],
    ids=["unlink", "rename", "rename-over", "replace", "exchange"],
)
def test_a_change_that_fails_leaves_the_tree_as_it_was(
    formatted: Union, act: Callable[[Union], object], immutable: Callable[[Path], None]
) -> None:
    union = formatted
    put(union.lower, "f", "f2", "g")
    put(union.upper, "f")
    immutable(union.upper / "f")
    before = union.visible()
    with fails(EPERM):
        act(union)
    assert union.visible() == before
    assert union.scratch() == set()
    union.restart()
    assert union.visible() == before


def test_removing_a_directory_fails_and_nothing_shows(
    formatted: Union, immutable: Callable[[Path], None]
) -> None:
    union = formatted
    put(union.lower, "d/f", "d/g")
    put(union.upper, "d/")
    union.unlink("d/f")
    union.unlink("d/g")
    immutable(union.upper / "d")
    before = union.visible()
    with pytest.raises(PermissionError):
        union.rmdir("d")
    assert union.visible() == before
    union.restart()
    assert union.visible() == before


def test_marks_that_are_directories_go_with_theirs(formatted: Union) -> None:
    union = formatted
    put(union.upper, "d/.wh.x/", "full/.wh.x/y")
    put(union.lower, "d/x", "full/x")
    union.rmdir("d")
    assert union.names() == ["full"]
    with fails(ENOTEMPTY):
        union.rmdir("full")
    assert union.names("full") == []
    union.restart()
    assert sorted(union.walk()) == ["full"]
