"""No input ends the process: ids, names and offsets of every kind, deep trees, many threads."""

import os
import random
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EMFILE, ESTALE
from functools import partial
from itertools import count, islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.posix.asserts import fails
from tests.tree.union import Union, hide, put, said
from unionfs import copyup
from unionfs._tree import ROOT, Tree

FILE = stat.S_IFREG | 0o644


def calls(tree: Tree, node: int, file: int, other: int = ROOT) -> dict[str, Callable[[], object]]:
    """Every operation on a node; a file and another directory for those that need two."""
    return {
        "lookup": lambda: tree.lookup(node, b"f"),
        "getattr": lambda: tree.getattr(node),
        "setattr": lambda: tree.setattr(node, mode=0o600),
        "readlink": lambda: tree.readlink(node),
        "mknod": lambda: tree.mknod(node, b"new", FILE),
        "mkdir": lambda: tree.mkdir(node, b"new"),
        "symlink": lambda: tree.symlink(node, b"new", b"target"),
        "link": lambda: tree.link(node, other, b"new"),
        "link-into": lambda: tree.link(file, node, b"new"),
        "unlink": lambda: tree.unlink(node, b"f"),
        "rmdir": lambda: tree.rmdir(node, b"d"),
        "rename": lambda: tree.rename(node, b"f", other, b"new"),
        "rename-into": lambda: tree.rename(other, b"f", node, b"new"),
        "read": lambda: tree.read(node, 10),
        "write": lambda: tree.write(node, b"x"),
        "fsync": lambda: tree.fsync(node),
        "lseek": lambda: tree.lseek(node, 0, os.SEEK_DATA),
        "fallocate": lambda: tree.fallocate(node, 0, 0, 10),
        "getxattr": lambda: tree.getxattr(node, "user.x"),
        "setxattr": lambda: tree.setxattr(node, "user.x", b""),
        "listxattr": lambda: tree.listxattr(node),
        "removexattr": lambda: tree.removexattr(node, "user.x"),
        "readdir": lambda: tree.readdir(node),
        "info": lambda: tree.info(node),
        "copy_up": lambda: tree.copy_up(node),
        "make_whole": lambda: copyup.make_whole(tree, node),
        "where": lambda: tree.where(node),
    }


