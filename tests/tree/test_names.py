"""Creating, linking, removing and renaming names; what a file is without one."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.acls import ACCESS, DEFAULT, acl, decode
from tests.posix.asserts import fails
from tests.tree.union import Union, hide, on_disk, put, said
from unionfs._tree import ROOT

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4  # renameat2(2)
KINDS = {
    "file": stat.S_IFREG,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "dir": stat.S_IFDIR,
}


def create(union: Union, path: str, kind: str, mode: int, **caller: int) -> int:
    if kind == "dir":
        return union.mkdir(path, mode, **caller)
    rdev = os.makedev(1, 3) if kind in ("char", "block") else 0
    return union.mknod(path, KINDS[kind] | mode, rdev, **caller)


def mode_of(st: os.stat_result) -> int:
    return stat.S_IMODE(st.st_mode)


@pytest.fixture(params=["new", "whiteout", "directory in a lower", "over a lower whiteout"])
def place(request: pytest.FixtureRequest, formatted: Union) -> tuple[Union, str]:
    """Where a name can come to stand: "d/x" does not exist, for different reasons."""
    union = formatted
    match request.param:
        case "new":
            put(union.upper, "d/")
        case "whiteout":
            put(union.lower, "d/x")
            union.unlink("d/x")
        case "directory in a lower":
            put(union.lower, "d/")
        case "over a lower whiteout":
            put(union.lowers[1], "d/x")
            hide(union.lowers[0], "d/x", str(union.options["whiteout"]))
    return union, "d/x"


# --- creating ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("mode", "umask"), [(0o666, 0o022), (0o777, 0o077), (0o644, 0o777), (0o1777, 0), (0o6755, 0o11)]
)
def test_mode_and_owner(place: tuple[Union, str], kind: str, mode: int, umask: int) -> None:
    union, path = place
    node = create(union, path, kind, mode, uid=1234, gid=2345, umask=umask)
    expected = mode & ~umask
    for st in (union.tree.getattr(node), (union.upper / path).lstat()):
        assert stat.S_IFMT(st.st_mode) == KINDS[kind]
        assert oct(mode_of(st)) == oct(expected)
        assert (st.st_uid, st.st_gid) == (1234, 2345)
        assert st.st_nlink == (2 if kind == "dir" else 1)
        if kind in ("char", "block"):
            assert st.st_rdev == os.makedev(1, 3)
    assert union.node(path) == node
    assert union.scratch() == set()


@pytest.mark.parametrize("kind", KINDS)
def test_the_group_of_a_set_group_id_directory(place: tuple[Union, str], kind: str) -> None:
    union, path = place
    union.tree.setattr(union.node("d"), uid=1, gid=777)
    union.tree.setattr(union.node("d"), mode=0o2775)
    node = create(union, path, kind, 0o755, uid=1234, gid=2345, umask=0o022)
    st = union.tree.getattr(node)
    assert (st.st_uid, st.st_gid) == (1234, 777)
    assert oct(mode_of(st)) == oct(0o2755 if kind == "dir" else 0o755)
    link = union.symlink("target", "d/l", uid=1234, gid=2345)
    st = union.tree.getattr(link)
    assert (st.st_uid, st.st_gid) == (1234, 777)


@pytest.mark.parametrize("kind", ["file", "dir", "fifo"])
@pytest.mark.parametrize("uid", [0, 1234])
def test_a_default_acl_is_inherited(place: tuple[Union, str], kind: str, uid: int) -> None:
    """acl(5): the umask counts for nothing then; the mode masks."""
    union, path = place
    default = acl("u:7 U4321:6 g:5 m:7 o:1")
    union.tree.setxattr(union.node("d"), DEFAULT, default)
    node = create(union, path, kind, 0o640, uid=uid, gid=uid, umask=0o077)
    plain = union.base / "plain"
    plain.mkdir()
    os.setxattr(plain, DEFAULT, default)
    before = os.umask(0o077)
    try:
        if kind == "dir":
            (plain / "x").mkdir(0o640)
        else:
            os.mknod(plain / "x", KINDS[kind] | 0o640)
    finally:
        os.umask(before)
    for name in (ACCESS, DEFAULT)[: 2 if kind == "dir" else 1]:
        expected = os.getxattr(plain / "x", name)
        assert decode(union.tree.getxattr(node, name)) == decode(expected)
    assert oct(mode_of(union.tree.getattr(node))) == oct(mode_of((plain / "x").stat()))
    assert union.tree.getattr(node).st_uid == uid


def test_a_default_acl_that_comes_and_goes(union: Union) -> None:
    node = union.mkdir("d")
    default = acl("u:7 g:7 o:7")
    assert mode_of(union.tree.getattr(union.create("d/a", mode=0o666, umask=0o077))) == 0o600
    union.tree.setxattr(node, DEFAULT, default)
    assert mode_of(union.tree.getattr(union.create("d/b", mode=0o666, umask=0o077))) == 0o666
    union.tree.removexattr(node, DEFAULT)
    assert mode_of(union.tree.getattr(union.create("d/c", mode=0o666, umask=0o077))) == 0o600


def test_symbolic_links(place: tuple[Union, str]) -> None:
    union, path = place
    target = "t" * 4095
    node = union.symlink(target, path, uid=1234, gid=2345)
    assert union.tree.readlink(node) == target.encode()
    st = union.tree.getattr(node)
    assert (st.st_uid, st.st_gid, st.st_size, mode_of(st)) == (1234, 2345, 4095, 0o777)
    for call in (
        lambda: union.tree.read(node, 1),
        lambda: union.tree.write(node, b"x"),
        lambda: union.tree.fallocate(node, 0, 0, 1),
    ):
        with pytest.raises(OSError, match="Invalid"):
            call()


def test_what_mknod_refuses(union: Union) -> None:
    for mode, rdev, error in (
        (stat.S_IFCHR | 0o600, 0, errno.EPERM),  # a whiteout
        (stat.S_IFDIR | 0o755, 0, errno.EINVAL),
        (stat.S_IFLNK | 0o777, 0, errno.EINVAL),
        (0o170000 | 0o777, 0, errno.EINVAL),
    ):
        with fails(error):
            union.mknod("x", mode, rdev)
    assert on_disk(union.upper) == {}


@pytest.mark.parametrize("where", ["upper", "lower1", "lower2"])
@pytest.mark.parametrize("there", ["file", "dir", "link"])
def test_a_name_that_exists(union: Union, where: str, there: str) -> None:
    match there:
        case "file":
            put(union.base / where, "x")
        case "dir":
            put(union.base / where, "x/f")
        case "link":
            (union.base / where / "x").symlink_to("nowhere")
    put(union.upper, "other")
    before = on_disk(union.upper)
    for call in (
        lambda: union.create("x"),
        lambda: union.mkdir("x"),
        lambda: union.symlink("y", "x"),
        lambda: union.link("other", "x"),
        lambda: union.rename("other", "x", NOREPLACE),
    ):
        with pytest.raises(FileExistsError):
            call()
    assert on_disk(union.upper) == before
    assert union.scratch() == set()


def test_creating_brings_up_the_directory(union: Union) -> None:
    put(union.lower, "a/b/c/f")
    union.create("a/b/c/new")
    assert set(on_disk(union.upper)) == {"a", "a/b", "a/b/c", "a/b/c/new"}
    assert union.names("a/b/c") == ["f", "new"]


def test_a_name_beside_what_is_not_looked_up(union: Union) -> None:
    """Only what exists is in the way: not the whiteout's own name."""
    union.create(".whiteout")
    union.create("wh.x")
    union.create(".wh")
    assert union.names() == [".wh", ".whiteout", "wh.x"]


