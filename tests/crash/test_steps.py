"""SIGKILL before each system call of an operation: the tree is as before or as after it.

strace(1) first lists the calls with which the daemon performs an operation, then ends the daemon
just before each of them in turn. What the next mount shows must be one of the two states.
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.mounted.harness import Union, gone, only_unionfs, wait_until
from tests.mounted.tracing import needs_strace, traced
from tests.mounted.trees import Entry, branch, build, differences, snapshot

pytestmark = [only_unionfs, needs_strace, pytest.mark.timeout(240)]

#: Every call that changes a directory tree, and what answers the kernel.
CALLS = (
    "openat,openat2,mkdirat,mknodat,symlinkat,linkat,unlinkat,renameat,renameat2,"
    "pwrite64,pwritev,copy_file_range,ftruncate,fallocate,fsync,fdatasync,sync_file_range,"
    "fchmod,fchmodat,fchmodat2,fchown,fchownat,utimensat,"
    "setxattr,lsetxattr,fsetxattr,setxattrat,removexattr,lremovexattr,fremovexattr,removexattrat,"
    "write,writev,splice"
)

LINE = re.compile(r"^(\d+) +(\w+)\(")


def lower_tree(root: Path) -> None:
    build(
        root,
        {
            "file": "lower" * 1000,
            "large": b"large" * 200_000,
            "other": "other",
            "gone": "gone",
            "dir/a": "a",
            "dir/sub/b": "b",
            "dir/sub/large": b"large" * 200_000,
            "merged/low": None,
            "deserted": None,
        },
    )
    (root / "link").symlink_to("file")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "file", "user.note", b"note")
    (root / "file").chmod(0o4755)
    os.chown(root / "large", 12, 34)


def upper_tree(root: Path) -> None:
    """What must be true in the upper before the operation, made through the mount."""
    (root / "gone").unlink()
    (root / "merged/low").rmdir()
    (root / "merged/up").write_text("up")
    (root / "merged/up").unlink()
    (root / "new").write_text("new")
    (root / "newdir").mkdir()


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"+")


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "copy up a small file": lambda root: (root / "file").chmod(0o600),
    "copy up a large file": lambda root: (root / "large").chmod(0o600),
    "copy up with parents": lambda root: os.utime(root / "dir/sub/b", (1, 1)),
    "copy up a large file with parents": lambda root: os.truncate(root / "dir/sub/large", 7),
    "copy up a directory": lambda root: (root / "dir").chmod(0o700),
    "copy up a link": lambda root: os.chown(root / "link", 1, 1, follow_symlinks=False),
    "copy up a fifo": lambda root: (root / "fifo").chmod(0o600),
    "set an attribute": lambda root: os.setxattr(root / "file", "user.more", b"more"),
    "remove a lower file": lambda root: (root / "file").unlink(),
    "remove an upper file": lambda root: (root / "new").unlink(),
    "create": lambda root: os.mknod(root / "dir/created"),
    "open to create": lambda root: (root / "created").touch(exist_ok=False),
    "open to create over a whiteout": lambda root: (root / "gone").touch(exist_ok=False),
    "create over a whiteout": lambda root: os.mknod(root / "gone"),
    "mkdir over a whiteout": lambda root: (root / "gone").mkdir(),
    "symlink over a whiteout": lambda root: (root / "gone").symlink_to("file"),
    "mknod over a whiteout": lambda root: os.mkfifo(root / "gone"),
    "link over a whiteout": lambda root: os.link(root / "new", root / "gone"),
    "rename a lower file": lambda root: (root / "file").rename(root / "moved"),
    "rename an upper file": lambda root: (root / "new").rename(root / "moved"),
    "rename over a lower file": lambda root: (root / "new").rename(root / "other"),
    "rename a lower file over another": lambda root: (root / "file").rename(root / "other"),
    "rename over a whiteout": lambda root: (root / "file").rename(root / "gone"),
    "rename a directory over a whiteout": lambda root: (root / "newdir").rename(root / "gone"),
    "rename over a lower directory": lambda root: (root / "newdir").rename(root / "deserted"),
    "rename over a merged directory": lambda root: (root / "newdir").rename(root / "merged"),
    "rmdir a lower directory": lambda root: (root / "deserted").rmdir(),
    "rmdir a merged directory": lambda root: (root / "merged").rmdir(),
    "rmdir an upper directory": lambda root: (root / "newdir").rmdir(),
}  # fmt: skip


def started(place: Path, whiteout: str) -> Union:
    """A fresh union in the state before the operation, with warm caches and no scratch left."""
    union = Union(place, whiteout=whiteout)
    lower_tree(union.lower)
    with union:
        upper_tree(union.mountpoint)
    union.mount()
    # Look-ups done beforehand, the operation alone is what the trace shows.
    snapshot(union.mountpoint)
    return union


def calls_of(
    place: Path, whiteout: str, operation: Callable[[Path], object]
) -> list[tuple[str, int]]:
    """(system call, how often in its thread so far) for each step of an operation."""
    union = started(place, whiteout)
    log = place / "trace"
    with union, traced(union.pid, log, "-e", f"trace={CALLS}"):
        operation(union.mountpoint)
    counts: Counter[tuple[str, str]] = Counter()
    steps = []
    for line in log.read_text().splitlines():
        if match := LINE.match(line):
            counts[match.groups()] += 1
            steps.append((match.group(2), counts[match.groups()]))
    return steps


def before_and_after(
    place: Path, whiteout: str, operation: Callable[[Path], object]
) -> tuple[dict[str, Entry], dict[str, Entry]]:
    union = started(place, whiteout)
    with union:
        before = snapshot(union.mountpoint)
        operation(union.mountpoint)
        union.remount()
        return before, snapshot(union.mountpoint)


@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_before_each_call(place: Path, whiteout: str, name: str) -> None:
    operation = OPERATIONS[name]
    before, after = before_and_after(place / "reference", whiteout, operation)
    assert differences(before, after), "the operation changes something"
    steps = calls_of(place / "calls", whiteout, operation)
    assert steps
    for number, (call, count) in enumerate(dict.fromkeys(steps)):
        union = started(place / f"kill{number}", whiteout)
        try:
            injection = f"inject={call}:signal=KILL:when={count}"
            with traced(union.pid, place / "killed", "-e", f"trace={CALLS}", "-e", injection):
                try:
                    operation(union.mountpoint)
                except OSError:
                    pass
                else:
                    # Another thread took the request, or fewer calls were needed than before.
                    pytest.fail(f"{call} number {count} was not reached")
                wait_until(partial(gone, union.pid), "the daemon is killed")
            union.clear_dead()
            union.mount()
            found = snapshot(union.mountpoint)
            if differences(before, found) and differences(after, found):
                pytest.fail(
                    f"killed before {call} number {count} of {steps}:\nagainst the state before:\n"
                    + "\n".join(differences(before, found))
                    + "\nagainst the state after:\n"
                    + "\n".join(differences(after, found)),
                    pytrace=False,
                )
            # What the crash left does not stand in the way of doing it again.
            if differences(after, found):
                operation(union.mountpoint)
                assert not differences(after, snapshot(union.mountpoint))
        finally:
            union.unmount()
        assert union.upper is not None
        assert not [path for path in branch(union.upper) if ".wh..wh.work" in path]