@pytest.mark.parametrize("node", [0, 3, 1000, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_ids_that_nobody_handed_out(union: Union, node: int) -> None:
    put(union.lower, "f")
    file = union.node("f")
    for call in calls(union.tree, node, file).values():
        with fails(ESTALE):
            call()
    for references in (0, 1, (1 << 64) - 1):
        union.tree.forget(node, references)
    assert union.read("f") == b"lower1: f"


def test_ids_that_were_given_back(union: Union) -> None:
    put(union.lower, "f", "d/g", "file")
    file = union.node("file")
    for path in ("f", "d"):
        node = union.node(path)
        union.tree.forget(node, 1)
        for call in calls(union.tree, node, file).values():
            with fails(ESTALE):
                call()


def test_the_root_is_never_forgotten(union: Union) -> None:
    put(union.lower, "f")
    for references in (1, 1 << 32, (1 << 64) - 1):
        union.tree.forget(ROOT, references)
    assert union.names() == ["f"]


def test_every_operation_on_every_type(formatted: Union) -> None:
    """Whatever the answers are: the tree is whole, and a new one finds the same."""
    union = formatted
    for branch in (union.upper, *union.lowers):
        put(branch, f"{branch.name}/f", f"{branch.name}/d/")
        os.mkfifo(branch / f"{branch.name}/fifo")
        (branch / f"{branch.name}/l").symlink_to("f")
    file = union.create("file")
    for path in list(union.walk()):
        try:
            node = union.node(path)
        except FileNotFoundError:
            continue  # removed by what went before
        for call in calls(union.tree, node, file).values():
            try:
                call()
            except OSError as error:
                assert error.errno != ESTALE, path
        for name in (b"new", b"f"):
            for remove in (union.tree.unlink, union.tree.rmdir):
                try:
                    remove(ROOT, name)
                except OSError:
                    continue
    seen = union.visible()
    union.restart()
    assert union.visible() == seen


# --- random calls ---

NODES = st.one_of(st.integers(0, 40), st.sampled_from([1 << 32, (1 << 64) - 1]))
NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"d", b"e", b".wh.a", b".wh..wh..opq", b"#1", b"whiteout"]),
    st.sampled_from([b"", b".", b"..", b"a/b", b"a\0b", b"n" * 252, b"n" * 255, b"n" * 256]),
    st.binary(max_size=8),
)
OFFSETS = st.one_of(st.integers(0, 10_000), st.sampled_from([1 << 40, (1 << 63) - 1, 1 << 63]))
SIZES = st.integers(0, 10_000)
MODES = st.one_of(st.integers(0, 0o7777), st.integers(0, 0o177777))
XATTRS = st.sampled_from(
    ["user.x", "trusted.overlay.opaque", "system.posix_acl_default", "user.", "x", "security.y"]
)
FLAGS = st.sampled_from([0, 0, 0, 1, 2, 2, 3, 4])
STEPS = st.one_of(
    st.tuples(st.just("lookup"), NODES, NAMES),
    st.tuples(st.just("lookup"), NODES, st.sampled_from([b"a", b"b", b"c", b"d"])),
    st.tuples(st.just("forget"), NODES, st.integers(0, 3)),
    st.tuples(st.sampled_from(["getattr", "readlink", "listxattr", "info", "where"]), NODES),
    st.tuples(st.just("mknod"), NODES, NAMES, MODES, st.sampled_from([0, 259])),
    st.tuples(st.just("mkdir"), NODES, NAMES, MODES),
    st.tuples(
        st.just("symlink"), NODES, NAMES, st.sampled_from([b"a", b"../..", b"x" * 5000, b""])
    ),
    st.tuples(st.just("link"), NODES, NODES, NAMES),
    st.tuples(st.sampled_from(["unlink", "rmdir"]), NODES, NAMES),
    st.tuples(st.just("rename"), NODES, NAMES, NODES, NAMES, FLAGS),
    st.tuples(st.just("read"), NODES, SIZES, OFFSETS),
    st.tuples(st.just("write"), NODES, st.binary(max_size=100), OFFSETS),
    st.tuples(st.just("fallocate"), NODES, st.integers(0, 127), OFFSETS, SIZES),
    st.tuples(st.just("lseek"), NODES, SIZES, st.integers(0, 6)),
    st.tuples(st.just("setxattr"), NODES, XATTRS, st.binary(max_size=40), st.integers(0, 3)),
    st.tuples(st.sampled_from(["getxattr", "removexattr"]), NODES, XATTRS),
    st.tuples(st.just("readdir"), NODES, OFFSETS),
    st.tuples(st.sampled_from(["copy_up", "make_whole", "fsync"]), NODES),
    st.tuples(
        st.just("setattr"), NODES, st.sampled_from(["mode", "uid", "size", "mtime_ns"]), SIZES
    ),
    st.tuples(st.just("shrink"), st.booleans()),
)


def perform(tree: Tree, step: tuple[object, ...]) -> None:
    name, *arguments = step
    if name == "setattr":
        node, what, value = arguments
        tree.setattr(node, **{str(what): value})  # type: ignore[arg-type]
    elif name == "make_whole":
        copyup.make_whole(tree, *arguments)  # type: ignore[arg-type]
    elif name == "shrink":
        tree.shrink(everything=bool(*arguments))
    else:
        getattr(tree, str(name))(*arguments)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=st.lists(STEPS, max_size=40),
    whiteout=st.sampled_from(["aufs", "overlay"]),
    rename_dir=st.sampled_from(["copy", "redirect", "exdev"]),
    fd_limit=st.sampled_from([1, 4, 256]),
)
def test_random_calls(
    union: Union, steps: list[tuple[object, ...]], whiteout: str, rename_dir: str, fd_limit: int
) -> None:
    """Any answer will do but a crash; what is remembered is what is there."""
    union.restart(whiteout=whiteout, rename_dir=rename_dir, fd_limit=fd_limit, inline_limit=4096)
    directories = (union.upper, union.work, *union.lowers)
    subprocess.run(["find", *directories, "-mindepth", "1", "-delete"], check=True)
    for directory in directories:
        directory.chmod(0o755)
        for name in os.listxattr(directory):
            os.removexattr(directory, name)
    put(union.lowers[0], "a", "c/a", "c/b/a", "d/")
    put(union.lowers[1], "b", "c/c", "c/b/b", "e")
    hide(union.lowers[0], "e", "overlay")
    put(union.upper, "c/d")
    for step in steps:
        try:
            perform(union.tree, step)
        except OSError as error:
            assert error.errno  # which one, nobody promised
    stats = union.tree.stats()
    assert stats["nodes"] < 200
    assert stats["listings"] < 200
    assert stats["pinned_fds"] < 200
    assert union.scratch() <= {"links"}
    seen = union.visible()
    union.restart()
    assert union.visible() == seen