# --- hard links ---


def test_a_link_is_the_same_node(place: tuple[Union, str]) -> None:
    union, path = place
    node = union.create("d/f", b"content")
    assert union.link("d/f", path) == node
    assert union.node(path) == node
    assert union.tree.getattr(node).st_nlink == 2
    assert (union.upper / path).samefile(union.upper / "d/f")
    union.write(path, b"C")
    assert union.read("d/f") == b"Content"
    union.unlink("d/f")
    assert union.tree.getattr(node).st_nlink == 1
    assert union.read(path) == b"Content"
    assert union.scratch() == set()


@pytest.mark.parametrize("kind", ["fifo", "socket", "char", "link"])
def test_links_of_other_types(union: Union, kind: str) -> None:
    node = union.symlink("t", "x") if kind == "link" else create(union, "x", kind, 0o600)
    assert union.link("x", "y") == node
    assert union.stat("y").st_nlink == 2


def test_directories_have_one_name(union: Union) -> None:
    put(union.lower, "d/f")
    with pytest.raises(PermissionError):
        union.link("d", "e")
    with pytest.raises(PermissionError):
        union.tree.link(ROOT, ROOT, b"e")
    assert on_disk(union.upper) == {}


def test_many_links(union: Union) -> None:
    node = union.create("f")
    for i in range(500):
        assert union.link("f", f"link{i}") == node
    assert union.tree.getattr(node).st_nlink == 501
    assert union.tree.stats()["nodes"] == 2
    for i in range(0, 500, 2):
        union.unlink(f"link{i}")
    assert union.tree.getattr(node).st_nlink == 251
    union.tree.forget(node, 1 << 40)
    assert union.tree.stats()["nodes"] == 1
    assert union.stat("link1").st_nlink == 251


