"""Look-up: top-down, a component at a time, ended by whiteouts and opaque directories."""

import os
import stat
from collections.abc import Callable
from errno import EINVAL, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM, ESTALE
from functools import partial
from pathlib import Path

import pytest

from tests.posix.asserts import fails
from tests.tree.union import FORMATS, OPAQUE_FILE, OPAQUE_XATTRS, Union, hide, put, said
from unionfs._tree import ROOT

#: With and without the merged index of a directory, which a listing builds.
INDEXED = pytest.mark.parametrize("indexed", [False, True], ids=["searched", "indexed"])
BRANCHES = ("upper", "lower1", "lower2")


def prepare(union: Union, indexed: bool, *directories: str) -> None:
    if indexed:
        for path in directories or ("",):
            union.entries(path)


def make_opaque(directory: Path, spelling: str) -> None:
    if spelling == OPAQUE_FILE:
        (directory / OPAQUE_FILE).touch()
    else:
        os.setxattr(directory, spelling, b"y")


# --- which branch ---


@INDEXED
@pytest.mark.parametrize("top", range(3))
def test_the_topmost_branch_with_a_name_decides(union: Union, top: int, indexed: bool) -> None:
    for name in BRANCHES[top:]:
        put(union.base / name, "f", "d/f")
    prepare(union, indexed, "", "d")
    for path in ("f", "d/f"):
        assert union.read(path) == said(union.base / BRANCHES[top], path)
        assert union.tree.where(union.node(path)) == (top, path.encode())


@INDEXED
def test_directories_merge_whatever_lies_between(union: Union, indexed: bool) -> None:
    put(union.upper, "d/upper")
    put(union.lowers[1], "d/lower")
    put(union.lowers[0], "elsewhere")
    prepare(union, indexed, "", "d")
    assert union.read("d/upper") == b"upper: d/upper"
    assert union.read("d/lower") == b"lower2: d/lower"
    assert union.names("d") == ["lower", "upper"]


@INDEXED
@pytest.mark.parametrize(
    ("kinds", "shown"),
    [
        (("dir", "file", "dir"), ["upper"]),  # the file ends the search
        (("file", "dir", "dir"), None),
        (("", "file", "dir"), None),
        (("", "dir", "file"), ["lower1"]),
        (("dir", "link", "dir"), ["upper"]),
        (("link", "dir", "dir"), None),
        (("dir", "", "dir"), ["lower2", "upper"]),
    ],
)
def test_branches_that_disagree_about_the_type(
    union: Union, kinds: tuple[str, ...], shown: list[str] | None, indexed: bool
) -> None:
    for name, kind in zip(BRANCHES, kinds, strict=True):
        match kind:
            case "dir":
                put(union.base / name, f"x/{name}")
            case "file":
                put(union.base / name, "x")
            case "link":
                (union.base / name / "x").symlink_to(union.base / "lower2")
    prepare(union, indexed)
    if shown is None:
        assert not stat.S_ISDIR(union.stat("x").st_mode)
        with pytest.raises(NotADirectoryError):
            union.node("x/lower2")
    else:
        assert union.names("x") == shown
        assert [name for name in BRANCHES if union.exists(f"x/{name}")] == sorted(
            shown, key=BRANCHES.index
        )


def test_a_name_that_no_branch_has(union: Union) -> None:
    put(union.lower, "d/f")
    # More than it takes until the directory is indexed.
    for i in range(100):
        assert not union.exists(f"missing{i}")
        assert not union.exists(f"d/missing{i}")
    assert union.read("d/f") == b"lower1: d/f"


@INDEXED
def test_hundreds_of_branches(make_union: Callable[..., Union], indexed: bool) -> None:
    union = make_union(200)
    for i, lower in enumerate(union.lowers):
        put(lower, f"d/{i}", "d/everywhere")
    hide(union.lowers[100], "d/150", "aufs")
    prepare(union, indexed, "", "d")
    assert union.read("d/everywhere") == b"lower1: d/everywhere"
    assert union.read("d/199") == b"lower200: d/199"
    assert not union.exists("d/150")
    assert len(union.names("d")) == 200