# --- few descriptors, deep trees ---


@pytest.mark.parametrize("limit", [1, 2, 8])
def test_few_descriptors(make_union: Callable[..., Union], limit: int) -> None:
    union = make_union(fd_limit=limit, whiteout="overlay")
    deep = "/".join(f"d{i}" for i in range(30))
    for branch in (union.upper, *union.lowers):
        put(branch, f"{deep}/{branch.name}", *(f"wide{i}/{branch.name}" for i in range(30)))
    nodes = {}
    for name in ("upper", "lower1", "lower2"):
        for path in (f"{deep}/{name}", *(f"wide{i}/{name}" for i in range(30))):
            nodes[path] = union.node(path)
    for _ in range(2):
        for path, node in nodes.items():
            assert union.read_node(node) == said(union.base / path.rpartition("/")[2], path)
        assert union.tree.stats()["fds"] <= limit
    for path, node in nodes.items():
        union.tree.write(node, b"X")
        assert union.read(path)[:1] == b"X"
    assert union.tree.stats()["fds"] <= limit
    for i in range(30):
        union.rename(f"wide{i}", f"{deep}/moved{i}")
    assert len(union.names(deep)) == 33
    assert union.tree.stats()["fds"] <= limit


DEPTH = 3000


def dig(root: Path, name: str, depth: int) -> None:
    fd = os.open(root, os.O_PATH)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_a_directory_three_thousand_levels_down(tmpfs: Callable[..., Path]) -> None:
    union = Union(tmpfs("fs"), 1, durable=False)
    dig(union.lower, "d", DEPTH)
    tree, node = union.tree, ROOT
    for _ in range(DEPTH):
        above, (node, _) = node, tree.lookup(node, b"d")
        if above != ROOT:
            tree.forget(above)
    file, _ = tree.lookup(node, b"f")
    # The nodes in between live by their children alone.
    assert tree.stats()["nodes"] == DEPTH + 2
    assert tree.where(file) == (1, b"d/" * DEPTH + b"f")
    tree.write(file, b"deep")
    assert tree.where(file)[0] == 0
    tree.shrink(everything=True)
    assert tree.read(file, 10) == b"deep"
    tree.mkdir(node, b"e")
    assert {name for name, *_ in tree.readdir(node, 2)} == {b"f", b"e"}
    # Renaming the top has all of it made whole first.
    top, _ = tree.lookup(ROOT, b"d")
    tree.rename(ROOT, b"d", ROOT, b"new")
    tree.forget(top)
    assert tree.where(file) == (0, b"new/" + b"d/" * (DEPTH - 1) + b"f")
    assert tree.read(file, 10) == b"deep"
    tree.forget(file)
    assert tree.stats()["nodes"] > DEPTH
    tree.forget(node)
    tree.shrink(everything=True)
    assert union.scratch() == set()
    union.restart()


# --- threads ---


