"""Uppers of random nonsense: a check always answers, and a repair never changes what is shown."""

import os
import random
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.check.upper import Upper
from tests.tree.union import Union

NAMES = (
    *("a", "b", "d", ".wh.a", ".wh.b", ".wh.", ".wh..", ".wh...", ".wh..wh..opq", ".wh..wh.work"),
    *(".wh..wh.x", ".wh..wh.check", "links", "work", f"{7:016x}", f"{7:016x}.n"),
    *("x" * 255, ".wh." + "y" * 251, "\udcff\n"),
)
ATTRIBUTES = (
    *("trusted.unionfs.origin", "user.unionfs.origin", "trusted.unionfs.impure"),
    *("trusted.overlay.opaque", "user.fuseoverlayfs.opaque", "user.overlay.redirect"),
    *("trusted.unionfs.", "trusted.overlay.overlay.x", "user.overlay."),
)
VALUES = (b"", b"y", b"yy", b"12", b"12", b"0", b"-3", b" 12", b"9" * 23, b"\0\xff", b"x" * 300)


def fill(chance: random.Random, directory: Path, depth: int) -> None:
    for name in chance.sample(NAMES, chance.randint(0, 8)):
        path = directory / name
        match chance.choice(["dir", "dir", "data", "link", "whiteout", "null", "fifo", "empty"]):
            case "dir":
                path.mkdir()
                if depth:
                    fill(chance, path, depth - 1)
            case "data":
                path.write_text("data")
            case "link":
                path.symlink_to(chance.choice(["1", "0", "-1", "2", "nowhere", "\udcff", "9" * 14]))
            case "whiteout":
                os.mknod(path, stat.S_IFCHR, 0)
            case "null":
                os.mknod(path, stat.S_IFCHR, os.makedev(1, 3))
            case "fifo":
                os.mkfifo(path)
            case "empty":
                path.touch()
        for attribute in chance.sample(ATTRIBUTES, chance.choice([0, 0, 1, 2])):
            with suppress(PermissionError):  # user.* of a link or a special file
                os.setxattr(path, attribute, chance.choice(VALUES), follow_symlinks=False)


def shown(upper: Upper) -> dict[str, object]:
    """What the union shows but for st_ino, which may have been shown wrongly."""
    union = Union(upper.base, 1)
    try:
        return dict(look(union, ""))
    finally:
        union.restart()


def look(union: Union, path: str) -> Iterator[tuple[str, object]]:
    seen = union.seen(path)
    yield path, (union.stat(path).st_mtime_ns, *seen[:4], *seen[5:])
    if stat.S_ISDIR(union.stat(path).st_mode):
        for name in union.names(path):
            yield from look(union, f"{path}/{name}" if path else name)


@pytest.mark.parametrize("number", range(40))
def test_nonsense(upper: Upper, number: int, chance: random.Random) -> None:
    fill(chance, upper.path, 3)
    fill(chance, upper.lower, 2)
    lower = chance.choice([False, True])
    before = shown(upper)
    found = upper.check(lower=lower)
    upper.check(lower=lower, repair=True)
    assert shown(upper) == before
    # A repair may make room for the next one, and then there is no more to do.
    for _ in range(3):
        left = upper.check(lower=lower, repair=True)
    assert not any(one.repaired for one in left)
    assert len(left) <= len(found)