# --- whiteouts ---


@INDEXED
@pytest.mark.parametrize("at", range(2))
def test_a_whiteout_hides_the_branches_below_it(
    union: Union, whiteout: str, at: int, indexed: bool
) -> None:
    put(union.lowers[1], "f", "d/f", "d/g")
    hide(union.base / BRANCHES[at], "f", whiteout)
    hide(union.base / BRANCHES[at], "d/f", whiteout)
    prepare(union, indexed, "", "d")
    assert not union.exists("f")
    assert not union.exists("d/f")
    assert union.names() == ["d"]
    assert union.names("d") == ["g"]


@INDEXED
def test_a_whiteout_hides_no_branch_above_it(union: Union, whiteout: str, indexed: bool) -> None:
    put(union.upper, "d/f")
    hide(union.lowers[0], "d/f", whiteout)
    put(union.lowers[1], "d/f")
    prepare(union, indexed, "", "d")
    assert union.read("d/f") == b"upper: d/f"


@INDEXED
@pytest.mark.parametrize("at", range(2))
def test_a_whiteout_between_two_directories(
    union: Union, whiteout: str, at: int, indexed: bool
) -> None:
    branches = [union.base / name for name in BRANCHES]
    hide(branches[at], "d", whiteout)
    put(branches[at + 1], "d/below")
    if at == 1:
        put(branches[0], "d/above")
        prepare(union, indexed, "", "d")
        assert union.names("d") == ["above"]
        assert not union.exists("d/below")
    else:
        prepare(union, indexed)
        assert not union.exists("d")


@INDEXED
@pytest.mark.parametrize("at", range(2))
def test_a_name_beside_its_own_whiteout_is_visible(union: Union, at: int, indexed: bool) -> None:
    branches = [union.base / name for name in BRANCHES]
    put(branches[at], "f", "d/mine")
    hide(branches[at], "f", "aufs")
    hide(branches[at], "d", "aufs")
    put(branches[at + 1], "f", "d/below")
    prepare(union, indexed, "", "d")
    assert union.read("f") == said(branches[at], "f")
    assert union.names("d") == ["mine"]
    assert not union.exists("d/below")


@INDEXED
def test_a_whiteout_in_the_root_hides_no_name_elsewhere(
    union: Union, whiteout: str, indexed: bool
) -> None:
    hide(union.upper, "f", whiteout)
    put(union.lower, "f", "d/f")
    prepare(union, indexed, "", "d")
    assert not union.exists("f")
    assert union.read("d/f") == b"lower1: d/f"


def test_a_whiteout_that_hides_nothing_is_not_shown(union: Union, whiteout: str) -> None:
    for name in BRANCHES:
        hide(union.base / name, f"{name}-only", whiteout)
    assert union.names() == []
    assert not any(union.exists(f"{name}-only") for name in BRANCHES)


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_a_whiteout_file_of_any_type_hides(union: Union, kind: str) -> None:
    mark = union.upper / ".wh.f"
    match kind:
        case "directory":
            mark.mkdir()
        case "link":
            mark.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(mark)
    put(union.lower, "f")
    assert not union.exists("f")
    assert union.names() == []


