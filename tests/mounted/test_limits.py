"""Read-only mounts, depth beyond PATH_MAX, long names, statfs, and links into the mount itself."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.mounted.harness import PEER, Union, fails_with, needs_root, only_unionfs
from tests.mounted.trees import branch, build, snapshot
from tests.mounts import detach
from unionfs.errors import FilesystemLacks

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("how", ["no upper", "ro"])
def test_read_only_mount(place: Path, how: str) -> None:
    if PEER and how == "ro":
        pytest.skip("the peer's spelling of ro is not what is tested")
    union = Union(
        place, lowers=2, writable=how == "ro", **({"read_only": True} if how == "ro" else {})
    )
    build(union.lower, {"file": "x", "dir/inside": "y", "empty": None})
    build(union.lowers[1], {"dir/deep": "z"})
    union.lower.joinpath("link").symlink_to("file")
    os.setxattr(union.lower / "file", "user.note", b"1")
    with union:
        root = union.mountpoint
        before = snapshot(root)
        assert sorted(os.listdir(root / "dir")) == ["deep", "inside"]
        assert os.statvfs(root).f_flag & os.ST_RDONLY
        with open(root / "file") as file:
            assert file.read() == "x"
            os.fsync(file.fileno())
        changes = (
            lambda: os.open(root / "file", os.O_RDWR),
            lambda: os.open(root / "file", os.O_WRONLY | os.O_TRUNC),
            lambda: os.open(root / "new", os.O_WRONLY | os.O_CREAT),
            lambda: os.open(root, os.O_TMPFILE | os.O_RDWR),
            lambda: os.truncate(root / "file", 0),
            lambda: os.chmod(root / "file", 0o600),
            lambda: os.chown(root / "file", 1, 1),
            lambda: os.utime(root / "file"),
            lambda: os.utime(root / "link", follow_symlinks=False),
            lambda: os.unlink(root / "file"),
            lambda: os.mkdir(root / "new"),
            lambda: os.mkfifo(root / "new"),
            lambda: os.symlink("x", root / "new"),
            lambda: os.link(root / "file", root / "new"),
            lambda: os.rename(root / "file", root / "new"),
            lambda: os.rename(root / "dir", root / "new"),
            lambda: os.rmdir(root / "empty"),
            lambda: os.setxattr(root / "file", "user.new", b""),
            lambda: os.removexattr(root / "file", "user.note"),
        )
        for number, change in enumerate(changes):
            fails_with(errno.EROFS, change, number)
        assert not os.access(root / "file", os.W_OK)
        assert snapshot(root) == before


def descend(root: Path, names: list[str], *, make: bool) -> int:
    """A descriptor of the directory below `root` at the end of `names`, entered one by one."""
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for name in names:
        if make:
            os.mkdir(name, dir_fd=directory)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = below
    return directory


def test_deeper_than_path_max(place: Path) -> None:
    union = Union(place)
    names = [f"{level:0200}" for level in range(60)]
    bottom = descend(union.lower, names, make=True)
    with open(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=bottom), "w") as file:
        file.write("deep")
    os.close(bottom)

    def text(name: str, directory: int) -> str:
        with open(os.open(name, os.O_RDONLY, dir_fd=directory)) as file:
            return file.read()

    with union:
        directory = descend(union.mountpoint, names, make=False)
        assert text("file", directory) == "deep"
        with open(os.open("file", os.O_WRONLY | os.O_APPEND, dir_fd=directory), "w") as file:
            file.write("er")  # 60 parents are copied up with it
        assert text("file", directory) == "deeper"
        os.mkdir("new", dir_fd=directory)
        os.rename("file", "new/file", src_dir_fd=directory, dst_dir_fd=directory)
        os.close(directory)
        union.remount()
        directory = descend(union.mountpoint, names, make=False)
        assert os.listdir(directory) == ["new"]
        assert text("new/file", directory) == "deeper"
        os.close(directory)
        subprocess.run(["rm", "-rf", union.mountpoint / names[0]], check=True)
        assert os.listdir(union.mountpoint) == []
        union.remount()
        assert os.listdir(union.mountpoint) == []


@pytest.mark.skipif(PEER == "fuse-overlayfs", reason="fuse-overlayfs refuses names of 255 bytes")
@pytest.mark.parametrize("length", [251, 252, 255])
def test_longest_names(place: Path, length: int) -> None:
    union = Union(place)
    name, directory = "n" * length, "d" * length
    build(union.lower, {name: "x", f"{directory}/{name}": "y"})
    with union:
        root = union.mountpoint
        for path in (root / directory / name, root / name):
            path.write_text("changed")
            path.rename(path.with_name("short"))
            path.with_name("short").rename(path)
            path.unlink()
            assert not path.exists()
            path.write_text("again")
            path.unlink()
        (root / directory).rmdir()
        (root / directory).mkdir()
        assert os.listdir(root / directory) == []
        union.remount()
        assert os.listdir(root) == [directory]
        fails_with(errno.ENAMETOOLONG, (root / ("n" * 256)).touch)
        assert os.statvfs(root).f_namemax == 255


def test_statfs_is_that_of_the_upper(place: Path) -> None:
    union = Union(place)
    assert union.upper is not None
    with union:
        (union.mountpoint / "file").write_bytes(b"x" * 100_000)
        found, wanted = os.statvfs(union.mountpoint), os.statvfs(union.upper)
        for field in ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax"):
            assert getattr(found, field) == getattr(wanted, field), field
        # Others use the same filesystem meanwhile.
        assert abs(found.f_bavail - wanted.f_bavail) < wanted.f_blocks // 100 + 25_000
        assert 0 < found.f_ffree <= found.f_files
        output = subprocess.run(
            ["df", "--output=target", union.mountpoint], check=True, capture_output=True, text=True
        ).stdout
        assert str(union.mountpoint) in output


def test_attributes_of_a_link_into_the_mount(place: Path) -> None:
    """A daemon that followed the link to set its attributes would wait for itself."""
    union = Union(place)
    target = union.mountpoint / "target"
    build(union.lower, {"target": "x"})
    (union.lower / "link").symlink_to(target)
    (union.lower / "up").symlink_to(union.mountpoint)
    with union:
        root = union.mountpoint
        for name in ("link", "up"):
            subprocess.run(
                ["setfattr", "-h", "-n", "trusted.note", "-v", "on the link", root / name],
                check=True,
            )
            subprocess.run(["touch", "-h", "-d", "@1000000000", root / name], check=True)
            subprocess.run(["chown", "-h", "12:34", root / name], check=True)
            os.setxattr(root / name, "trusted.more", b"1", follow_symlinks=False)
            os.removexattr(root / name, "trusted.more", follow_symlinks=False)
            status = os.lstat(root / name)
            assert (status.st_mtime, status.st_uid, status.st_gid) == (1_000_000_000, 12, 34)
            assert os.listxattr(root / name, follow_symlinks=False) == ["trusted.note"]
            assert os.getxattr(root / name, "trusted.note", follow_symlinks=False) == b"on the link"
        assert os.listxattr(target) == []
        status = target.stat()
        assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
        assert (root / "up/up/up/link").read_text() == "x"
        # The kernel's rule for links.
        link = root / "link"
        fails_with(errno.EPERM, lambda: os.setxattr(link, "user.x", b"", follow_symlinks=False))


@only_unionfs
@needs_root
@pytest.mark.parametrize("asked", [False, True], ids=["default", "workdir="])
def test_mounts_inside_branches(place: Path, asked: bool) -> None:
    """Also those that lead back to the mount itself: nobody waits for himself."""
    (place / "work").mkdir()
    more = {"workdir": str(place / "work")} if asked else {}
    union = Union(place, timeout=0, threads=1, **more)
    build(union.lower, {"d/loop/under": "lower", "f": "x"})
    build(place, {"elsewhere/under": "no part of the upper"})
    upper = place / "upper"
    build(upper, {"up/there/under": "upper", "up/loop/under": "upper"})
    loops = [union.lower / "d/loop", upper / "up/loop"]
    try:
        with union:
            root = union.mountpoint
            subprocess.run(["mount", "--bind", place / "elsewhere", upper / "up/there"], check=True)
            for loop in loops:
                subprocess.run(["mount", "--bind", root, loop], check=True)
                assert (loop / "f").read_text() == "x"
            for name, content in (("d/loop", "lower"), ("up/loop", "upper"), ("up/there", "upper")):
                inside = root / name
                assert os.listdir(inside) == ["under"]
                assert (inside / "under").read_text() == content
                (inside / "under").write_text("changed")
                (inside / "new").write_text("new")
                (inside / "new").rename(inside / "renamed")
                assert sorted(os.listdir(inside)) == ["renamed", "under"]
            (upper / "up/loop/by-the-loop").write_text("x")
            assert (root / "by-the-loop").read_text() == "x"
            subprocess.run(["rm", "-r", root / "d"], check=True)
            assert sorted(os.listdir(root)) == ["by-the-loop", "f", "up"]
            # Unmounted with the loops in place.
    finally:
        for target in (upper / "up/there", *loops):
            detach(target)
    assert (union.lower / "d/loop/under").read_text() == "lower"
    assert (upper / "up/there/under").read_text() == "changed"
    assert (place / "elsewhere/under").read_text() == "no part of the upper"


@only_unionfs
@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
def test_a_union_of_unions(place: Path, whiteout: str) -> None:
    """What a union shows is a lower like any other: its own whiteouts and marks stay hidden."""
    outer = Union(place / "outer", whiteout=whiteout)
    build(outer.lower, {"file": "x", "gone": "x", "dir/a": "a", "dir/b": "b", "remade/old": "x"})
    with outer:
        root = outer.mountpoint
        (root / "gone").unlink()
        (root / "remade/old").unlink()
        (root / "remade").rmdir()
        (root / "remade").mkdir()
        (root / "dir/a").write_text("outer")
        inner = Union(place / "inner", whiteout=whiteout)
        build(inner.lower, {"gone": "below", "remade/below": "below", "dir/c": "c"})
        inner.lowers.insert(0, root)
        with inner:
            assert (inner.mountpoint / "gone").read_text() == "below"
            assert os.listdir(inner.mountpoint / "remade") == ["below"]
            assert sorted(os.listdir(inner.mountpoint / "dir")) == ["a", "b", "c"]
            assert os.listxattr(inner.mountpoint / "remade") == []
            (inner.mountpoint / "dir/a").write_text("inner")
            (inner.mountpoint / "dir/b").unlink()
            (inner.mountpoint / "file").rename(inner.mountpoint / "moved")
            seen = snapshot(inner.mountpoint)
        assert (root / "dir/a").read_text() == "outer"
        assert (root / "dir/b").read_text() == "b"
        outer.remount()
        with inner:
            assert snapshot(inner.mountpoint) == seen


@only_unionfs
def test_a_whole_union_in_a_union(place: Path) -> None:
    """With whiteout=overlay a union can hold the upper of one with whiteout=aufs."""
    outer = Union(place / "outer", whiteout="overlay")
    build(outer.lower, {"low/file": "x", "low/dir/a": "a", "low/dir/b": "b", "low/dir/c/d": "d"})
    with outer:
        inner = Union(place / "inner", lowers=0, whiteout="aufs")
        inner.lowers = [outer.mountpoint / "low"]
        inner.upper = outer.mountpoint / "up"
        inner.upper.mkdir()
        with inner:
            root = inner.mountpoint
            (root / "file").unlink()
            (root / "dir/a").write_text("changed")
            (root / "dir/b").rename(root / "moved")
            (root / "dir/c/d").unlink()
            (root / "dir/c").rmdir()
            (root / "dir/c").mkdir()
            os.setxattr(root / "dir", "user.note", b"1")
            seen = snapshot(root)
            assert sorted(seen) == [".", "dir", "dir/a", "dir/c", "moved"]
        assert branch(inner.upper) == {
            ".wh.file": "file",
            "dir": "dir",
            "dir/a": "file changed",
            "dir/.wh.b": "file",
            "dir/c": "dir",
            "dir/c/.wh..wh..opq": "file",
            "moved": "file b",
        }
        with inner:
            assert snapshot(inner.mountpoint) == seen
        outer.remount()
        with inner:
            assert snapshot(inner.mountpoint) == seen
            subprocess.run(["rm", "-rf", inner.mountpoint / "dir"], check=True)
            (inner.mountpoint / "dir").mkdir()
            assert sorted(snapshot(inner.mountpoint)) == [".", "dir", "moved"]
        assert sorted(os.listdir(outer.mountpoint / "low/dir")) == ["a", "b", "c"]
        subprocess.run(["rm", "-r", inner.upper], check=True)
        assert os.listdir(outer.mountpoint) == ["low"]
    assert outer.upper is not None
    assert branch(outer.upper) == {}


@only_unionfs
@pytest.mark.parametrize(
    ("outside", "inside"), [("aufs", "aufs"), ("aufs", "overlay"), ("overlay", "overlay")]
)
def test_an_upper_where_no_whiteouts_can_be(place: Path, outside: str, inside: str) -> None:
    """A union that lets nobody create the whiteouts of another one's format cannot hold its upper.

    That has to be said when it is mounted, and not by the first unlink.
    """
    outer = Union(place / "outer", whiteout=outside)
    with outer:
        inner = Union(place / "inner", whiteout=inside, workdir=outer.mountpoint / "work")
        inner.upper = outer.mountpoint / "upper"
        for name in ("work", "upper"):
            (outer.mountpoint / name).mkdir()
        with pytest.raises(FilesystemLacks, match="upper"), inner:
            pass
        assert os.listdir(inner.upper) == []


@only_unionfs
def test_three_deep_and_one_lower_shared(place: Path) -> None:
    """Unions whose lower is another union, each with its own upper."""
    unions = [Union(place / f"level{level}") for level in range(3)]
    build(unions[0].lower, {f"dir/file{number}": "x" for number in range(20)})
    for above, below in zip(unions[1:], unions, strict=False):
        above.lowers = [below.mountpoint]
    try:
        for number, union in enumerate(unions):
            union.mount()
            (union.mountpoint / f"dir/file{number}").unlink()
            (union.mountpoint / f"dir/new{number}").write_text(str(number))
        for number, union in enumerate(unions):
            wanted = {f"file{n}" for n in range(number + 1, 20)} | {
                f"new{n}" for n in range(number + 1)
            }
            assert set(os.listdir(union.mountpoint / "dir")) == wanted
    finally:
        for union in reversed(unions):
            union.unmount()
