"""What the upper holds after each change is what docs/format.md promises, and nothing more."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import Union, fails_with, only_unionfs
from tests.mounted.trees import branch, build, snapshot

pytestmark = [only_unionfs, pytest.mark.timeout(60)]

OPAQUE = object()
"""In a table below: an opaque directory."""
HIDDEN = object()
"""In a table below: a whiteout of the name."""

Wanted = dict[str, object]


def lower_tree(root: Path) -> None:
    build(
        root,
        {
            "file": "lower",
            "other": "other",
            "dir/a": "a",
            "dir/b": "b",
            "dir/sub/c": "c",
            "empty": None,
        },
    )
    (root / "link").symlink_to("file")
    # The lengths of its names: 251 bytes are the most to which `.wh.` can be added.
    build(root, {"long/" + "n" * 251: "", "long/" + "m" * 252: "", "long/" + "o" * 255: ""})


def expected(wanted: Wanted, whiteout: str) -> dict[str, str]:
    """A table of this module as `trees.branch` gives it, in one format of whiteouts."""
    lines: dict[str, str] = {}
    for path, what in wanted.items():
        base, _, name = path.rpartition("/")
        if what is HIDDEN:
            if whiteout == "aufs" and len(name) <= 251:
                lines[f"{base}/.wh.{name}".lstrip("/")] = "file"
            else:
                lines[path] = "whiteout"
        elif what is OPAQUE:
            if whiteout == "aufs":
                lines[path] = "dir"
                lines[f"{path}/.wh..wh..opq"] = "file"
            else:
                lines[path] = "opaque dir"
        else:
            assert isinstance(what, str)
            lines[path] = what
    return lines


def remove_tree(directory: Path) -> None:
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()
    directory.rmdir()


def read_everything(root: Path) -> None:
    snapshot(root)
    os.statvfs(root)
    os.access(root / "file", os.W_OK)
    with open(root / "file", "r+") as file:
        assert file.read() == "lower"


def write_at_end(root: Path) -> None:
    with open(root / "dir/a", "a") as file:
        file.write("+")


def write_and_remove_new(root: Path) -> None:
    (root / "dir/new").write_text("new")
    (root / "dir/new").rename(root / "dir/newer")
    (root / "dir/newer").unlink()


def replace_file_by_directory(root: Path) -> None:
    (root / "file").unlink()
    (root / "file").mkdir()
    (root / "file/x").write_text("x")


def replace_directory_by_file(root: Path) -> None:
    remove_tree(root / "dir")
    (root / "dir").write_text("file")


def remake_directory(root: Path) -> None:
    remove_tree(root / "dir")
    (root / "dir").mkdir()
    assert os.listdir(root / "dir") == []
    for name in ("a", "b", "sub"):
        assert not (root / "dir" / name).exists()


def work_in_remade_directory(root: Path) -> None:
    remake_directory(root)
    (root / "dir/a").write_text("new")
    (root / "dir/a").unlink()
    (root / "dir/sub").mkdir()
    (root / "dir/sub/c").write_text("new")
    (root / "dir/sub/c").rename(root / "dir/d")


def remove_what_was_remade(root: Path) -> None:
    remake_directory(root)
    (root / "dir").rmdir()


def recreate_file(root: Path) -> None:
    (root / "file").unlink()
    (root / "file").write_text("new")


def recreate_and_remove_file(root: Path) -> None:
    recreate_file(root)
    (root / "file").unlink()


def failed_changes(root: Path) -> None:
    for number, change in (
        (errno.EEXIST, lambda: (root / "file").mkdir()),
        (errno.EEXIST, lambda: os.link(root / "other", root / "file")),
        (errno.ENOTEMPTY, lambda: (root / "dir").rmdir()),
        (errno.ENOTDIR, lambda: (root / "file").rmdir()),
        (errno.EISDIR, lambda: (root / "dir").unlink()),
        (errno.ENOENT, lambda: (root / "nothing").unlink()),
        (errno.ENOENT, lambda: os.chmod(root / "nothing", 0o600)),
        (errno.ENOTEMPTY, lambda: os.rename(root / "empty", root / "dir")),
        (errno.ENOTDIR, lambda: os.rename(root / "empty", root / "file")),
        (errno.EISDIR, lambda: os.rename(root / "file", root / "empty")),
        (errno.ENODATA, lambda: os.removexattr(root / "file", "user.nothing")),
    ):  # fmt: skip
        fails_with(number, change)


CHANGES: list[tuple[str, Callable[[Path], object], Wanted]] = [
    ("nothing", lambda root: None, {}),
    ("reading", read_everything, {}),
    ("failing", failed_changes, {}),
    ("rewrite", lambda root: (root / "file").write_text("new"), {"file": "file new"}),
    ("append", write_at_end, {"dir": "dir", "dir/a": "file a+"}),
    ("chmod", lambda root: (root / "file").chmod(0o600), {"file": "file lower"}),
    ("chmod dir", lambda root: (root / "dir/sub").chmod(0o700), {"dir": "dir", "dir/sub": "dir"}),
    ("times of a link", lambda root: os.utime(root / "link", (1, 1), follow_symlinks=False),
     {"link": "link file"}),
    ("create", lambda root: (root / "dir/sub/new").write_text("new"),
     {"dir": "dir", "dir/sub": "dir", "dir/sub/new": "file new"}),
    ("create and remove", write_and_remove_new, {"dir": "dir"}),
    ("unlink", lambda root: (root / "file").unlink(), {"file": HIDDEN}),
    ("unlink a link", lambda root: (root / "link").unlink(), {"link": HIDDEN}),
    ("unlink below", lambda root: (root / "dir/a").unlink(), {"dir": "dir", "dir/a": HIDDEN}),
    ("rmdir", lambda root: (root / "empty").rmdir(), {"empty": HIDDEN}),
    ("rm -r", lambda root: remove_tree(root / "dir"), {"dir": HIDDEN}),
    ("rm -r, mkdir", remake_directory, {"dir": OPAQUE}),
    ("work in a remade directory", work_in_remade_directory,
     {"dir": OPAQUE, "dir/sub": "dir", "dir/d": "file new"}),
    ("rm -r, mkdir, rmdir", remove_what_was_remade, {"dir": HIDDEN}),
    ("recreate", recreate_file, {"file": "file new"}),
    ("recreate and remove", recreate_and_remove_file, {"file": HIDDEN}),
    ("file to directory", replace_file_by_directory, {"file": OPAQUE, "file/x": "file x"}),
    ("directory to file", replace_directory_by_file, {"dir": "file file"}),
    ("rename", lambda root: (root / "file").rename(root / "new"),
     {"file": HIDDEN, "new": "file lower"}),
    ("rename over", lambda root: (root / "file").rename(root / "other"),
     {"file": HIDDEN, "other": "file lower"}),
    ("rename down", lambda root: (root / "file").rename(root / "dir/a"),
     {"file": HIDDEN, "dir": "dir", "dir/a": "file lower"}),
    ("rename a link", lambda root: (root / "link").rename(root / "new"),
     {"link": HIDDEN, "new": "link file"}),
    ("rename a directory", lambda root: (root / "dir").rename(root / "new"),
     {"dir": HIDDEN, "new": OPAQUE, "new/a": "file a", "new/b": "file b",
      "new/sub": OPAQUE, "new/sub/c": "file c"}),
    ("rename a directory over another", lambda root: (root / "dir").rename(root / "empty"),
     {"dir": HIDDEN, "empty": OPAQUE, "empty/a": "file a", "empty/b": "file b",
      "empty/sub": OPAQUE, "empty/sub/c": "file c"}),
    ("link", lambda root: os.link(root / "file", root / "new"),
     {"file": "file lower", "new": "file lower"}),
    ("unlink 251 bytes", lambda root: (root / "long" / ("n" * 251)).unlink(),
     {"long": "dir", "long/" + "n" * 251: HIDDEN}),
    ("unlink 252 bytes", lambda root: (root / "long" / ("m" * 252)).unlink(),
     {"long": "dir", "long/" + "m" * 252: HIDDEN}),
    ("unlink 255 bytes", lambda root: (root / "long" / ("o" * 255)).unlink(),
     {"long": "dir", "long/" + "o" * 255: HIDDEN}),
]  # fmt: skip


@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
@pytest.mark.parametrize(
    ("change", "wanted"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES]
)
def test_upper_after(
    place: Path, whiteout: str, change: Callable[[Path], object], wanted: Wanted
) -> None:
    union = Union(place, lowers=2, whiteout=whiteout)
    assert union.upper is not None
    lower_tree(union.lowers[1])
    before = branch(union.lowers[1])
    with union:
        change(union.mountpoint)
        seen = snapshot(union.mountpoint)
    assert branch(union.upper) == expected(wanted, whiteout)
    assert branch(union.lowers[1]) == before
    # What one format wrote, a mount with the other reads.
    union.options["whiteout"] = {"aufs": "overlay", "overlay": "aufs"}[whiteout]
    with union:
        assert snapshot(union.mountpoint) == seen
    assert branch(union.upper) == expected(wanted, whiteout)


@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
def test_no_whiteout_for_what_only_the_upper_had(place: Path, whiteout: str) -> None:
    union = Union(place, whiteout=whiteout)
    assert union.upper is not None
    build(union.lower, {"lower": "lower"})
    build(union.upper, {"file": "x", "dir/a": "a", "opaque/b": "b"})
    with union:
        root = union.mountpoint
        (root / "file").unlink()
        (root / "dir").rename(root / "moved")
        remove_tree(root / "moved")
        (root / "opaque/b").rename(root / "c")
        (root / "opaque").rmdir()
    assert branch(union.upper) == {"c": "file b"}


def test_whiteouts_written_by_others(place: Path) -> None:
    """Both formats and fuse-overlayfs's mark are read in every lower and hide what is below."""
    union = Union(place, lowers=4)
    top, second, third, bottom = union.lowers
    names = [f"file{number}" for number in range(6)]
    for lower in (bottom, third):
        build(lower, dict.fromkeys(names, lower.name))
        build(lower, {f"dir{number}/{lower.name}": "x" for number in range(5)})
    build(second, {".wh.file0": "", "file1": "visible", ".wh.file1": "", ".wh.dir4": ""})
    os.mknod(second / "file2", 0o020000 | 0o600, 0)
    build(second, {"dir0/.wh..wh..opq": "", "dir0/own": "x", "dir1/own": "x", "dir2/own": "x"})
    os.setxattr(second / "dir1", "trusted.overlay.opaque", b"y")
    os.setxattr(second / "dir2", "user.fuseoverlayfs.opaque", b"y")
    build(top, {"file0": "back", "dir4/top": "x"})
    build(third, {".wh.file3": ""})
    build(bottom, {".wh.file4": "", ".wh.nothing": "", ".wh..wh.plnk/x": "", ".wh..wh.aufs": ""})
    os.mknod(bottom / "alone", 0o020000 | 0o600, 0)
    with union:
        root = union.mountpoint
        found = {name: (root / name).read_text() for name in names if (root / name).exists()}
        assert found == {
            "file0": "back",
            "file1": "visible",  # a whiteout does not hide what its own branch has
            "file3": "lower2",
            "file4": "lower2",
            "file5": "lower2",
        }
        directories = {
            name: sorted(os.listdir(root / name))
            for name in sorted(os.listdir(root))
            if name.startswith("dir")
        }
        assert directories == {
            "dir0": ["own"],
            "dir1": ["own"],
            "dir2": ["own"],
            "dir3": ["lower2", "lower3"],
            "dir4": ["top"],
        }
        assert sorted(os.listdir(root)) == sorted([*found, *directories])
        for name in ("file2", ".wh.file0", ".wh.nothing", "alone", ".wh..wh.plnk", ".wh..wh..opq"):
            assert not os.path.lexists(root / name), name
        for name in ("dir0/lower3", "dir1/lower2", "dir4/lower2"):
            assert not os.path.lexists(root / name), name


