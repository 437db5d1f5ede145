"""A slow path that dies in the middle of work: EIO for what waited, then work goes on."""

import errno
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mounted.harness import Union, fails_with, only_unionfs, wait_until
from tests.mounted.trees import branch, build
from unionfs import copyup
from unionfs._tree import Tree
from unionfs.xattrs import STATUS

pytestmark = [only_unionfs, pytest.mark.timeout(60)]

WAITING = 6

CONTENT = b"content" * (copyup.INLINE_LIMIT // 7 + 1)

#: So that a test that fails ends: how long preparations are held at the most, in seconds.
HOLD = 20

#: All that the upper of a fresh mount holds.
FRESH = {".wh..wh.work", ".wh..wh.work/work", ".wh..wh.work/work/mounted-by"}


class Crash(BaseException):
    """What no handler catches."""


@pytest.fixture
def switch(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that tells the daemon's slow path what to do.

    The daemon is a fork of this process and has what was patched before the mount. While `hold`
    is there nothing is prepared; with `error` or `crash` the next preparations fail so.
    """
    switch = place / "switch"
    switch.mkdir()
    bring_up = copyup.bring_up

    def patched(tree: Tree, node: int, *keep: int) -> None:
        (switch / f"asked{node}").touch()
        until = time.monotonic() + HOLD
        while (switch / "hold").exists() and time.monotonic() < until:
            time.sleep(0.005)
        if (switch / "crash").exists():
            raise Crash
        if (switch / "error").exists():
            raise ValueError("a mistake in a handler")
        bring_up(tree, node, *keep)

    monkeypatch.setattr(copyup, "bring_up", patched)
    return switch


def changes(root: Path) -> list[Callable[[], object]]:
    """Each has to copy more than the fast path does by itself."""
    return [
        lambda: os.chmod(root / "d0/file", 0o600),
        lambda: os.truncate(root / "d1/file", len(CONTENT) - 1),
        lambda: write_at_start(root / "d2/file"),
        lambda: os.chown(root / "d3/file", 1, 1),
        lambda: os.rename(root / "d4/file", root / "d4/moved"),
        lambda: os.setxattr(root / "d5/file", "user.note", b"note"),
    ]


def write_at_start(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, b"new")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [copyup.INLINE_LIMIT + 1, copyup.INLINE_LIMIT // 2])
def test_a_truncation_copies_what_it_leaves(place: Path, size: int) -> None:
    union = Union(place)
    content = os.urandom(8 * copyup.INLINE_LIMIT)
    build(union.lower, {"dir/file": content, "other": content})
    with union:
        os.truncate(union.mountpoint / "dir/file", size)
        assert (union.mountpoint / "dir/file").read_bytes() == content[:size]
        status = json.loads(os.getxattr(union.mountpoint, STATUS))
        assert status["copy_up_bytes"] == size
        os.truncate(union.mountpoint / "other", len(content) + 1)
        assert (union.mountpoint / "other").read_bytes() == content + b"\0"
        union.remount()
        assert (union.mountpoint / "dir/file").read_bytes() == content[:size]


@pytest.mark.parametrize("how", ["crash", "error"])
def test_what_waited_gets_eio_and_work_goes_on(place: Path, switch: Path, how: str) -> None:
    log = place / "log"
    union = Union(place, log_file=str(log))
    assert union.upper is not None
    build(union.lower, {f"d{number}/file": CONTENT for number in range(WAITING)})
    with union, ThreadPoolExecutor(WAITING) as pool:
        root, pid = union.mountpoint, union.pid
        for _ in range(2):
            (switch / "hold").touch()
            (switch / how).touch()
            waiting = [pool.submit(fails_with, errno.EIO, change) for change in changes(root)]
            wait_until(
                lambda: len(list(switch.glob("asked*"))) == WAITING,
                "everything is asked for",
                HOLD / 2,
            )
            # The kernel itself lets nobody read what is being truncated or written.
            for number in (0, 3, 4, 5):
                assert (root / f"d{number}/file").read_bytes() == CONTENT
            assert not any(future.done() for future in waiting)
            (switch / "hold").unlink()
            for future in waiting:
                future.result()
            for name in (how, *(path.name for path in switch.glob("asked*"))):
                (switch / name).unlink()
            assert set(branch(union.upper)) == FRESH
        for change in changes(root):
            change()
        assert union.pid == pid
    text = log.read_text()
    assert "Traceback" in text
    assert {"crash": "Crash", "error": "a mistake in a handler"}[how] in text
    assert (union.upper / "d1/file").read_bytes() == CONTENT[:-1]
    assert (union.upper / "d2/file").read_bytes() == b"new" + CONTENT[3:]
    assert (union.upper / "d4/moved").read_bytes() == CONTENT
    assert sorted(branch(union.upper)) == sorted(
        [f"d{number}" for number in range(WAITING)]
        + [f"d{number}/file" for number in range(WAITING) if number != 4]
        + ["d4/moved", "d4/.wh.file"]
    )
