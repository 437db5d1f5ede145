"""The ladder, on plain directories."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.channel import fails, union_tree
from unionfs._tree import ROOT, NodeInfo, Tree
from unionfs.copyup import bring_up, make_whole

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    path = tmp_path / "lower"
    path.mkdir()
    return path


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    return tmp_path / "upper"


@pytest.fixture
def tree(tmp_path: Path, lower: Path) -> Iterator[Tree]:
    with union_tree(tmp_path) as tree:
        yield tree


def walk(tree: Tree, path: str) -> int:
    """The node of a path; each step holds its reference."""
    node = ROOT
    for name in path.split("/"):
        node, _ = tree.lookup(node, os.fsencode(name))
    return node


def content(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text() if path.is_file() else "/"
        for path in directory.rglob("*")
    }


def test_directories_come_first(tree: Tree, lower: Path, upper: Path) -> None:
    (lower / "a/b/c").mkdir(parents=True)
    (lower / "a").chmod(0o750)
    (lower / "a/b/c/file").write_text("x")
    (lower / "a/b/other").write_text("not this one")
    node = walk(tree, "a/b/c/file")
    bring_up(tree, node)
    assert content(upper) == {"a": "/", "a/b": "/", "a/b/c": "/", "a/b/c/file": "x"}
    assert stat.S_IMODE((upper / "a").stat().st_mode) == 0o750
    assert tree.info(node).branch == 0
    before = tree.stats()["copy_ups"]
    bring_up(tree, node)
    bring_up(tree, ROOT)
    assert tree.stats()["copy_ups"] == before == 4


def test_only_missing_directories_are_copied(tree: Tree, lower: Path, upper: Path) -> None:
    (lower / "a/b").mkdir(parents=True)
    (lower / "a/b/file").write_text("x")
    (upper / "a").mkdir()
    (upper / "a").chmod(0o711)
    bring_up(tree, walk(tree, "a/b/file"))
    assert stat.S_IMODE((upper / "a").stat().st_mode) == 0o711
    assert tree.stats()["copy_ups"] == 2


def test_no_more_than_is_wanted(tree: Tree, lower: Path, upper: Path) -> None:
    (lower / "a").mkdir()
    (lower / "a/file").write_text("first and last")
    bring_up(tree, walk(tree, "a/file"), 5)
    assert content(upper) == {"a": "/", "a/file": "first"}
    assert tree.stats()["copy_up_bytes"] == 5


def test_a_file_without_a_name(tree: Tree, lower: Path, upper: Path) -> None:
    (lower / "file").write_text("x")
    node = walk(tree, "file")
    tree.unlink(ROOT, b"file")
    bring_up(tree, node)
    assert tree.write(node, b"y", 1) == 1
    assert tree.read(node, 10) == b"xy"


def test_an_unknown_node(tree: Tree) -> None:
    with fails(errno.ESTALE):
        bring_up(tree, 77)


class Restless:
    """A tree in which a rename moves the node whenever it is about to be copied up."""

    def __init__(self, moves: int) -> None:
        self.moves = moves
        self.parent = 10
        self.upper: list[int] = []

    def info(self, node: int) -> NodeInfo:
        parent = {3: self.parent}.get(node, ROOT)
        branch = 0 if node in (*self.upper, ROOT) else 1
        return NodeInfo(parent, b"x", stat.S_IFDIR, branch, 0, 1, False)

    def copy_up(self, node: int, keep: int) -> None:
        if node == 3 and self.moves:
            self.moves -= 1
            self.parent += 1
        if self.info(node).parent not in (*self.upper, ROOT):
            raise FileNotFoundError(errno.ENOENT, "the parent is missing")
        self.upper.append(node)


def test_a_rename_on_the_way_up() -> None:
    tree = Restless(5)
    bring_up(tree, 3)  # type: ignore[arg-type]
    assert tree.upper == [10, 11, 12, 13, 14, 15, 3]
    with fails(errno.ENOENT):
        bring_up(Restless(10**9), 3)  # type: ignore[arg-type]


def test_make_whole(tree: Tree, lower: Path, upper: Path) -> None:
    (lower / "top/dir/deep").mkdir(parents=True)
    (lower / "top/empty").mkdir()
    (lower / "top/dir/file").write_text("file")
    (lower / "top/dir/deep/link").symlink_to("nowhere")
    (lower / "top/gone").write_text("gone")
    (lower / "beside").write_text("beside")
    node = walk(tree, "top")
    tree.unlink(node, b"gone")
    before = {name for name, *_ in tree.readdir(node)}
    held = tree.stats()["nodes"]
    make_whole(tree, node)
    assert {name for name, *_ in tree.readdir(node)} == before
    assert not (upper / "beside").exists()
    assert (upper / "top/dir/file").read_text() == "file"
    assert os.readlink(upper / "top/dir/deep/link") == "nowhere"
    assert (upper / "top/empty").is_dir()
    # Opaque, each of them: what lies below in the lower is hidden for good.
    for directory in ("top", "top/dir", "top/dir/deep", "top/empty"):
        assert (upper / directory / ".wh..wh..opq").exists(), directory
    assert not tree.info(node).merged
    assert tree.stats()["nodes"] == held  # every reference has been given back
    make_whole(tree, node)


def test_make_whole_a_deep_tree(tree: Tree, lower: Path) -> None:
    """Deeper than Python's stack, and than a path may be long."""
    depth = 1200
    here = os.open(lower, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 10, dir_fd=here)
        below = os.open("d" * 10, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    node = walk(tree, "d" * 10)
    make_whole(tree, node)
    assert tree.stats()["copy_ups"] == depth
    assert not tree.info(node).merged
