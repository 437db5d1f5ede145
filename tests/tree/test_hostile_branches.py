"""Branches that somebody else has written: marks, attributes and links of any value.

Whatever they hold, an operation succeeds or fails with an errno of its kind, no lower changes, and
nothing outside the branches is read or written.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import LogWatch
from tests.posix import calls
from tests.tree.union import FORMATS, OPAQUE_FILE, Union, on_disk, put

SECRET = b"the content of a file outside"

#: What an operation on a well-built union may fail with too. Not among them are what stands for a
#: fault of our own: EBADF, EFAULT, ENOMEM, ENOSYS, ESTALE, EAGAIN.
CLEAN = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EPERM,
    errno.EXDEV, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODATA, errno.EOPNOTSUPP,
    errno.E2BIG, errno.ERANGE, errno.EIO, errno.ENOSPC,
}  # fmt: skip

# --- what a branch holds ---

ATTRIBUTES = [
    f"{namespace}.{name}"
    for namespace in ("trusted", "user")
    for name in (
        *("overlay.opaque", "overlay.redirect", "overlay.metacopy", "overlay.origin"),
        *("overlay.overlay.opaque", "overlay.", "fuseoverlayfs.opaque", "fuseoverlayfs.origin"),
        *("unionfs.origin", "unionfs.impure", "unionfs.plain", "unionfs.x", "unionfs.unionfs.x"),
        "ordinary",
    )
]
paths = st.lists(
    st.sampled_from(["a", "b", "d", "..", ".", "", "outside", "secret", "up", ".wh.a", "x" * 255]),
    max_size=6,
).map("/".join)
attribute_values = st.one_of(
    st.sampled_from([b"y", b"x", b"n", b"", b"\0", b"y\0", b"1", b"-1", b"18446744073709551616"]),
    st.one_of(paths, paths.map("/{}".format)).map(os.fsencode),
    st.integers(0, 300).map(lambda number: b"%d" % number),
    st.binary(max_size=40),
    st.sampled_from([b"/a" * 3000, b"a" * 255, b"a" * 256, b"1" * 4000, b"\xff" * 60_000]),
)
names = st.one_of(
    st.sampled_from(["a", "b", "d", ".wh.a", ".wh.b", ".wh.d", ".wh.", ".wh..", ".wh...", "links"]),
    st.sampled_from([OPAQUE_FILE, ".wh..wh.", ".wh..wh.x", ".wh..wh.work", f"{7:016x}"]),
    st.sampled_from([".wh." + "y" * 251, "x" * 255, f"{7:016x}.n", "work", "\udcff\n"]),
    st.binary(min_size=1, max_size=6).map(lambda name: os.fsdecode(b".wh." + name)),
).filter(lambda name: not set(name) & {"/", "\0"})


class Entry(NamedTuple):
    kind: str
    target: str  #: of a symbolic link
    attributes: Mapping[str, bytes]
    children: Mapping[str, "Entry"]


def entries(children: st.SearchStrategy[Mapping[str, Entry]]) -> st.SearchStrategy[Entry]:
    return st.builds(
        Entry,
        st.sampled_from(["dir", "dir", "file", "link", "fifo", "whiteout", "null"]),
        st.one_of(paths, st.sampled_from(["../outside", "../outside/secret", "5", "-1", "0"])),
        st.dictionaries(st.sampled_from(ATTRIBUTES), attribute_values, max_size=3),
        children,
    )


branches = st.recursive(
    st.just({}),
    lambda children: st.dictionaries(names, entries(children), max_size=4),
    max_leaves=12,
)


def build(directory: Path, children: Mapping[str, Entry]) -> None:
    for name, entry in children.items():
        path = directory / name
        match entry.kind:
            case "dir":
                path.mkdir(exist_ok=True)
                build(path, entry.children)
            case "file":
                path.write_bytes(b"file")
            case "link":
                path.symlink_to(entry.target or "nowhere")
            case "fifo":
                os.mkfifo(path)
            case "whiteout":
                os.mknod(path, stat.S_IFCHR)
            case "null":
                os.mknod(path, stat.S_IFCHR, os.makedev(1, 3))
        for attribute, value in entry.attributes.items():
            # user.* cannot be set on links; what is too large for the filesystem neither.
            with suppress(OSError):
                os.setxattr(path, attribute, value, follow_symlinks=False)


# --- what is done to the union ---


def actions(union: Union, path: str) -> Iterator[Callable[[], object]]:
    """Everything that looks at a name or changes it; the last ones take it away."""
    tree = union.tree
    yield lambda: union.read(path)
    yield lambda: tree.readlink(union.node(path))
    yield lambda: [tree.getxattr(union.node(path), name) for name in ATTRIBUTES]
    yield lambda: union.write(path, b"x")
    yield lambda: tree.setattr(union.node(path), mode=0o700)
    yield lambda: tree.setxattr(union.node(path), "user.new", b"1")
    yield lambda: tree.copy_up(union.node(path))
    yield lambda: union.link(path, f"{path}-link")
    yield lambda: union.create(f"{path}/new")
    yield lambda: union.rename(path, f"{path}-new")
    yield lambda: union.rename(f"{path}-new", path, calls.RENAME_NOREPLACE)
    yield lambda: union.unlink(path)
    yield lambda: union.rmdir(path)
    yield lambda: union.mkdir(path)


def attempt(action: Callable[[], Any]) -> Any:
    """What the action returns, or the name of its error."""
    try:
        return action()
    except OSError as error:
        assert error.errno in CLEAN, error
        return errno.errorcode[error.errno]


def explore(union: Union, path: str = "") -> dict[str, object]:
    """All that can be seen, errors included."""
    found = {path: attempt(lambda: union.seen(path))}
    listed = attempt(lambda: union.names(path))
    if isinstance(listed, list):
        assert len(set(listed)) == len(listed)
        for name in listed:
            found |= explore(union, f"{path}/{name}" if path else name)
    return found


def seen_outside(outside: Path) -> list[object]:
    found: list[object] = [on_disk(outside)]
    for path in (outside, *outside.iterdir()):
        status = path.stat()
        found += [status.st_mode, status.st_nlink, status.st_ctime_ns, os.listxattr(path)]
    return found


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    lowers=st.tuples(branches, branches),
    upper=branches,
    work=branches,
    links=branches,
    whiteout=st.sampled_from(FORMATS),
    rename_dir=st.sampled_from(["copy", "redirect"]),
    trusted=st.booleans(),
)
@example(
    # a whiteout that is a directory, and cannot be taken away when its name comes back
    lowers=({}, {}),
    upper={"d": Entry("file", "", {}, {}), ".wh.d": Entry("dir", "", {}, {})},
    work={},
    links={},
    whiteout="aufs",
    rename_dir="copy",
    trusted=False,
)
@example(
    # a redirect whose target in the next branch is a link that leads out of it
    lowers=(
        {"a": Entry("dir", "", {"trusted.overlay.redirect": b"/up/secret"}, {})},
        {"up": Entry("link", "../outside", {}, {})},
    ),
    upper={},
    work={},
    links={},
    whiteout="aufs",
    rename_dir="copy",
    trusted=True,
)
def test_branches_of_any_content(
    base: Path,
    log_watch: LogWatch,
    lowers: tuple[Mapping[str, Entry], ...],
    upper: Mapping[str, Entry],
    work: Mapping[str, Entry],
    links: Mapping[str, Entry],
    whiteout: str,
    rename_dir: str,
    trusted: bool,
) -> None:
    log_watch.allow("is a metacopy and")
    place = base / "example"
    place.mkdir()
    outside = place / "outside"
    put(outside, "secret", content=SECRET)
    union = Union(place, 2, whiteout=whiteout, rename_dir=rename_dir, trusted=trusted)
    try:
        for path, content in zip((union.upper, *union.lowers), (upper, *lowers), strict=True):
            build(path, content)
        build(union.work, {**work, "links": Entry("dir", "", {}, links)})
        before = [on_disk(lower) for lower in union.lowers], seen_outside(outside)
        first = explore(union)
        union.restart()
        assert explore(union) == first
        assert SECRET not in repr(first).encode()
        for path in list(first)[1:]:
            for action in actions(union, path):
                assert attempt(action) != SECRET
        after = explore(union)
        union.restart()
        assert explore(union).keys() == after.keys()
        assert ([on_disk(lower) for lower in union.lowers], seen_outside(outside)) == before
    finally:
        union.restart()
        shutil.rmtree(place)
