"""Branches as data: drawn by hypothesis, built on disk, read back for comparison."""

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

NAMES = "abc"
DEPTH = 3
OWNERS = (0, 1000)
#: A target of symbolic links that never exists, whatever is made of `NAMES`.
NOWHERE = "nowhere/at/all"
#: The types `os.mknod` makes.
KINDS = {"file": stat.S_IFREG, "fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "socket": stat.S_IFSOCK}
#: Of the memory driver, harmless to open: null and full.
DEVICES = (os.makedev(1, 3), os.makedev(1, 7))
#: Far from any moment at which the tests run; before 1970 and after 2038 too.
TIMES = (-5_000_000_000, 1_000_000_000_000_000_007, 86_400_123_456_789, 5_000_000_000_999_999_999)


def content(tag: str, size: int) -> bytes:
    """Bytes that tell which write they come from and where they stand in it."""
    pattern = "".join(f"{tag}{i:04}." for i in range(size // (len(tag) + 5) + 1))
    return pattern[:size].encode()


@dataclass(frozen=True)
class Node:
    """What every kind of file has."""

    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = TIMES[1]
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Only what differs from the defaults: examples are pasted from it."""
        given = []
        usual = type(self)()
        for item in fields(self):
            value = getattr(self, item.name)
            if value != getattr(usual, item.name):
                given.append(f"{item.name}={oct(value) if item.name == 'mode' else repr(value)}")
        return f"{type(self).__name__}({', '.join(given)})"


@dataclass(frozen=True, repr=False)
class File(Node):
    """A regular file with `content(tag, size)`, after a hole of `hole` bytes."""

    tag: str = "t"
    size: int = 0
    hole: int = 0


@dataclass(frozen=True, repr=False)
class Dir(Node):
    """A directory; an opaque one hides what lower branches have in its place."""

    mode: int = 0o755
    children: Mapping[str, Node] = field(default_factory=dict)
    opaque: bool = False


@dataclass(frozen=True, repr=False)
class Symlink(Node):
    mode: int = 0o777
    target: str = NOWHERE


@dataclass(frozen=True, repr=False)
class Special(Node):
    kind: str = "fifo"
    device: int = 0


@dataclass(frozen=True, repr=False)
class Link(Node):
    """A hard link to another path of the same branch; left out if no file is there."""

    to: str = "a"


@dataclass(frozen=True, repr=False)
class Whiteout(Node):
    """Hides the name in the branches below."""


# Strategies

modes = st.sampled_from((0o644, 0o600, 0o444, 0o755, 0o000, 0o4755, 0o2755, 0o666))
directory_modes = st.sampled_from((0o755, 0o700, 0o777, 0o555, 0o1777, 0o2775, 0o000))
owners = st.sampled_from(OWNERS)
times = st.sampled_from(TIMES)
sizes = st.sampled_from((0, 1, 7, 4096, 4097, 10000))
tags = st.sampled_from("xyz")
xattr_names = st.sampled_from(("user.a", "user.b"))
xattr_values = st.sampled_from((b"", b"1", b"2" * 300))
names = st.sampled_from(NAMES)
paths = st.lists(names, min_size=1, max_size=DEPTH).map("/".join)
targets = st.one_of(paths, st.sampled_from(("..", "../a", ".", NOWHERE)))
devices = st.sampled_from(DEVICES)
kinds = st.sampled_from(sorted(KINDS))

_owned = {"uid": owners, "gid": owners, "mtime": times}
_attributes = _owned | {
    "mode": modes,
    "xattrs": st.dictionaries(xattr_names, xattr_values, max_size=2),
}


def stacks(targets: st.SearchStrategy[str], links: bool, most: int) -> st.SearchStrategy[list[Dir]]:
    """The lowers of a union, the topmost first.

    `targets` are those of symbolic links; `links`: with hard links; `most`: how many branches.
    """
    special = st.one_of(
        st.builds(Symlink, target=targets, **_owned),
        st.builds(Special, mode=modes, **_owned),
        st.builds(Special, kind=st.just("char"), device=devices, mode=modes, **_owned),
        *[st.builds(Link, to=paths)] * links,
    )
    file = st.builds(File, tag=tags, size=sizes, hole=st.sampled_from((0, 8192)), **_attributes)
    node: st.SearchStrategy[Node] = st.one_of(file, special, st.builds(Whiteout))
    for _ in range(1, DEPTH):
        directory = st.builds(
            Dir,
            children=_children(node),
            opaque=st.booleans(),
            **_attributes | {"mode": directory_modes},
        )
        # Directories twice, or trees would hardly be deep.
        node = st.one_of(directory, file, special, st.builds(Whiteout), directory)
    # The root of a lower has no marks and no attributes of its own.
    branch = st.builds(Dir, children=_children(node))
    return st.lists(branch, min_size=1, max_size=most)


def _children(node: st.SearchStrategy[Node]) -> st.SearchStrategy[dict[str, Node]]:
    some = st.fixed_dictionaries(dict.fromkeys(NAMES, st.one_of(node, st.none(), node)))
    return some.map(lambda children: {name: node for name, node in children.items() if node})


# What a stack shows


def merged(stack: Sequence[Dir], root: Dir) -> Dir:
    """The one plain tree that a union of these lowers is, `root` being its upper."""
    return replace(root, children=_Merging(stack).children("", list(enumerate(stack))))


class _Merging:
    def __init__(self, branches: Sequence[Dir]) -> None:
        self._branches = branches
        # The first path met of each file, by its branch and its path there.
        self._first: dict[tuple[int, str], str] = {}

    def children(self, path: str, stack: Sequence[tuple[int, Dir]]) -> dict[str, Node]:
        """What a merged directory shows; `stack` has its directories by branch."""
        names = sorted({name for _, directory in stack for name in directory.children})
        shown = {name: self._child(f"{path}{name}", name, stack) for name in names}
        return {name: node for name, node in shown.items() if node}

    def _child(self, path: str, name: str, stack: Sequence[tuple[int, Dir]]) -> Node | None:
        found: list[tuple[int, Dir]] = []
        for branch, directory in stack:
            node, origin = directory.children.get(name), path
            if isinstance(node, Link):
                origin = node.to
                node = linked(self._branches[branch], node)
            if isinstance(node, Dir):
                found.append((branch, node))
            if node is None or (isinstance(node, Dir) and not node.opaque):
                continue
            if not found and not isinstance(node, Whiteout):
                first = self._first.setdefault((branch, origin), path)
                return node if first == path else Link(to=first)
            break
        if not found:
            return None
        return replace(found[0][1], opaque=False, children=self.children(f"{path}/", found))


def linked(branch: Dir, link: Link) -> Node | None:
    """The file that a hard link is another name of; None if it is none that can be linked."""
    node: Node | None = branch
    for name in link.to.split("/"):
        node = node.children.get(name) if isinstance(node, Dir) else None
    return None if isinstance(node, (Dir, Link, Whiteout)) else node


# On disk


def build(root: Path, tree: Dir, whiteout: str) -> None:
    """Make the directory `root` and `tree` in it; `whiteout` is "aufs" or "overlay"."""
    links: dict[Path, Link] = {}
    directories: list[tuple[Path, Dir]] = []

    def make(path: Path, node: Node) -> None:
        match node:
            case Dir():
                path.mkdir()
                directories.append((path, node))
                if node.opaque:
                    _mark_opaque(path, whiteout)
                for name, child in node.children.items():
                    make(path / name, child)
            case Link():
                links[path] = node
            case Whiteout():
                if whiteout == "aufs":
                    path.with_name(f".wh.{path.name}").touch()
                else:
                    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
            case File():
                path.write_bytes(b"")
                with path.open("r+b") as file:
                    file.truncate(node.hole)
                    file.seek(node.hole)
                    file.write(content(node.tag, node.size))
                _set_attributes(path, node)
            case Symlink():
                path.symlink_to(node.target)
                _set_attributes(path, node)
            case Special():
                os.mknod(path, KINDS[node.kind], node.device)
                _set_attributes(path, node)

    make(root, tree)
    for path, link in links.items():
        if linked(tree, link):
            os.link(root / link.to, path, follow_symlinks=False)
    for path, directory in reversed(directories):
        _set_attributes(path, directory)


def _mark_opaque(path: Path, whiteout: str) -> None:
    if whiteout == "aufs":
        (path / ".wh..wh..opq").touch()
    else:
        os.setxattr(path, "trusted.overlay.opaque", b"y")


def copy_attributes(source: Path, target: Path) -> None:
    """What a directory shows of itself; not the marks that a union has set on it."""
    for name in os.listxattr(source):
        if name.startswith("user.") and not name.startswith(("user.overlay.", "user.unionfs.")):
            os.setxattr(target, name, os.getxattr(source, name))
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _set_attributes(path: Path, node: Node) -> None:
    for name, value in node.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    os.chown(path, node.uid, node.gid, follow_symlinks=False)
    if not isinstance(node, Symlink):
        path.chmod(node.mode)
    os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)


class Attributes(NamedTuple):
    """What two mounts must agree on about one file."""

    mode: str
    uid: int
    gid: int
    mtime: str
    size: int | None = None
    nlink: int | None = None
    device: int | None = None


def attributes(status: os.stat_result) -> Attributes:
    """A file's attributes; what each filesystem does its own way is left out.

    A time that nobody has set is the moment of some operation, and says "recent".
    """
    recent = abs(status.st_mtime - time.time()) < 86400
    common = (
        stat.filemode(status.st_mode),
        status.st_uid,
        status.st_gid,
        "recent" if recent else str(status.st_mtime_ns),
    )
    if stat.S_ISDIR(status.st_mode):
        return Attributes(*common)
    return Attributes(*common, status.st_size, status.st_nlink, status.st_rdev)


def digest(data: bytes) -> str:
    """Short in a message, different for different data."""
    if len(data) <= 40:
        return repr(data)
    return f"{len(data)} bytes {data[:12]!r} {hashlib.sha1(data).hexdigest()[:8]}"


def xattrs(path: Path) -> dict[str, str]:
    """The user's extended attributes (those of the unions themselves are not compared)."""
    listed = sorted(os.listxattr(path, follow_symlinks=False))
    return {
        name: digest(os.getxattr(path, name, follow_symlinks=False))
        for name in listed
        if name.startswith("user.")
    }


class Found(NamedTuple):
    """One file of a scanned tree."""

    attributes: Attributes
    xattrs: dict[str, str]
    content: str | None
    same_as: str | None  #: the first path of the same inode


def scan(root: Path, phantoms: bool = False) -> dict[str, Found]:
    """Everything below `root`, and the root itself as "."; see `names_in` for `phantoms`."""
    first: dict[int, str] = {}
    found = {}
    for path in walk(root, phantoms):
        name = str(path.relative_to(root))
        same = first.setdefault(path.lstat().st_ino, name)
        found[name] = _found(path, same if same != name else None)
    return found


def inodes(root: Path, phantoms: bool = False) -> dict[str, int]:
    """The inode number of everything that `scan` finds."""
    return {str(path): path.lstat().st_ino for path in walk(root, phantoms)}


def names_in(directory: Path, phantoms: bool) -> list[str]:
    """The names in a directory, sorted; with `phantoms` without those that are only listed.

    Kernel overlayfs lists a whiteout of a lower that has nothing to hide, and says ENOENT when
    the name is looked up: stray-whiteouts in docs/differences.md.
    """
    listed = sorted(os.listdir(directory))
    return [name for name in listed if not (phantoms and is_phantom(directory / name))]


def is_phantom(path: Path) -> bool:
    """Whether a name that was listed is not there."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except PermissionError:  # a directory that may be read but not searched
        return False
    return False


def walk(path: Path, phantoms: bool) -> Iterator[Path]:
    """`path` and everything below it, the names of each directory in order."""
    yield path
    if stat.S_ISDIR(path.lstat().st_mode):
        for name in names_in(path, phantoms):
            yield from walk(path / name, phantoms)


def _found(path: Path, same_as: str | None) -> Found:
    status = path.lstat()
    data = None
    if stat.S_ISREG(status.st_mode):
        data = digest(path.read_bytes())
    elif stat.S_ISLNK(status.st_mode):
        data = os.readlink(path)
    return Found(attributes(status), xattrs(path), data, same_as)