def test_other_devices_are_files_like_any_other(union: Union) -> None:
    os.mknod(union.lower / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(union.lower / "block", stat.S_IFBLK | 0o600, os.makedev(0, 0))
    assert union.names() == ["block", "null"]
    assert union.stat("null").st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK(union.stat("block").st_mode)


# --- opaque directories ---


@INDEXED
@pytest.mark.parametrize("at", range(2))
@pytest.mark.parametrize("spelling", [OPAQUE_FILE, *OPAQUE_XATTRS])
def test_an_opaque_directory_hides_what_lies_below(
    union: Union, spelling: str, at: int, indexed: bool
) -> None:
    branches = [union.base / name for name in BRANCHES]
    for branch in branches:
        put(branch, f"d/{branch.name}", f"d/s/{branch.name}")
    make_opaque(branches[at] / "d", spelling)
    prepare(union, indexed, "", "d", "d/s")
    visible = sorted(BRANCHES[: at + 1])
    assert union.names("d") == sorted([*visible, "s"])
    assert union.names("d/s") == visible
    for name in BRANCHES:
        assert union.exists(f"d/{name}") == (name in visible)
        assert union.exists(f"d/s/{name}") == (name in visible)


@INDEXED
@pytest.mark.parametrize("at", range(2))
@pytest.mark.parametrize("spelling", [OPAQUE_FILE, *OPAQUE_XATTRS])
def test_an_opaque_root(union: Union, spelling: str, at: int, indexed: bool) -> None:
    for name in BRANCHES:
        put(union.base / name, name)
    make_opaque(union.base / BRANCHES[at], spelling)
    prepare(union, indexed)
    assert union.names() == sorted(BRANCHES[: at + 1])
    assert union.exists("lower1") == (at == 1)
    assert not union.exists("lower2")


def test_an_opaque_mark_says_y(union: Union) -> None:
    put(union.upper, "d/f")
    put(union.lower, "d/g")
    os.setxattr(union.upper / "d", "trusted.overlay.opaque", b"n")
    os.setxattr(union.upper / "d", "user.overlay.opaque", b"yes")
    assert union.names("d") == ["f", "g"]


def test_an_opaque_mark_among_more_attributes_than_a_list_holds(union: Union) -> None:
    put(union.upper, "d/f")
    put(union.lower, "d/g")
    # The list is longer than 4096 bytes: xattrs are stored outside the inode, in one block, so
    # short values and long names.
    for i in range(17):
        os.setxattr(union.upper / "d", f"user.{i:03}{'x' * 200}", b"")
    os.setxattr(union.upper / "d", "user.fuseoverlayfs.opaque", b"y")
    assert union.names("d") == ["f"]


# --- names ---


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"", EINVAL),
        (b".", EINVAL),
        (b"..", EINVAL),
        (b"d/f", EINVAL),
        (b"/", EINVAL),
        (b"f\0", EINVAL),
        (b"x" * 256, ENAMETOOLONG),
        (b"x" * 5000, ENAMETOOLONG),
        (b"x" * 255, ENOENT),
    ],
)
def test_names_that_cannot_be(union: Union, name: bytes, error: int) -> None:
    put(union.lower, "d/f", "f")
    calls: list[Callable[[], object]] = [
        lambda: union.tree.lookup(ROOT, name),
        lambda: union.tree.unlink(ROOT, name),
        lambda: union.tree.rmdir(ROOT, name),
        lambda: union.tree.rename(ROOT, name, ROOT, b"new"),
    ]
    if error != ENOENT:
        calls += [
            lambda: union.tree.mknod(ROOT, name, 0o644),
            lambda: union.tree.mkdir(ROOT, name),
            lambda: union.tree.symlink(ROOT, name, b"target"),
            lambda: union.tree.link(union.node("f"), ROOT, name),
            lambda: union.tree.rename(ROOT, b"f", ROOT, name),
        ]
    for call in calls:
        with fails(error):
            call()
    assert os.listdir(union.upper) == []


def test_names_of_every_byte(union: Union) -> None:
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
    for name in names[::2]:
        Path(os.fsdecode(os.fsencode(union.lower) + b"/" + name)).touch()
    for name in names[1::2]:
        union.tree.mknod(ROOT, name, stat.S_IFREG | 0o644)
    assert sorted(name for name, *_ in union.tree.readdir(ROOT, 2)) == sorted(names)
    for name in names:
        union.tree.lookup(ROOT, name)


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_nothing_is_below_what_is_no_directory(union: Union, kind: str) -> None:
    match kind:
        case "file":
            put(union.lower, "x")
        case "link":
            (union.lower / "x").symlink_to(".")
        case "fifo":
            os.mkfifo(union.lower / "x")
    node = union.node("x")
    for call in (union.tree.lookup, union.tree.unlink, union.tree.rmdir, union.tree.mkdir):
        with pytest.raises(NotADirectoryError):
            call(node, b"y")
    with pytest.raises(NotADirectoryError):
        union.tree.readdir(node)