# --- removing ---


def test_what_unlink_and_rmdir_refuse(union: Union) -> None:
    put(union.lower, "f", "d/f", "e/")
    put(union.upper, "g", "h/f")
    cases: list[tuple[Callable[[], object], int]] = [
        (lambda: union.unlink("d"), errno.EISDIR),
        (lambda: union.unlink("h"), errno.EISDIR),
        (lambda: union.rmdir("f"), errno.ENOTDIR),
        (lambda: union.rmdir("g"), errno.ENOTDIR),
        (lambda: union.rmdir("d"), errno.ENOTEMPTY),
        (lambda: union.rmdir("h"), errno.ENOTEMPTY),
        (lambda: union.unlink("missing"), errno.ENOENT),
        (lambda: union.rmdir("missing"), errno.ENOENT),
    ]
    for call, error in cases:
        before = on_disk(union.upper)
        with fails(error):
            call()
        assert on_disk(union.upper) == before


@pytest.mark.parametrize("where", ["upper", "lower1", "copied"])
@pytest.mark.parametrize("opened", [False, True])
def test_a_file_in_use_outlives_its_name(formatted: Union, where: str, opened: bool) -> None:
    union = formatted
    put(union.upper if where == "upper" else union.lower, "f", content=b"content")
    if where == "copied":
        union.tree.setattr(union.node("f"), mode=0o600)
    node = union.node("f")
    st = union.tree.getattr(node)
    if opened:
        union.read_node(node)
    union.unlink("f")
    assert not union.exists("f")
    after = union.tree.getattr(node)
    assert after.st_nlink == 0
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (st.st_ino, 7, st.st_mtime_ns)
    assert union.read_node(node) == b"content"
    # It can be changed like any other, and has no name in the upper for it.
    union.tree.write(node, b"C")
    union.tree.write(node, b"!", 7)
    union.tree.setattr(node, mode=0o640, uid=1234)
    union.tree.setxattr(node, "user.x", b"1")
    union.tree.fsync(node)
    assert union.read_node(node) == b"Content!"
    after = union.tree.getattr(node)
    assert (mode_of(after), after.st_uid, after.st_nlink) == (0o640, 1234, 0)
    assert union.tree.getxattr(node, "user.x") == b"1"
    assert union.tree.stats()["pinned_fds"] == 1
    # Another file takes the name.
    new = union.create("f", b"new")
    assert new != node
    assert union.read("f") == b"new"
    assert union.read_node(node) == b"Content!"
    union.tree.forget(node, 1 << 40)
    assert union.tree.stats()["pinned_fds"] == 0
    assert union.scratch() == set()


