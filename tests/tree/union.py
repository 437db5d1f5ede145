"""A union of plain directories, reached by paths, and what a test sees of it on disk."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unionfs._tree import ROOT, Tree

FORMATS = ("aufs", "overlay")
OPAQUE_FILE = ".wh..wh..opq"
OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque")
#: What stays in the work directory: the inodes that all whiteouts are links to.
SHARED = {"whiteout", "whiteout-device"}


class Entry(NamedTuple):
    name: str
    ino: int
    type: int  #: DT_*
    cookie: int


class Union:
    """Branch directories below `base`, and the tree over them from its first use on.

    Options are those of `Tree`. `restart` ends the tree; the next use begins a new one.
    """

    def __init__(
        self, base: Path, lowers: int = 2, *, upper: bool = True, **options: object
    ) -> None:
        self.base = base
        self.lowers = [base / f"lower{i}" for i in range(1, lowers + 1)]  #: topmost first
        self.upper = base / "upper"
        self.work = base / "work"
        self.writable = upper
        self.options = options
        for path in (*self.lowers, self.upper, self.work):
            path.mkdir(exist_ok=True)
        self._tree: Tree | None = None

    @property
    def lower(self) -> Path:
        """The topmost lower."""
        return self.lowers[0]

    @property
    def tree(self) -> Tree:
        if self._tree is None:
            paths = [self.upper, self.work, *self.lowers]
            fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in paths]
            upper, work = fds[:2] if self.writable else (None, None)
            try:
                self._tree = Tree(fds[2:], upper, work, **self.options)  # type: ignore[arg-type]
            finally:
                for fd in fds:
                    os.close(fd)
        return self._tree

    def restart(self, **options: object) -> None:
        if self._tree is not None:
            self._tree.close()
            self._tree = None
        self.options |= options

    # --- by path ---

    def node(self, path: str = "") -> int:
        """The node of a path, with a reference that lasts as long as the tree."""
        node = ROOT
        for name in filter(None, path.split("/")):
            above, (node, _) = node, self.tree.lookup(node, os.fsencode(name))
            if above != ROOT:
                self.tree.forget(above)
        return node

    def place(self, path: str) -> tuple[int, bytes]:
        above, _, name = path.rpartition("/")
        return self.node(above), os.fsencode(name)

    def stat(self, path: str = "") -> os.stat_result:
        return self.tree.getattr(self.node(path))

    def exists(self, path: str) -> bool:
        try:
            self.node(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def read(self, path: str) -> bytes:
        return self.read_node(self.node(path))

    def read_node(self, node: int) -> bytes:
        return self.tree.read(node, self.tree.getattr(node).st_size + 1)

    def write(self, path: str, data: bytes, offset: int = 0) -> int:
        return self.tree.write(self.node(path), data, offset)

    def entries(self, path: str = "", offset: int = 0) -> list[Entry]:
        found = self.tree.readdir(self.node(path), offset)
        return [Entry(os.fsdecode(name), *rest) for name, *rest in found]

    def names(self, path: str = "") -> list[str]:
        """The names in a directory, sorted; a name listed twice is there twice."""
        return sorted(entry.name for entry in self.entries(path) if entry.name not in (".", ".."))

    def create(self, path: str, data: bytes = b"", mode: int = 0o644, **caller: int) -> int:
        node = self.mknod(path, stat.S_IFREG | mode, **caller)
        if data:
            self.tree.write(node, data)
        return node

    def mknod(self, path: str, mode: int, rdev: int = 0, **caller: int) -> int:
        above, name = self.place(path)
        return self.tree.mknod(above, name, mode, rdev, **caller)[0]

    def mkdir(self, path: str, mode: int = 0o755, **caller: int) -> int:
        above, name = self.place(path)
        return self.tree.mkdir(above, name, mode, **caller)[0]

    def symlink(self, target: str, path: str, **caller: int) -> int:
        above, name = self.place(path)
        return self.tree.symlink(above, name, os.fsencode(target), **caller)[0]

    def link(self, source: str, path: str) -> int:
        return self.tree.link(self.node(source), *self.place(path))[0]

    def unlink(self, path: str) -> None:
        self.tree.unlink(*self.place(path))

    def rmdir(self, path: str) -> None:
        self.tree.rmdir(*self.place(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.tree.rename(*self.place(old), *self.place(new), flags)

    def branch(self, path: str) -> int:
        """The branch a path's data and attributes are in; 0 is the upper."""
        return self.tree.where(self.node(path))[0]

    # --- as a whole ---

    def walk(self, path: str = "") -> Iterator[str]:
        """Every path below a directory, as listed."""
        for name in self.names(path):
            child = f"{path}/{name}" if path else name
            yield child
            if stat.S_ISDIR(self.stat(child).st_mode):
                yield from self.walk(child)

    def visible(self) -> dict[str, tuple[object, ...]]:
        """All that the union shows: attributes, content and xattrs by path."""
        return {path: self.seen(path) for path in ["", *self.walk()]}

    def seen(self, path: str) -> tuple[object, ...]:
        node = self.node(path)
        st = self.tree.getattr(node)
        content: object = None
        if stat.S_ISREG(st.st_mode):
            content = self.read_node(node)
        elif stat.S_ISLNK(st.st_mode):
            content = self.tree.readlink(node)
        xattrs = {name: self.tree.getxattr(node, name) for name in self.tree.listxattr(node)}
        return st.st_mode, st.st_uid, st.st_gid, st.st_rdev, st.st_ino, content, xattrs

    def scratch(self) -> set[str]:
        """What is left in the work directory, besides what belongs there."""
        return set(os.listdir(self.work)) - SHARED


# --- on disk ---


def put(root: Path, *paths: str, content: bytes | None = None) -> None:
    """Make files and, where a path ends with a slash, directories; with those above them.

    A file contains its branch's name and its path, so that it tells where it is from.
    """
    for path in paths:
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(said(root, path) if content is None else content)


def said(root: Path, path: str) -> bytes:
    """What `put` writes."""
    return f"{root.name}: {path}".encode()


def hide(root: Path, path: str, whiteout: str) -> None:
    """Put a whiteout of that format down."""
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if whiteout == "aufs":
        (place.parent / f".wh.{place.name}").touch()
    else:
        os.mknod(place, stat.S_IFCHR, 0)


def on_disk(root: Path) -> dict[str, bytes | str]:
    """All that a branch holds, marks included, by path: content of files, a word for the rest."""
    found: dict[str, bytes | str] = {}
    for above, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(above, name)
            found[str(path.relative_to(root))] = describe(path)
    return found


def describe(path: Path) -> bytes | str:
    st = path.lstat()
    if stat.S_ISREG(st.st_mode):
        return path.read_bytes()
    if stat.S_ISLNK(st.st_mode):
        return f"-> {os.readlink(path)}"
    if stat.S_ISDIR(st.st_mode):
        return "opaque dir" if set(OPAQUE_XATTRS) & set(os.listxattr(path)) else "dir"
    if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
        return "whiteout"
    return {stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(st.st_mode), "device")