class Crew:
    """Threads that run until the last of them that counts is done; their errors are the test's."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.done = threading.Event()

    def run(self, finite: list[Callable[[], None]], endless: list[Callable[[], None]]) -> None:
        threads = [threading.Thread(target=self._guard, args=(work, False)) for work in finite]
        background = [threading.Thread(target=self._guard, args=(work, True)) for work in endless]
        for thread in (*threads, *background):
            thread.start()
        for thread in threads:
            thread.join()
        self.done.set()
        for thread in background:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _guard(self, work: Callable[[], None], endless: bool) -> None:
        try:
            work()
            while endless and not self.done.is_set() and not self.errors:
                work()
        except BaseException as error:
            self.errors.append(error)


@pytest.mark.parametrize("limit", [4, 256])
def test_threads_in_one_tree(make_union: Callable[..., Union], limit: int) -> None:
    """What stays is found by everybody, whatever happens beside it.

    Changes of one directory are made by one thread: on a mount the kernel sees to that.
    """
    union = make_union(fd_limit=limit)
    for i in range(8):
        put(union.lowers[i % 2], f"d{i}/stays", f"d{i}/s/stays", *(f"d{i}/f{j}" for j in range(20)))
    tree = union.tree
    directories = [union.node(f"d{i}") for i in range(8)]
    expected = [said(union.lowers[i % 2], f"d{i}/stays") for i in range(8)]

    def look() -> None:
        i = random.randrange(8)
        node, st = tree.lookup(directories[i], b"stays")
        assert tree.read(node, 100) == expected[i]
        assert tree.getattr(node).st_ino == st.st_ino
        names = [name for name, *_ in tree.readdir(directories[i])]
        assert len(names) == len(set(names))
        assert b"stays" in names
        below, _ = tree.lookup(directories[i], b"s")
        deep, _ = tree.lookup(below, b"stays")
        assert tree.read(deep, 5) == b"lower"
        for reference in (deep, below, node):
            tree.forget(reference)

    def change(i: int) -> Callable[[], None]:
        def work() -> None:
            directory = directories[i]
            for j in range(20):
                node, _ = tree.lookup(directory, b"f%d" % j)
                tree.copy_up(directory)
                tree.copy_up(node)
                tree.write(node, b"x")
                tree.rename(directory, b"f%d" % j, directory, b"g%d" % j)
                new, _ = tree.mknod(directory, b"f%d" % j, FILE)
                tree.unlink(directory, b"f%d" % j)
                assert tree.getattr(new).st_nlink == 0
                tree.forget(new)
                tree.unlink(directory, b"g%d" % j)
                tree.forget(node)

        return work

    Crew().run(
        [change(i) for i in range(8)], [look, look, look, partial(tree.shrink, everything=True)]
    )
    for i in range(8):
        assert union.names(f"d{i}") == ["s", "stays"]
    assert tree.stats()["fds"] <= limit + 8
    union.restart()
    for i in range(8):
        assert union.names(f"d{i}") == ["s", "stays"]


def test_threads_that_ask_for_nodes(base: Path) -> None:
    """In a process of their own: who waits for a lock with the interpreter's stops them all."""
    code = """
import os, sys, threading
from unionfs._tree import ROOT, Tree
sys.setswitchinterval(1e-6)
tree = Tree([os.open(sys.argv[1], os.O_PATH)])
def ask():
    for _ in range(20_000):
        tree.info(ROOT)
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    subprocess.run([sys.executable, "-c", code, base], check=True, timeout=50)


def test_one_copy_however_many_ask(union: Union) -> None:
    put(union.lower, "f", content=b"x" * 3_000_000)
    tree, node = union.tree, union.node("f")
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        tree.copy_up(node)
        assert tree.info(node).branch == 0

    Crew().run([ask] * 8, [lambda: None])
    assert tree.stats()["copy_ups"] == 1
    assert tree.stats()["copy_up_bytes"] == 3_000_000
    assert union.scratch() == set()


def test_reading_goes_on_while_a_file_is_copied(union: Union) -> None:
    contents = {f"f{i}": bytes([i + 1]) * 500_000 for i in range(10)}
    for name, data in contents.items():
        put(union.lower, name, content=data)
    nodes = {name: union.node(name) for name in contents}
    tree = union.tree

    def read() -> None:
        name = random.choice(list(nodes))
        node, st = tree.lookup(ROOT, name.encode())
        assert st.st_size == 500_000
        assert set(tree.read(node, 500_000)) == {contents[name][0]}
        tree.forget(node)

    Crew().run(
        [lambda name=name: tree.copy_up(nodes[name]) for name in nodes],  # type: ignore[misc]
        [read, read],
    )
    assert tree.stats()["copy_ups"] == 10


def test_nodes_are_reached_while_their_ancestors_are_renamed(
    make_union: Callable[..., Union],
) -> None:
    """The kernel does not keep an ancestor's rename from what happens below it."""
    union = make_union(fd_limit=4)
    put(union.upper, "a/b/c/f", "a/b/c/d/g")
    put(union.lower, *(f"a/b/c/d/l{i}" for i in range(60)))
    put(union.lower, "other/x")
    tree = union.tree
    c, f, d = union.node("a/b/c"), union.node("a/b/c/f"), union.node("a/b/c/d")
    union.node("a")
    union.rename("a", "moved")  # makes it whole
    union.rename("moved", "a")
    a, b = union.node("a"), union.node("a/b")
    assert a != b

    def rename_top() -> None:
        for _ in range(200):
            tree.rename(ROOT, b"a", ROOT, b"z")
            tree.rename(ROOT, b"z", ROOT, b"a")

    def rename_middle() -> None:
        for _ in range(200):
            tree.rename(b, b"c", a, b"c")
            tree.rename(a, b"c", b, b"c")

    def reach() -> None:
        assert tree.read(f, 100) == b"upper: a/b/c/f"
        assert tree.getattr(f).st_nlink == 1
        node, _ = tree.lookup(d, b"g")
        assert tree.getattr(node).st_nlink == 1
        tree.forget(node)
        assert len(tree.readdir(c)) == 4
        tree.mknod(d, b"new", FILE)
        tree.unlink(d, b"new")

    def look() -> None:
        i = random.randrange(60)
        node, _ = tree.lookup(d, b"l%d" % i)
        assert tree.read(node, 6) == b"lower1"
        tree.forget(node)

    Crew().run(
        [rename_top, rename_middle], [reach, look, look, partial(tree.shrink, everything=True)]
    )
    assert union.names("a/b/c") == ["d", "f"]
    union.restart()
    assert union.names("a/b/c") == ["d", "f"]
    assert len(union.names("a/b/c/d")) == 61