@pytest.mark.parametrize("where", ["upper", "lower1"])
def test_a_directory_in_use_outlives_its_name(formatted: Union, where: str) -> None:
    union = formatted
    put(union.base / where, "d/")
    node = union.node("d")
    union.rmdir("d")
    assert union.tree.getattr(node).st_nlink == 0
    with pytest.raises(FileNotFoundError):
        union.tree.mkdir(node, b"x")
    union.mkdir("d")
    assert union.node("d") != node
    union.create("d/f")
    with pytest.raises(FileNotFoundError):
        union.tree.lookup(node, b"f")


@pytest.mark.parametrize("kind", ["link", "fifo", "socket", "char"])
@pytest.mark.parametrize("where", ["upper", "lower1"])
def test_special_files_in_use_outlive_their_names(union: Union, kind: str, where: str) -> None:
    path = union.base / where / "x"
    if kind == "link":
        path.symlink_to("target")
    else:
        os.mknod(path, KINDS[kind] | 0o600, os.makedev(1, 3))
    node = union.node("x")
    union.unlink("x")
    assert union.tree.getattr(node).st_nlink == 0
    if kind == "link":
        assert union.tree.readlink(node) == b"target"
    st = union.tree.setattr(node, uid=1234)
    assert (st.st_uid, st.st_nlink) == (1234, 0)


# --- renaming ---


@pytest.mark.parametrize("source", ["upper", "lower1"])
@pytest.mark.parametrize("target", ["upper", "lower1", "lower2"])
@pytest.mark.parametrize("kind", ["file", "dir"])
def test_rename_over(formatted: Union, source: str, target: str, kind: str) -> None:
    union = formatted
    if kind == "file":
        put(union.base / source, "a")
        put(union.base / target, "b")
    else:
        put(union.base / source, "a/f")
        put(union.base / target, "b/")
    node, over = union.node("a"), union.node("b")
    union.rename("a", "b")
    assert union.node("b") == node
    assert union.names() == ["b"]
    assert union.tree.getattr(over).st_nlink == 0
    for _ in range(2):
        if kind == "file":
            assert union.read("b") == said(union.base / source, "a")
        else:
            assert union.names("b") == ["f"]
            assert union.read("b/f") == said(union.base / source, "a/f")
        assert not union.exists("a")
        union.restart()


def test_a_replaced_file_in_use(formatted: Union) -> None:
    union = formatted
    put(union.lower, "a", "b")
    node = union.node("b")
    union.rename("a", "b")
    assert union.tree.getattr(node).st_nlink == 0
    assert union.read_node(node) == b"lower1: b"
    union.tree.write(node, b"L")
    assert union.read_node(node) == b"Lower1: b"
    assert union.read("b") == b"lower1: a"


@pytest.mark.parametrize("flags", [0, NOREPLACE, EXCHANGE])
def test_what_rename_refuses(union: Union, flags: int) -> None:
    put(union.lower, "f", "g", "d/f", "e/")
    put(union.upper, "u", "full/f")
    usual = flags == 0
    exists = errno.EEXIST
    cases = [
        ("missing", "new", errno.ENOENT),
        ("f", "missing/new", errno.ENOENT),
        ("d", "d/new", errno.ENOENT if flags == EXCHANGE else errno.EINVAL),
    ]
    if flags != EXCHANGE:
        cases += [
            ("f", "e", errno.EISDIR if usual else exists),
            ("d", "f", errno.ENOTDIR if usual else exists),
            ("e", "d", errno.ENOTEMPTY if usual else exists),
            ("e", "full", errno.ENOTEMPTY if usual else exists),
        ]
    else:
        cases += [("f", "new", errno.ENOENT), ("u", "new", errno.ENOENT)]
    if flags == NOREPLACE:
        cases += [("f", "g", exists), ("u", "g", exists), ("f", "f", exists)]
    before = union.visible()
    for old, new, error in cases:
        with fails(error):
            union.rename(old, new, flags)
        assert union.visible() == before
    assert union.scratch() == set()