def test_reserved_names_cannot_be_made(place: Path) -> None:
    union = Union(place)
    with union:
        root = union.mountpoint
        (root / "file").write_text("x")
        for change in (
            lambda: (root / ".wh.file").write_text(""),
            lambda: (root / ".wh.file").mkdir(),
            lambda: (root / ".wh.file").symlink_to("x"),
            lambda: os.link(root / "file", root / ".wh.x"),
            lambda: (root / "file").rename(root / ".wh..wh..opq"),
        ):
            with pytest.raises(PermissionError):
                change()  # type: ignore[no-untyped-call]
        assert os.listdir(root) == ["file"]
    union.options["whiteout"] = "overlay"
    assert union.upper is not None
    with union, pytest.raises(PermissionError):
        os.mknod(union.mountpoint / "device", 0o020000 | 0o600, 0)
    assert branch(union.upper) == {"file": "file x"}


def test_root_keeps_its_attributes(place: Path) -> None:
    union = Union(place)
    assert union.upper is not None
    union.upper.chmod(0o751)
    os.chown(union.upper, 12, 34)
    with union:
        status = union.mountpoint.stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o751, 12, 34)
        union.mountpoint.chmod(0o750)
        os.chown(union.mountpoint, 56, 78)
    status = union.upper.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o750, 56, 78)
