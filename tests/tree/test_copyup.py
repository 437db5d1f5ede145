"""Copy-up: the copy is the file, its directories stay as they were, a failure leaves no trace."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.posix.acls import ACCESS, DEFAULT, acl
from tests.posix.asserts import fails
from tests.tree.union import Union, describe, on_disk, put

#: Nanoseconds; the first is before 1970, the last after 2038.
TIMES = (-1_234_567_890_123_456_789, 86_400_000_000_001, 4_102_444_800_999_999_999)
NOBODY = 65534


def make(path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_bytes(b"content")
        case "empty":
            path.touch()
        case "dir":
            path.mkdir()
        case "link":
            path.symlink_to("target")
        case "long-link":
            path.symlink_to("x" * 4000)
        case "fifo":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK)
        case "char":
            os.mknod(path, stat.S_IFCHR, os.makedev(1, 3))
        case "block":
            os.mknod(path, stat.S_IFBLK, os.makedev(7, 9999))


KINDS = ("file", "empty", "dir", "link", "long-link", "fifo", "socket", "char", "block")
LINKS = ("link", "long-link")


def attributes(path: Path) -> dict[str, object]:
    """All but the access time, which looking at the content changes."""
    st = path.lstat()
    names = [name for name in os.listxattr(path, follow_symlinks=False) if ".unionfs." not in name]
    return {
        "mode": oct(st.st_mode),
        "owner": (st.st_uid, st.st_gid),
        "time": st.st_mtime_ns,
        "size": None if stat.S_ISDIR(st.st_mode) else st.st_size,
        "device": st.st_rdev,
        "what": describe(path),
        "xattrs": {name: os.getxattr(path, name, follow_symlinks=False) for name in names},
    }


def copy_up(union: Union, path: str) -> None:
    """Bring a path up, with what is above it."""
    names = path.split("/")
    for i in range(1, len(names) + 1):
        union.tree.copy_up(union.node("/".join(names[:i])))


@pytest.mark.parametrize("whole_world", [False, True], ids=["searched", "indexed"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_is_like_the_original(union: Union, kind: str, whole_world: bool) -> None:
    put(union.lower, "d/")
    original = union.lower / "d/x"
    make(original, kind)
    os.chown(original, 1234, 2345, follow_symlinks=False)
    if kind not in LINKS:
        original.chmod(0o1751 if kind == "dir" else 0o6751)
    os.setxattr(original, "trusted.some", b"\0value", follow_symlinks=False)
    if kind in ("file", "empty", "dir"):
        os.setxattr(original, "user.some", b"value")
        os.setxattr(original, "user.empty", b"")
    os.utime(original, ns=(TIMES[0], TIMES[2]), follow_symlinks=False)
    expected = attributes(original)
    if whole_world:
        union.entries("d")
    before = union.visible()
    copy_up(union, "d/x")
    assert attributes(union.upper / "d/x") == expected
    assert attributes(original) == expected
    assert union.branch("d/x") == 0
    assert union.visible() == before
    assert union.scratch() == set()
    union.restart()
    assert union.visible() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("time", TIMES)
def test_times(union: Union, kind: str, time: int) -> None:
    make(union.lower / "x", kind)
    os.utime(union.lower / "x", ns=(time, time + 5), follow_symlinks=False)
    expected = (union.lower / "x").lstat()
    assert expected.st_mtime_ns == time + 5
    copy_up(union, "x")
    st = (union.upper / "x").lstat()
    assert (st.st_atime_ns, st.st_mtime_ns) == (expected.st_atime_ns, expected.st_mtime_ns)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o555, 0o200, 0o4711, 0o2755, 0o2745, 0o7777])
@pytest.mark.parametrize("owner", [0, 1234])
def test_modes_and_set_id_bits(union: Union, mode: int, owner: int) -> None:
    put(union.lower, "f", "d/")
    for name in ("f", "d"):
        os.chown(union.lower / name, owner, owner)
        (union.lower / name).chmod(mode)
        copy_up(union, name)
        st = (union.upper / name).lstat()
        assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (mode, owner, owner)


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_access_control_lists(union: Union, kind: str) -> None:
    original = union.lower / "x"
    make(original, kind)
    access = acl("u:6 U1234:7 g:5 G777:4 m:7 o:1")
    os.setxattr(original, ACCESS, access)
    if kind == "dir":
        subprocess.run(["setfacl", "-m", "d:u:1234:rwx,d:g::r-x", original], check=True)
    expected = attributes(original)
    assert ACCESS in str(expected)
    copy_up(union, "x")
    assert attributes(union.upper / "x") == expected
    if kind == "dir":
        default = os.getxattr(original, DEFAULT)
        assert union.tree.getxattr(union.node("x"), DEFAULT) == default


def test_capabilities(union: Union) -> None:
    put(union.lower, "f")
    subprocess.run(["setcap", "cap_net_raw+ep", union.lower / "f"], check=True)
    value = os.getxattr(union.lower / "f", "security.capability")
    copy_up(union, "f")
    assert os.getxattr(union.upper / "f", "security.capability") == value


def test_a_copy_inherits_nothing_from_where_it_is_built(union: Union) -> None:
    """What the root of an upper hands down, its work directory has as well."""
    for directory in (union.upper, union.work):
        subprocess.run(["setfacl", "-m", "d:u:1234:rwx", directory], check=True)
        os.chown(directory, 0, 2345)
        directory.chmod(0o2755)
    for kind in ("file", "dir", "fifo"):
        make(union.lower / kind, kind)
        (union.lower / kind).chmod(0o640)
        expected = attributes(union.lower / kind)
        copy_up(union, kind)
        assert attributes(union.upper / kind) == expected


def test_marks_of_other_unions_stay_behind(union: Union) -> None:
    put(union.lower, "d/f")
    for name in ("trusted.overlay.origin", "user.overlay.opaque", "trusted.unionfs.origin"):
        os.setxattr(union.lower / "d", name, b"y" if "opaque" in name else b"12345")
    os.setxattr(union.lower / "d", "trusted.overlay.overlay.redirect", b"nested")
    ino = union.stat("d").st_ino
    copy_up(union, "d/f")
    assert set(os.listxattr(union.upper / "d")) == {
        "trusted.overlay.overlay.redirect",
        "trusted.unionfs.origin",
        "trusted.unionfs.impure",
    }
    assert os.getxattr(union.upper / "d", "trusted.unionfs.origin") == str(ino).encode()
    assert union.names("d") == ["f"]


# --- data ---


@pytest.mark.parametrize("size", [1, 4095, 65536, 65537, 1 << 20, (5 << 20) + 3])
def test_content(union: Union, size: int) -> None:
    data = os.urandom(size)
    put(union.lower, "f", content=data)
    union.write("f", b"!", 0)
    assert (union.upper / "f").read_bytes() == b"!" + data[1:]
    stats = union.tree.stats()
    assert (stats["copy_ups"], stats["copy_up_bytes"]) == (1, size)


def segments(path: Path) -> list[tuple[int, int]]:
    """Where a file has data."""
    found: list[tuple[int, int]] = []
    at = 0
    with path.open("rb") as file:
        while True:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                return found
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at))


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (0,),
        (1 << 20,),
        (0, 1 << 20, 5 << 20),
        ((8 << 20) - 4096,),
        tuple(range(0, 8 << 20, 1 << 16)),
    ],
)
def test_holes_stay_holes(union: Union, pieces: tuple[int, ...]) -> None:
    with (union.lower / "f").open("wb") as file:
        for i, offset in enumerate(pieces):
            os.pwrite(file.fileno(), bytes([i % 255 + 1]) * 4096, offset)
        file.truncate(8 << 20)
    expected = segments(union.lower / "f")
    copy_up(union, "f")
    copy = union.upper / "f"
    assert segments(copy) == expected
    assert copy.stat().st_size == 8 << 20
    assert copy.read_bytes() == (union.lower / "f").read_bytes()
    assert copy.stat().st_blocks <= (union.lower / "f").stat().st_blocks + 8


def test_a_file_of_terabytes_with_little_in_it(union: Union) -> None:
    with (union.lower / "f").open("wb") as file:
        file.truncate(8 << 40)
        os.pwrite(file.fileno(), b"end", (8 << 40) - 3)
    union.write("f", b"x", 5 << 40)
    assert union.stat("f").st_size == 8 << 40
    assert union.tree.read(union.node("f"), 10, (8 << 40) - 3) == b"end"
    assert (union.upper / "f").stat().st_blocks < 1000


@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_truncating_copies_only_what_stays(make_union: Callable[..., Union], size: int) -> None:
    union = make_union(inline_limit=1 << 20)
    data = os.urandom(100_000)
    put(union.lower, "f", content=data)
    (union.lower / "f").chmod(0o4640)
    os.chown(union.lower / "f", 1234, 2345)
    os.setxattr(union.lower / "f", "user.x", b"1")
    st = union.tree.setattr(union.node("f"), size=size)
    assert union.tree.stats()["copy_up_bytes"] == size
    assert (union.upper / "f").read_bytes() == data[:size]
    assert (st.st_size, st.st_uid, st.st_gid) == (size, 1234, 2345)
    assert os.getxattr(union.upper / "f", "user.x") == b"1"


def test_emptying_a_file_of_any_size_copies_nothing(union: Union) -> None:
    put(union.lower, "d/f", content=b"x" * 3_000_000)
    union.tree.setattr(union.node("d/f"), size=0)
    assert union.tree.stats()["copy_up_bytes"] == 0
    assert (union.upper / "d/f").read_bytes() == b""


def test_extending_fills_with_zeros(union: Union) -> None:
    put(union.lower, "f", content=b"abc")
    union.tree.setattr(union.node("f"), size=10)
    assert union.read("f") == b"abc" + bytes(7)


# --- what makes a copy, and what does not ---


@pytest.mark.parametrize("path", ["f", "d/f", "d/e/f"])
@pytest.mark.parametrize(
    "change",
    [
        lambda union, node: union.tree.setattr(node, mode=0o600),
        lambda union, node: union.tree.setattr(node, uid=1),
        lambda union, node: union.tree.setattr(node, gid=1),
        lambda union, node: union.tree.setattr(node, size=1),
        lambda union, node: union.tree.setattr(node, mtime_ns=1),
        lambda union, node: union.tree.setattr(node, atime_ns=1),
        lambda union, node: union.tree.write(node, b"x"),
        lambda union, node: union.tree.fallocate(node, 0, 0, 100),
        lambda union, node: union.tree.setxattr(node, "user.x", b""),
        lambda union, node: union.tree.removexattr(node, "user.there"),
    ],
    ids=["mode", "uid", "gid", "size", "mtime", "atime", "write", "fallocate", "set", "remove"],
)
def test_a_change_brings_up_the_file_and_what_is_above(
    union: Union, path: str, change: Callable[[Union, int], object]
) -> None:
    put(union.lower, "f", "d/f", "d/e/f", "d/other", "d/e/other")
    os.setxattr(union.lower / path, "user.there", b"1")
    change(union, union.node(path))
    expected = {path, *(str(above) for above in Path(path).parents)} - {"."}
    assert set(on_disk(union.upper)) == expected
    assert union.tree.stats()["copy_ups"] == len(expected)


def test_reading_changes_nothing(union: Union) -> None:
    put(union.lower, "f", "d/f")
    os.utime(union.lower / "f", (1, 2))
    os.utime(union.lower / "d", (1, 2))
    for path in ("f", "d/f"):
        node = union.node(path)
        union.read_node(node)
        union.tree.lseek(node, 0, os.SEEK_HOLE)
        union.tree.listxattr(node)
        union.tree.fsync(node)
    union.visible()
    union.tree.fsync(union.node("d"))
    with pytest.raises(OSError, match="No data"):
        union.tree.removexattr(union.node("f"), "user.missing")
    assert on_disk(union.upper) == {}
    assert union.scratch() == set()
    for name in ("f", "d"):
        assert (union.lower / name).lstat().st_atime == 1


def test_directories_above_stay_as_they_were(union: Union) -> None:
    put(union.lower, "d/e/f")
    for i, path in enumerate(("d", "d/e")):
        os.chown(union.lower / path, 1234, 2345)
        (union.lower / path).chmod(0o2711 + i)
        os.setxattr(union.lower / path, "user.x", b"1")
        os.utime(union.lower / path, ns=(TIMES[0] + i, TIMES[2] + i))
    os.utime(union.upper, ns=(TIMES[1], TIMES[1]))
    expected = {path: attributes(union.lower / path) for path in ("d", "d/e")}
    before = union.visible()
    copy_up(union, "d/e/f")
    for path, seen in expected.items():
        assert attributes(union.upper / path) == seen
    assert union.upper.stat().st_mtime_ns == TIMES[1]
    assert union.visible() == before


def test_the_node_stays_readable_and_becomes_the_copy(union: Union) -> None:
    put(union.lower, "f", content=b"before")
    node = union.node("f")
    assert union.tree.read(node, 100) == b"before"
    union.tree.write(node, b"B")
    assert union.tree.read(node, 100) == b"Before"
    assert union.node("f") == node
    assert (union.lower / "f").read_bytes() == b"before"


def test_copying_up_wants_the_directory_first(union: Union) -> None:
    put(union.lower, "d/f")
    with pytest.raises(FileNotFoundError):
        union.tree.copy_up(union.node("d/f"))
    assert on_disk(union.upper) == {}
    copy_up(union, "d/f")
    copy_up(union, "d/f")  # once more does nothing
    assert union.tree.stats()["copy_ups"] == 2


def test_attributes_of_a_link_are_its_own(union: Union) -> None:
    put(union.lower, "target")
    (union.lower / "l").symlink_to("target")
    node = union.node("l")
    union.tree.setattr(node, uid=1234, gid=2345)
    union.tree.setattr(node, atime_ns=TIMES[1], mtime_ns=TIMES[0])
    union.tree.setxattr(node, "trusted.x", b"1")
    st = (union.upper / "l").lstat()
    assert (st.st_uid, st.st_gid, st.st_atime_ns, st.st_mtime_ns) == (
        1234,
        2345,
        TIMES[1],
        TIMES[0],
    )
    assert set(on_disk(union.upper)) == {"l"}
    with pytest.raises(OSError, match="not supported"):
        union.tree.setattr(node, mode=0o600)


# --- failures ---


def assert_as_before(union: Union, before: dict[str, tuple[object, ...]]) -> None:
    assert union.visible() == before
    assert union.scratch() == set()
    union.restart()
    assert union.visible() == before


@pytest.mark.parametrize("sparse", [False, True])
def test_no_space_for_the_data(
    base: Path, tmpfs: Callable[..., Path], make_union: Callable[..., Union], sparse: bool
) -> None:
    fs = tmpfs("fs", "size=1m")
    for name in ("upper", "work"):
        (fs / name).mkdir()
        (base / name).symlink_to(fs / name)
    union = make_union()
    with (union.lower / "f").open("wb") as file:
        file.write(os.urandom(2 << 20))
        if sparse:
            file.truncate(8 << 20)
    (union.lower / "d").mkdir()
    os.rename(union.lower / "f", union.lower / "d/f")
    put(union.lower, "small", content=b"x" * 700_000)
    before = union.visible()
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            union.write("d/f", b"x")
    # The directory may have come, which changes nothing visible.
    assert set(on_disk(union.upper)) <= {"d"}
    assert_as_before(union, before)
    # No space was lost: what fits is copied.
    union.write("small", b"y")
    union.restart()


def test_no_inode_for_a_whiteout_or_a_copy(
    base: Path, tmpfs: Callable[..., Path], make_union: Callable[..., Union], whiteout: str
) -> None:
    fs = tmpfs("fs", "nr_inodes=5")
    for name in ("upper", "work"):
        (fs / name).mkdir()
        (base / name).symlink_to(fs / name)
    (fs / "one").touch()
    (fs / "two").touch()
    union = make_union(whiteout=whiteout)
    put(union.lower, "f", "g", "d/h")
    (union.lower / "l").symlink_to("f")
    before = union.visible()
    for act in (
        lambda: union.unlink("f"),
        lambda: union.rename("f", "new"),
        lambda: union.rename("f", "g"),
        lambda: union.write("f", b"x"),
        lambda: union.write("d/h", b"x"),
        lambda: union.tree.setattr(union.node("l"), uid=1),
        lambda: union.rename("d", "e"),
        lambda: union.create("new"),
        lambda: union.mkdir("new"),
        lambda: union.symlink("x", "new"),
    ):
        with pytest.raises(OSError, match="No space"):
            act()
        assert union.visible() == before
        assert union.scratch() == set()
    assert_as_before(union, before)
    union.restart()


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """With the rights of somebody else, as a daemon without privileges has them."""
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_a_file_that_may_not_be_read(union: Union) -> None:
    put(union.lower, "f", "g")
    (union.lower / "f").chmod(0o600)
    union.base.chmod(0o755)
    for path in (union.upper, union.work):
        os.chown(path, NOBODY, NOBODY)
    with acting_as(NOBODY):
        union.restart(trusted=False)
        with fails(errno.EACCES):
            union.write("f", b"x")
        assert on_disk(union.upper) == {}
        assert union.scratch() == set()
        # What may be read but belongs to somebody else cannot be owned by the copy.
        with fails(errno.EPERM):
            union.write("g", b"x")
        assert on_disk(union.upper) == {}
        assert union.scratch() == set()
        union.restart()


def test_a_daemon_without_privileges_copies_its_own_files(union: Union) -> None:
    put(union.lower, "d/f")
    (union.lower / "d/f").chmod(0o640)
    union.base.chmod(0o755)
    for path in (union.upper, union.work, union.lower / "d", union.lower / "d/f"):
        os.chown(path, NOBODY, NOBODY)
    os.setxattr(union.lower / "d/f", "trusted.x", b"1")
    os.setxattr(union.lower / "d/f", "user.x", b"1")
    with acting_as(NOBODY):
        union.restart(trusted=False)
        ino = union.stat("d/f").st_ino
        union.write("d/f", b"L")
        union.restart()
        assert union.stat("d/f").st_ino == ino
        assert union.read("d/f") == b"Lower1: d/f"
        assert union.tree.listxattr(union.node("d/f")) == ["user.x"]
        union.restart()
    st = (union.upper / "d/f").stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o640, NOBODY, NOBODY)


def test_an_attribute_that_the_upper_cannot_hold(
    base: Path, tmpfs: Callable[..., Path], make_union: Callable[..., Union]
) -> None:
    """ext4 stores less than 4096 bytes of attributes for a file; what does not fit is an error."""
    fs = tmpfs("fs")
    (fs / "lower1").mkdir()
    (base / "lower1").symlink_to(fs / "lower1")
    union = make_union()
    put(union.lower, "f")
    os.setxattr(union.lower / "f", "trusted.big", b"x" * 30_000)
    try:
        os.setxattr(union.work, "trusted.big", b"x" * 30_000)
    except OSError:
        pass
    else:
        pytest.skip("this filesystem stores attributes of any size")
    before = union.visible()
    with pytest.raises(OSError, match=r"No space|too large|too big"):
        union.write("f", b"x")
    assert on_disk(union.upper) == {}
    assert_as_before(union, before)
    union.restart()


def test_a_filesystem_without_attributes(tmpfs: Callable[..., Path]) -> None:
    """ramfs has no xattrs: no origins, no ACLs, and everything else."""
    union = Union(tmpfs("fs", "size=0", kind="ramfs"))
    put(union.upper, "a", "d/")
    put(union.lower, "b", "e/f", "l")
    os.link(union.lower / "l", union.lower / "e/l")
    union.rename("a", "d/a")
    union.write("e/f", b"L")
    union.rename("b", "d/b")
    for name in ("l", "e/l"):
        union.node(name)
    union.write("l", b"L")
    union.rename("e", "d/e")
    union.unlink("d/a")
    assert sorted(union.walk()) == ["d", "d/b", "d/e", "d/e/f", "d/e/l", "l"]
    for path in ("l", "d/e/l"):
        assert union.read(path) == b"Lower1: l"
        assert union.stat(path).st_nlink == 2
    with fails(errno.EOPNOTSUPP):
        union.tree.setxattr(union.node("l"), "user.x", b"")
    seen = sorted(union.walk())
    union.restart()
    assert sorted(union.walk()) == seen
    union.restart()