@pytest.mark.parametrize("flags", [WHITEOUT, 8, NOREPLACE | EXCHANGE, WHITEOUT | NOREPLACE])
def test_flags_of_rename_that_are_refused(union: Union, flags: int) -> None:
    put(union.lower, "a", "b")
    with pytest.raises(OSError, match="Invalid"):
        union.rename("a", "b", flags)
    assert on_disk(union.upper) == {}


def test_rename_onto_itself(union: Union) -> None:
    put(union.lower, "f", "d/f")
    union.rename("f", "f")
    union.rename("d", "d")
    union.rename("f", "f", EXCHANGE)
    assert on_disk(union.upper) == {}


@pytest.mark.parametrize("a", ["upper", "lower1"])
@pytest.mark.parametrize("b", ["upper", "lower2"])
@pytest.mark.parametrize("kinds", ["ff", "fd", "df", "dd"])
def test_exchange(formatted: Union, a: str, b: str, kinds: str) -> None:
    union = formatted
    for branch, name, kind in ((a, "a", kinds[0]), (b, "d/b", kinds[1])):
        put(union.base / branch, name if kind == "f" else f"{name}/in-{name[-1]}")
    nodes = union.node("a"), union.node("d/b")
    union.rename("a", "d/b", EXCHANGE)
    assert (union.node("d/b"), union.node("a")) == nodes
    for _ in range(2):
        if kinds[0] == "f":
            assert union.read("d/b") == said(union.base / a, "a")
        else:
            assert union.names("d/b") == ["in-a"]
        if kinds[1] == "f":
            assert union.read("a") == said(union.base / b, "d/b")
        else:
            assert union.names("a") == ["in-b"]
        assert union.names() == ["a", "d"]
        assert union.names("d") == ["b"]
        union.restart()


def test_renaming_a_directory_brings_all_of_it(formatted: Union) -> None:
    union = formatted
    put(union.upper, "d/u", "d/s/u")
    put(union.lowers[0], "d/l1", "d/s/l1", "d/t/x/y/z")
    put(union.lowers[1], "d/l2", "d/s/l1", "d/t/x/l2")
    os.symlink("target", union.lower / "d/t/link")
    os.mkfifo(union.lower / "d/t/fifo")
    union.unlink("d/s/l1")
    before = {path: union.seen(path) for path in union.walk("d")}
    union.rename("d", "e")
    for _ in range(2):
        assert {f"d{path[1:]}": union.seen(path) for path in union.walk("e")} == before
        assert not union.exists("d")
        assert union.names() == ["e"]
        assert not union.exists("e/s/l1")
        union.restart()


def test_nodes_below_a_renamed_directory_stay(formatted: Union) -> None:
    union = formatted
    put(union.lower, "d/s/f")
    node, directory = union.node("d/s/f"), union.node("d/s")
    union.rename("d", "e")
    assert union.node("e/s/f") == node
    assert union.tree.where(node) == (0, b"e/s/f")
    union.tree.write(node, b"L")
    assert union.read("e/s/f") == b"Lower1: d/s/f"
    union.tree.mknod(directory, b"new", stat.S_IFREG | 0o644)
    assert union.names("e/s") == ["f", "new"]
    union.rename("e", "d")
    assert union.node("d/s/f") == node
    assert union.names("d/s") == ["f", "new"]


def test_chains_of_directory_renames(formatted: Union) -> None:
    union = formatted
    put(union.lower, "a/f", "b/g", "c/h")
    union.rename("a", "x")
    union.rename("b", "a")
    union.rename("c", "b")
    union.rename("x", "c")
    union.rename("a", "c/a")
    for _ in range(2):
        assert sorted(union.walk()) == ["b", "b/h", "c", "c/a", "c/a/g", "c/f"]
        union.restart()


def test_rename_dir_exdev(formatted: Union) -> None:
    union = formatted
    union.restart(rename_dir="exdev")
    put(union.lower, "lower/f", "merged/f", "target/")
    put(union.upper, "merged/g", "upper/f")
    for name in ("lower", "merged"):
        before = on_disk(union.upper)
        for new, flags in (("new", 0), ("target", 0), ("upper", EXCHANGE)):
            with fails(errno.EXDEV):
                union.rename(name, new, flags)
        assert on_disk(union.upper) == before
    union.rename("upper", "target")
    assert union.names("target") == ["f"]
    assert union.names() == ["lower", "merged", "target"]


