"""An upper above one lower, with its work directory, as a test builds and looks at it."""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.tree.union import Union, put
from unionfs._tree import birth
from unionfs.check import Finding, check

DEFAULT_WORKDIR = ".wh..wh.work"
ORIGIN = "trusted.unionfs.origin"
IMPURE = "trusted.unionfs.impure"


class Upper:
    """The directories below `base`; building is done with paths relative to the upper.

    The work directory is the default one, so that everything is inside the upper.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.path = base / "upper"
        self.lower = base / "lower1"
        for path in (self.path, self.lower):
            path.mkdir()

    # --- building ---

    def put(self, *paths: str, content: bytes = b"") -> None:
        put(self.path, *paths, content=content)

    def whiteout(self, path: str) -> None:
        os.mknod(self.path / path, stat.S_IFCHR, 0)

    def attribute(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self.path / path, name, value, follow_symlinks=False)

    def impure(self, path: str = "") -> None:
        self.attribute(path, IMPURE, b"y")

    @property
    def links(self) -> Path:
        path = self.path / DEFAULT_WORKDIR / "links"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    @property
    def origins(self) -> Path:
        path = self.path / DEFAULT_WORKDIR / "origins"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def record(self, path: str, origin: int | str, born: str | None = None) -> str:
        """Record an origin for what is at `path`; returns the record's name."""
        place = self.path / path
        with opened(place.parent) as (fd,):
            born = born or birth(fd, os.fsencode(place.name))
        name = f"{place.lstat().st_ino:016x}"
        os.symlink(f"{origin} {born}", self.origins / name)
        return name

    def linked(self, *paths: str, count: str | None, origin: int | None = None) -> int:
        """A file that the lower holds under `paths`, copied up with the first of its names.

        Returns its number.
        """
        put(self.lower, paths[0])
        for path in paths[1:]:
            os.link(self.lower / paths[0], self.lower / path)
        number = (self.lower / paths[0]).stat().st_ino
        self.put(paths[0], content=b"changed")
        self.impure()
        self.attribute(paths[0], ORIGIN, b"%d" % (number if origin is None else origin))
        os.link(self.path / paths[0], self.links / f"{number:016x}")
        if count is not None:
            os.symlink(count, self.links / f"{number:016x}.n")
        return number

    # --- looking ---

    def check(self, *, lower: bool = False, repair: bool = False) -> list[Finding]:
        with opened(self.path, *([self.lower] if lower else [])) as (upper, *lowers):
            return check(upper, lowers=lowers, repair=repair)

    def codes(self, *, lower: bool = False) -> list[tuple[str, str]]:
        return sorted((one.code, one.path) for one in self.check(lower=lower))

    def visible(self) -> dict[str, tuple[object, ...]]:
        """All that the union shows, times included, without a trace of looking at it."""
        with ExitStack() as held:
            options: dict[str, object] = {}
            state = self.path / DEFAULT_WORKDIR
            if state.is_dir():
                options["state"] = held.enter_context(opened(state))[0]
            union = Union(self.base, 1, **options)  # type: ignore[arg-type]
            held.callback(union.restart)
            found = {}
            for path, seen in union.visible().items():
                status = union.stat(path)
                # A directory counts what it holds on disk, hidden directories too.
                nlink = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
                found[path] = (status.st_mtime_ns, nlink, *seen)
            return found


@contextmanager
def opened(*paths: Path) -> Iterator[list[int]]:
    fds: list[int] = []
    try:
        for path in paths:
            fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        yield fds
    finally:
        for fd in fds:
            os.close(fd)