RESERVED = (".wh.f", ".wh.", OPAQUE_FILE, ".wh..wh.work", ".wh..wh.plnk", ".wh..wh.")


@INDEXED
@pytest.mark.parametrize("name", RESERVED)
def test_reserved_names_are_not_shown(formatted: Union, name: str, indexed: bool) -> None:
    put(formatted.upper, f"d/{name}")
    put(formatted.lower, f"d/{name}", "d/g")
    prepare(formatted, indexed, "", "d")
    assert not formatted.exists(f"d/{name}")
    assert set(formatted.names("d")) <= {"g"}


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_names_cannot_be_created(union: Union, name: str) -> None:
    put(union.lower, "f", "d/")
    for call in (
        lambda: union.create(name),
        lambda: union.mkdir(name),
        lambda: union.symlink("target", name),
        lambda: union.link("f", name),
        lambda: union.rename("f", name),
        lambda: union.rename("d", f"d/{name}"),
    ):
        with fails(EPERM):
            call()
    assert os.listdir(union.upper) == []


@pytest.mark.parametrize("length", [251, 252, 255])
def test_long_names_and_their_whiteouts(formatted: Union, length: int) -> None:
    name = "x" * length
    put(formatted.lower, name)
    assert formatted.read(name) == said(formatted.lower, name)
    formatted.unlink(name)
    assert not formatted.exists(name)
    assert formatted.names() == []
    prefixed = formatted.options["whiteout"] == "aufs" and length == 251
    assert os.listdir(formatted.upper) == [f".wh.{name}" if prefixed else name]
    formatted.restart()
    assert not formatted.exists(name)
    formatted.create(name, b"again")
    assert os.listdir(formatted.upper) == [name]
    formatted.restart()
    assert formatted.read(name) == b"again"


# --- hostile branches ---


@INDEXED
@pytest.mark.parametrize("where", ["upper", "lower1"])
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_link_out_of_a_branch_stays_a_link(
    union: Union, where: str, relative: bool, indexed: bool
) -> None:
    put(union.base / "outside", "secret")
    target = "../outside" if relative else str(union.base / "outside")
    (union.base / where / "d").symlink_to(target)
    prepare(union, indexed)
    node = union.node("d")
    assert union.tree.readlink(node) == target.encode()
    with pytest.raises(NotADirectoryError):
        union.node("d/secret")
    with pytest.raises(NotADirectoryError):
        union.tree.readdir(node)


@pytest.mark.parametrize("where", ["upper", "lower1"])
def test_a_directory_that_becomes_a_link_is_not_followed(union: Union, where: str) -> None:
    put(union.base / "outside", "secret", "s/secret")
    branch = union.base / where
    put(branch, "d/f", "d/s/f")
    known, deep = union.node("d"), union.node("d/s")
    union.tree.shrink(everything=True)  # no descriptor of the directory is left
    os.rename(branch / "d", branch / "moved")
    (branch / "d").symlink_to(union.base / "outside")
    for node in (known, deep):
        for call in (
            lambda node=node: union.tree.lookup(node, b"secret"),
            lambda node=node: union.tree.readdir(node),
            lambda node=node: union.tree.mknod(node, b"new", stat.S_IFREG | 0o644),
            lambda node=node: union.tree.unlink(node, b"secret"),
            lambda node=node: union.tree.setxattr(node, "user.x", b""),
        ):
            with pytest.raises(OSError):
                call()
    assert sorted(os.listdir(union.base / "outside")) == ["s", "secret"]
    assert not union.exists("d/secret")


def test_a_file_that_becomes_a_link_is_not_followed(union: Union) -> None:
    put(union.base, "secret", content=b"secret")
    put(union.lower, "f")
    node = union.node("f")
    (union.lower / "f").unlink()
    (union.lower / "f").symlink_to("../secret")
    for call in (
        lambda: union.tree.read(node, 100),
        lambda: union.tree.write(node, b"x"),
        lambda: union.tree.setattr(node, mode=0o777),
    ):
        with pytest.raises(OSError):
            call()
    assert (union.base / "secret").read_bytes() == b"secret"
    assert os.listdir(union.upper) == []
    assert union.tree.readlink(union.node("f")) == b"../secret"