def test_times_of_the_directory_follow_its_names(union: Union) -> None:
    put(union.lower, "d/f", "d/g", "d/e/")
    for act in (
        lambda: union.unlink("d/f"),
        lambda: union.create("d/f"),
        lambda: union.rename("d/g", "d/h"),
        lambda: union.rmdir("d/e"),
        lambda: union.mkdir("d/e"),
    ):
        union.tree.setattr(union.node("d"), mtime_ns=1)
        act()
        assert union.stat("d").st_mtime_ns > 1
    union.tree.setattr(union.node("d"), mtime_ns=1)
    union.write("d/h", b"x")  # a copy-up is no change of names
    union.tree.setattr(union.node("d/f"), mode=0)
    assert union.stat("d").st_mtime_ns == 1


def test_modes_that_forbid_everything(union: Union) -> None:
    """The union does what the kernel has permitted already."""
    put(union.lower, "d/f", "d/e/g")
    for path in ("d/f", "d/e", "d"):
        (union.lower / path).chmod(0)
    union.write("d/f", b"x")
    union.rename("d/e", "d/new")
    union.mkdir("d/closed", 0)
    union.create("d/closed/f", b"content", mode=0)
    union.write("d/closed/f", b"C")
    union.unlink("d/f")
    assert sorted(union.walk()) == ["d", "d/closed", "d/closed/f", "d/new", "d/new/g"]
    assert union.read("d/closed/f") == b"Content"


def test_linking_an_unlinked_file_gives_it_a_name_again(union: Union) -> None:
    put(union.upper, "f")
    node = union.node("f")
    union.unlink("f")
    # linkat(2) of a file whose link count is 0 is refused by every filesystem (vfs_link).
    with pytest.raises(FileNotFoundError):
        union.tree.link(node, ROOT, b"g")
    assert union.names() == []


def test_deep_paths(union: Union) -> None:
    """Nothing goes by absolute path: PATH_MAX is 4096."""
    name = "n" * 200
    node = ROOT
    for _ in range(50):
        node, _ = union.tree.mkdir(node, name.encode())
    file, _ = union.tree.mknod(node, b"f", stat.S_IFREG | 0o644)
    union.tree.write(file, b"deep")
    union.tree.shrink(everything=True)
    assert union.tree.read(file, 10) == b"deep"
    union.restart()
    node = ROOT
    for _ in range(50):
        node, _ = union.tree.lookup(node, name.encode())
    assert union.tree.read(union.tree.lookup(node, b"f")[0], 10) == b"deep"
    subprocess.run(["rm", "-rf", union.upper], check=True)


def test_the_umask_of_the_process_does_not_count(union: Union) -> None:
    before = os.umask(0o777)
    try:
        union.create("f", mode=0o666)
        union.mkdir("d", 0o755)
        assert os.umask(0o777) == 0o777
    finally:
        os.umask(before)
    assert mode_of(union.stat("f")) == 0o666
    assert mode_of(union.stat("d")) == 0o755


UPPER_CHANGES: list[Callable[[Union], object]] = [
    lambda union: union.create("d/new"),
    lambda union: union.unlink("d/f"),
    lambda union: union.rename("d/f", "g"),
    lambda union: union.rename("d", "e"),
    lambda union: union.rmdir("d/empty"),
]


@pytest.mark.parametrize("act", UPPER_CHANGES)
def test_the_root_keeps_its_attributes(union: Union, act: Callable[[Union], object]) -> None:
    put(union.lower, "d/f", "d/empty/")
    os.chown(union.upper, 1234, 2345)
    union.upper.chmod(0o1751)
    act(union)
    st = union.stat()
    assert (st.st_uid, st.st_gid, mode_of(st)) == (1234, 2345, 0o1751)
    assert Path(union.upper).stat().st_uid == 1234
