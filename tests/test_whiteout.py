"""What whiteouts, opaque directories and private attributes look like to callers in Python."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unionfs import whiteout, xattrs


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def status(mode: int, rdev: int = 0) -> os.stat_result:
    return os.stat_result((mode, *[0] * 9), {"st_rdev": rdev})


FILE = status(stat.S_IFREG | 0o644)
DEVICE = status(stat.S_IFCHR)


@pytest.mark.parametrize(
    ("name", "attributes", "hidden"),
    [
        ("a", FILE, None),
        (".wh.a", FILE, "a"),
        (".wh..", FILE, "."),
        (".wh..hidden", FILE, ".hidden"),
        (".wh.", FILE, None),
        (".wh..wh..opq", FILE, None),
        (".wh..wh.work", status(stat.S_IFDIR | 0o700), None),
        (".wh..wh.plnk", status(stat.S_IFDIR | 0o700), None),
        (".wh.\udcff", FILE, "\udcff"),
        (".whale", FILE, None),
        (".wh.a", DEVICE, "a"),
        ("a", DEVICE, "a"),
        ("a", status(stat.S_IFCHR | 0o600), "a"),
        ("null", status(stat.S_IFCHR | 0o666, os.makedev(1, 3)), None),
        ("block", status(stat.S_IFBLK), None),
    ],
)
def test_hidden_name(name: str, attributes: os.stat_result, hidden: str | None) -> None:
    assert whiteout.hidden_name(name, attributes) == hidden


def test_reserved_names() -> None:
    assert whiteout.is_reserved(".wh.a")
    assert whiteout.is_reserved(whiteout.OPAQUE_NAME)
    assert not whiteout.is_reserved(".wha")
    assert len(whiteout.RESERVED_PREFIX) + whiteout.LONGEST_PREFIXED == 255


def test_opaque_by_name(tmp_path: Path) -> None:
    with opened(tmp_path) as fd:
        assert not whiteout.is_opaque(fd)
        (tmp_path / ".wh..wh..opq").touch()
        assert whiteout.is_opaque(fd)


@pytest.mark.parametrize("name", xattrs.OPAQUE)
def test_opaque_by_attribute(tmp_path: Path, name: str) -> None:
    with opened(tmp_path) as fd:
        try:
            os.setxattr(tmp_path, name, b"n")
        except PermissionError:
            pytest.skip(f"only root may set {name}")
        assert not whiteout.is_opaque(fd)
        os.setxattr(tmp_path, name, b"y")
        assert whiteout.is_opaque(fd)


@pytest.mark.parametrize(("prefix", "escape"), xattrs.PRIVATE.items())
def test_private_attributes_are_hidden_and_escaped(prefix: str, escape: str) -> None:
    assert xattrs.shown_name(prefix + "opaque") is None
    once = xattrs.stored_name(prefix + "opaque")
    twice = xattrs.stored_name(once)
    assert once == f"{prefix}{escape}opaque"
    assert len({prefix + "opaque", once, twice}) == 3
    assert xattrs.shown_name(twice) == once
    assert xattrs.shown_name(once) == prefix + "opaque"


@pytest.mark.parametrize("name", ["user.a", "security.capability", "trusted.overlayfs", "user."])
def test_other_attributes_keep_their_names(name: str) -> None:
    assert xattrs.stored_name(name) == xattrs.shown_name(name) == name
