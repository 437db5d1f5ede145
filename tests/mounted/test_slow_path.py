"""A slow path that dies in the middle of work: EIO for what waited, then work goes on."""

import errno
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

pytestmark = [only_unionfs, pytest.mark.timeout(60)]

WAITING = 6

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

    def patched(tree: Tree, node: int) -> None:
        (switch / f"asked{node}").touch()
        until = time.monotonic() + HOLD
        while (switch / "hold").exists() and time.monotonic() < until:
            time.sleep(0.005)
        if (switch / "crash").exists():
            raise Crash
        if (switch / "error").exists():
            raise ValueError("a mistake in a handler")
        bring_up(tree, node)

    monkeypatch.setattr(copyup, "bring_up", patched)
    return switch


def changes(root: Path) -> list[Callable[[], object]]:
    """Each needs the slow path: its file's directories are not in the upper."""
    return [
        lambda: os.chmod(root / "d0/sub/file", 0o600),
        lambda: os.truncate(root / "d1/sub/file", 2),
        lambda: os.close(os.open(root / "d2/sub/file", os.O_WRONLY | os.O_TRUNC)),
        lambda: os.chown(root / "d3/sub/file", 1, 1),
        lambda: os.rename(root / "d4/sub/file", root / "d4/sub/moved"),
        lambda: os.setxattr(root / "d5/sub/file", "user.note", b"note"),
    ]


@pytest.mark.parametrize("how", ["crash", "error"])
def test_what_waited_gets_eio_and_work_goes_on(place: Path, switch: Path, how: str) -> None:
    log = place / "log"
    union = Union(place, log_file=str(log))
    assert union.upper is not None
    build(union.lower, {f"d{number}/sub/file": "content" for number in range(WAITING)})
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
            for number in range(WAITING):
                assert (root / f"d{number}/sub/file").read_text() == "content"
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
    found = branch(union.upper)
    assert found["d1/sub/file"] == "file co"
    assert found["d2/sub/file"] == "file"
    assert found["d4/sub/moved"] == "file content"