# --- branches that change from outside ---


def errno_of(call: Callable[..., object], *arguments: object) -> int:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.parametrize("shrunk", [False, True])
@pytest.mark.parametrize("where", ["upper", "lower1"])
def test_a_name_that_goes_away_underneath(union: Union, where: str, shrunk: bool) -> None:
    put(union.base / where, "f", "d/f")
    nodes = [union.node(path) for path in ("f", "d", "d/f")]
    union.entries("d")
    os.unlink(union.base / where / "d/f")
    os.rmdir(union.base / where / "d")
    os.unlink(union.base / where / "f")
    if shrunk:
        union.tree.shrink(everything=True)
    gone = {0, ENOENT, ESTALE, ENOTDIR}
    for node in nodes:
        for call in (
            lambda node=node: union.tree.getattr(node),
            lambda node=node: union.tree.lookup(node, b"f"),
            lambda node=node: union.tree.readdir(node),
            lambda node=node: union.tree.info(node),
            lambda node=node: union.tree.where(node),
            lambda node=node: union.tree.setattr(node, mode=0o700),
            lambda node=node: union.tree.setxattr(node, "user.x", b""),
        ):
            assert errno_of(call) in gone
    for path in ("f", "d", "d/f"):
        assert errno_of(union.node, path) in gone
        assert errno_of(union.unlink, path) in gone | {EPERM, 21}


@pytest.mark.parametrize("shrunk", [False, True])
def test_a_name_that_changes_its_type_underneath(union: Union, shrunk: bool) -> None:
    put(union.lower, "f", "d/f")
    old_file, old_dir = union.node("f"), union.node("d")
    os.unlink(union.lower / "f")
    os.rename(union.lower / "d", union.lower / "moved")
    put(union.lower, "d", "f/now")
    if shrunk:
        union.tree.shrink(everything=True)
    assert stat.S_ISDIR(union.stat("f").st_mode)
    assert stat.S_ISREG(union.stat("d").st_mode)
    assert union.read("f/now") == b"lower1: f/now"
    for node in (old_file, old_dir):
        errno_of(union.tree.write, node, b"x")
        errno_of(union.tree.readdir, node)
        errno_of(partial(union.tree.setattr, node, uid=1))
    # Whatever came of that, no file took the place of another type.
    for path in ("f", "d"):
        if (union.upper / path).exists():
            assert (union.upper / path).is_dir() == (union.lower / path).is_dir()


@pytest.mark.parametrize("shrunk", [False, True])
@pytest.mark.parametrize("opened", [False, True])
def test_a_copy_never_mixes_two_contents(union: Union, opened: bool, shrunk: bool) -> None:
    put(union.lower, "f", content=b"A" * 300_000)
    node = union.node("f")
    if opened:
        assert union.tree.read(node, 1) == b"A"
    put(union.lower, "new", content=b"B" * 500_000)
    os.rename(union.lower / "new", union.lower / "f")
    if shrunk:
        union.tree.shrink(everything=True)
    seen = union.tree.read(node, 1 << 20)
    assert len(set(seen)) == 1
    union.tree.write(node, b"x", 0)
    copied = union.tree.read(node, 1 << 20)
    assert copied in (b"x" + b"A" * 299_999, b"x" + b"B" * 499_999)
    assert (union.upper / "f").read_bytes() == copied


@pytest.mark.parametrize("format_", FORMATS)
def test_a_new_lower_name_may_stay_unseen_but_not_half_seen(union: Union, format_: str) -> None:
    put(union.lower, "d/f")
    union.entries("d")
    put(union.lower, "d/new")
    hide(union.lower, "d/gone", format_)
    assert union.exists("d/new") == ("new" in union.names("d"))
    union.tree.shrink(everything=True)
    assert union.names("d") == ["f", "new"]
    assert union.read("d/new") == b"lower1: d/new"
