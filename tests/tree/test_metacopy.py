"""Data in another layer: kernel overlayfs' metacopies."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LogWatch
from tests.posix.asserts import fails
from tests.tree.union import Union, on_disk, put


def metacopy(path: Path, size: int, redirect: str | None = None, value: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, size)
    os.setxattr(path, "trusted.overlay.metacopy", value)
    if redirect is not None:
        os.setxattr(path, "trusted.overlay.redirect", os.fsencode(redirect))


@pytest.fixture
def layered(make_union: Callable[..., Union]) -> Union:
    """Metacopies in the topmost lower, and what they lead to below; all have 100 bytes."""
    union = make_union(3)
    top, middle, bottom = union.lowers
    put(bottom, "d/same", "d/old", "far/away", "chain", content=b"b" * 100)
    put(middle, "d/old", content=b"m" * 100)
    metacopy(top / "d/same", 100)
    metacopy(top / "d/new", 100, "old")
    metacopy(top / "d/moved", 100, "/far/away")
    metacopy(top / "chain", 100)
    metacopy(middle / "chain", 100, "/d/old")
    return union


DATA = {"d/same": b"b", "d/new": b"m", "d/moved": b"b", "chain": b"b"}


@pytest.mark.parametrize("name", DATA)
def test_data_in_another_layer(layered: Union, name: str) -> None:
    content = DATA[name] * 100
    os.chmod(layered.lower / name, 0o640)
    for _ in range(2):
        assert layered.read(name) == content
        st = layered.stat(name)
        assert (stat.S_IMODE(st.st_mode), st.st_size) == (0o640, 100)
        assert layered.tree.listxattr(layered.node(name)) == []
        layered.restart()
    ino = layered.stat(name).st_ino
    layered.tree.setattr(layered.node(name), mode=0o600)
    for _ in range(2):
        assert layered.read(name) == content
        st = layered.stat(name)
        assert (stat.S_IMODE(st.st_mode), st.st_size, st.st_ino) == (0o600, 100, ino)
        layered.restart()
    assert (layered.upper / name).read_bytes() == content
    assert not [x for x in os.listxattr(layered.upper / name) if "overlay" in x]


@pytest.mark.parametrize("name", DATA)
def test_changing_data_in_another_layer(layered: Union, name: str) -> None:
    content = DATA[name] * 100
    before = on_disk(layered.lowers[1]), on_disk(layered.lowers[2])
    layered.read(name)
    layered.write(name, b"X", 50)
    assert layered.read(name) == content[:50] + b"X" + content[51:]
    layered.tree.setattr(layered.node(name), size=60)
    layered.rename(name, "renamed")
    layered.restart()
    assert layered.read("renamed") == content[:50] + b"X" + content[51:60]
    assert (on_disk(layered.lowers[1]), on_disk(layered.lowers[2])) == before


@pytest.mark.parametrize("name", DATA)
def test_removing_what_has_its_data_in_another_layer(layered: Union, name: str) -> None:
    node = layered.node(name)
    layered.unlink(name)
    assert layered.read_node(node) == DATA[name] * 100
    assert not layered.exists(name)


@pytest.mark.parametrize(
    ("redirect", "value"),
    [
        ("nowhere", b""),
        ("/nowhere/at/all", b""),
        ("../../secret", b""),
        ("/../secret", b""),
        ("/d/../../secret", b""),
        ("/d/link", b""),
        ("/out/secret", b""),
        ("/d", b""),
        ("/", b""),
        ("d/same", b""),
        ("..", b""),
        (None, b"\0\x24\0\1" + bytes(32)),  # the digest that fs-verity must find
    ],
)
def test_data_that_is_not_there(
    layered: Union, redirect: str | None, value: bytes, log_watch: LogWatch
) -> None:
    """An error, never holes in its place, and never what is outside of the branch; the log has the
    reason, once."""
    why = "names a digest of its data" if value else "has (no data|data that cannot be opened)"
    log_watch.expect(f"(meta|gone|replaced) of lower 1 is a metacopy and {why}")
    put(layered.base, "secret")
    put(layered.lowers[1], "meta", "gone", "replaced")
    (layered.lowers[1] / "d/link").symlink_to(layered.base / "secret")
    (layered.lowers[1] / "out").symlink_to(layered.base)
    for name in ("meta", "gone", "replaced"):
        metacopy(layered.lower / name, 1000, redirect, value)
    put(layered.lower, "plain")
    assert layered.stat("meta").st_size == 1000
    for mounted in (1, 2):
        with fails(errno.EIO):
            layered.read("meta")
        with fails(errno.EIO):
            layered.write("meta", b"x")
        assert len(log_watch.records) == mounted
        assert on_disk(layered.upper) == {}
        assert layered.scratch() == set()
        layered.restart()
    layered.unlink("gone")
    layered.rename("plain", "replaced")
    assert layered.read("replaced") == b"lower1: plain"