@contextmanager
def descriptors_left(free: int) -> Iterator[None]:
    """So many descriptors can be opened and no more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    unused = (number for number in count() if not os.path.exists(f"/proc/self/fd/{number}"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(unused, free, None)), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


CHANGES: dict[str, Callable[[Union], object]] = {
    "create": lambda union: union.create("u/new"),
    "create for another": lambda union: union.create("u/new", uid=7),
    "create over a whiteout": lambda union: union.create("gone"),
    "mkdir": lambda union: union.mkdir("u/new"),
    "mkdir for another": lambda union: union.mkdir("u/new", uid=7),
    "mkdir over a whiteout": lambda union: union.mkdir("gone"),
    "mkfifo": lambda union: union.mknod("u/new", stat.S_IFIFO | 0o600),
    "symlink": lambda union: union.symlink("target", "u/new"),
    "link": lambda union: union.link("u/own", "u/new"),
    "link a lower file": lambda union: union.link("d/f", "u/new"),
    "write to a lower file": lambda union: union.write("d/f", b"x"),
    "write to one of two": lambda union: union.write("one", b"x"),
    "unlink": lambda union: union.unlink("u/own"),
    "unlink a lower file": lambda union: union.unlink("d/f"),
    "rmdir": lambda union: union.rmdir("empty"),
    "rename": lambda union: union.rename("u/own", "d/moved"),
    "rename a lower file": lambda union: union.rename("d/f", "u/moved"),
    "rename over a lower file": lambda union: union.rename("u/own", "d/f"),
    "rename over one of two": lambda union: union.rename("u/own", "one"),
    "rename a directory": lambda union: union.rename("u", "d/u"),
    "rename a merged directory": lambda union: union.rename("d", "e"),
    "rename over an empty directory": lambda union: union.rename("u/dir", "empty"),
    "exchange": lambda union: union.rename("u/own", "d/f", 2),
    "exchange directories": lambda union: union.rename("u", "d", 2),
    "chown a lower link": lambda union: union.tree.setattr(union.node("link"), uid=9),
    "truncate a lower file": lambda union: union.tree.setattr(union.node("d/f"), size=1),
    "set an attribute": lambda union: union.tree.setxattr(union.node("one"), "user.x", b"1"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_descriptor_is_left(formatted: Union, change: str) -> None:
    """At whichever step there is none, the change has not happened."""
    union = formatted
    put(union.lower, "d/f", "gone", "empty/", "one")
    os.link(union.lower / "one", union.lower / "two")
    (union.lower / "link").symlink_to("d")
    put(union.upper, "u/own", "u/dir/")
    union.unlink("gone")
    union.restart()
    before = union.visible()
    failures = 0
    for free in range(16):
        union.restart()
        union.node("u/own")
        try:
            with descriptors_left(free):
                CHANGES[change](union)
        except OSError as error:
            assert error.errno == EMFILE
            failures += 1
        else:
            break
        assert union.visible() == before, f"with {free} descriptors"
        union.restart()
        assert union.visible() == before, f"with {free} descriptors, read again"
        assert union.scratch() <= {"links", "origins"}
    else:
        pytest.fail("it never came about")
    assert failures
    assert union.visible() != before
