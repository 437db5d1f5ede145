"""Layers that kernel overlayfs wrote with metacopy=on: the union shows what overlayfs shows."""

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounted.harness import Union, needs_root, only_unionfs
from tests.mounted.trees import build
from tests.mounts import detach

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(60)]

CONTENT = {
    "plain": b"plain" * 1000,
    "d/changed": b"changed" * 1000,
    "d/renamed": b"renamed" * 1000,
    "d/sub/deep": b"deep" * 1000,
    "first": b"linked" * 1000,
    "big": os.urandom(3 << 20),
    "empty": b"",
}


@contextmanager
def overlay(place: Path, lowers: list[Path], upper: Path | None = None) -> Iterator[Path]:
    """Kernel overlayfs as it writes and follows metacopies."""
    root = place / "overlay"
    root.mkdir(exist_ok=True)
    options = f"metacopy=on,redirect_dir=on,index=off,lowerdir={':'.join(map(str, lowers))}"
    if upper is not None:
        work = place / f"work-{upper.name}"
        work.mkdir()
        options += f",upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    try:
        yield root
    finally:
        detach(root)


def seen(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for base, _, files in os.walk(root):
        for name in files:
            path = Path(base, name)
            status = path.lstat()
            found[str(path.relative_to(root))] = (
                status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns,
                path.read_bytes() if stat.S_ISREG(status.st_mode) else None,
            )  # fmt: skip
    return found


@pytest.fixture
def layers(place: Path) -> list[Path]:
    """Three, topmost first, the upper two with metacopies in every way they come about."""
    bottom, middle, top = (place / name for name in ("lower2", "lower1", "lower0"))
    for path in (middle, top):
        path.mkdir()
    build(bottom, CONTENT)
    os.link(bottom / "first", bottom / "second")
    with overlay(place, [bottom], middle) as root:
        os.chmod(root / "d/changed", 0o600)
        os.rename(root / "d/renamed", root / "elsewhere")
        os.chmod(root / "elsewhere", 0o640)
        os.rename(root / "d/sub", root / "moved")
        os.chown(root / "moved/deep", 1234, 1234)
        os.chmod(root / "first", 0o604)
        os.chmod(root / "big", 0o444)
        os.chmod(root / "empty", 0o600)
    with overlay(place, [middle, bottom], top) as root:
        os.utime(root / "elsewhere", (1, 2))
        os.rename(root / "elsewhere", root / "d/back")
        os.rename(root / "moved", root / "again")
        os.utime(root / "again/deep", (3, 4))
        os.utime(root / "d/changed", (5, 6))
    assert "trusted.overlay.metacopy" in os.listxattr(top / "d/back")
    assert "trusted.overlay.metacopy" in os.listxattr(middle / "big")
    return [top, middle, bottom]


def test_what_overlayfs_shows(place: Path, layers: list[Path]) -> None:
    with overlay(place, layers) as root:
        expected = seen(root)
    union = Union(place, lowers=3)
    with union:
        assert seen(union.mountpoint) == expected
        union.remount()
        for name in expected:
            (union.mountpoint / name).read_bytes()
        assert seen(union.mountpoint) == expected
    assert union.upper is not None
    assert not [name for name in os.listdir(union.upper) if not name.startswith(".wh.")]


def test_changing_it(place: Path, layers: list[Path]) -> None:
    below = [seen(layer) for layer in layers]
    union = Union(place, lowers=3)
    with union:
        root = union.mountpoint
        content = {name: (root / name).read_bytes() for name in seen(root)}
        for name in content:
            os.chmod(root / name, 0o666)
        union.remount()
        assert {name: (root / name).read_bytes() for name in content} == content
    assert [seen(layer) for layer in layers] == below


def test_each_change_by_itself(place: Path, layers: list[Path]) -> None:
    union = Union(place, lowers=3)
    with union:
        root = union.mountpoint
        content = {name: (root / name).read_bytes() for name in seen(root)}
        union.remount()
        with (root / "d/back").open("r+b") as file:
            file.write(b"NEW")
        os.truncate(root / "big", 2 << 20)
        os.truncate(root / "again/deep", 0)
        os.link(root / "d/changed", root / "link")
        os.rename(root / "d/changed", root / "renamed")
        held = os.open(root / "first", os.O_RDONLY)
        os.unlink(root / "first")
        for _ in range(2):
            assert (root / "d/back").read_bytes() == b"NEW" + content["d/back"][3:]
            assert (root / "big").read_bytes() == content["big"][: 2 << 20]
            assert (root / "again/deep").read_bytes() == b""
            assert (root / "link").read_bytes() == content["d/changed"]
            assert (root / "renamed").read_bytes() == content["d/changed"]
            assert not (root / "first").exists()
            if held >= 0:
                assert os.pread(held, 1 << 20, 0) == content["first"]
                os.close(held)
                held = -1
                union.remount()
