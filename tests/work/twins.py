"""The same work on a plain directory and on a union, and what both gave."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.mounted.harness import Union
from tests.mounted.trees import assert_same, snapshot

PLACEMENTS = ("lower", "merged", "upper")

# Nothing that a test runs may depend on who runs it, when, or with which settings.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "SOURCE_DATE_EPOCH": "1700000000",
    "TZ": "UTC",
}


def run(
    *command: str | Path,
    cwd: Path,
    user: int | None = None,
    environment: dict[str, str] | None = None,
    accept: Iterable[int] = (0,),
) -> str:
    """Run a command; its output, both streams. Fails showing that unless it exits as accepted."""
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        env=ENVIRONMENT | (environment or {}),
        umask=0o022,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
    )
    if result.returncode not in accept:
        words = " ".join(map(str, command))
        pytest.fail(f"{words}\nexited with {result.returncode}:\n{result.stdout}", pytrace=True)
    return result.stdout


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where a program that the test runs is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def spread(source: Path, branches: list[Path]) -> None:
    """Copy a tree into branches: directories into all, every file into one of them in turn."""
    for branch in branches:
        subprocess.run(["cp", "-a", f"{source}/.", str(branch)], check=True)
    if len(branches) == 1:
        return
    keeper: dict[int, int] = {}  # by inode, so that the names of one file stay together
    for base, directories, files in os.walk(source):
        for name in sorted(directories + files):
            path = Path(base, name)
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                continue
            kept = keeper.setdefault(status.st_ino, len(keeper) % len(branches))
            for number, branch in enumerate(branches):
                if number != kept:
                    (branch / path.relative_to(source)).unlink()
    # Taking names away changed the directories' times.
    for base, directories, _ in os.walk(source):
        for path in (Path(base, name) for name in [*directories, "."]):
            if not path.is_symlink():
                for branch in branches:
                    shutil.copystat(path, branch / path.relative_to(source))


class Twins:
    """The same work on a plain directory and on a union, at the same path."""

    def __init__(self, place: Path, placement: str) -> None:
        self.place = place
        self.union = Union(place, lowers=3)
        self.placement = placement

    def work(
        self,
        make: Callable[[Path], object],
        job: Callable[[Path], object],
        *,
        mtimes: bool = False,
        leave_out: Iterable[str] = (),
    ) -> None:
        """Do `job` on what `make` made, on both; fail unless it returns the same and leaves the
        same, also after a remount.

        Both take the directory to work in, which is the mount point: before it is mounted on for
        the plain directory.
        """
        root, plain = self.union.mountpoint, self.place / "plain"
        make(root)
        self._fill(root)
        wanted_result = job(root)
        wanted = snapshot(root, mtimes=mtimes, leave_out=leave_out)
        root.rename(plain)
        root.mkdir()
        with self.union:
            assert job(root) == wanted_result
            assert_same(wanted, snapshot(root, mtimes=mtimes, leave_out=leave_out), "mounted")
            self.union.remount()
            assert_same(wanted, snapshot(root, mtimes=mtimes, leave_out=leave_out), "remounted")

    def _fill(self, source: Path) -> None:
        upper = self.union.upper
        assert upper is not None
        spread(
            source,
            {
                "lower": [self.union.lowers[1]],
                "merged": [upper, self.union.lowers[0], self.union.lowers[2]],
                "upper": [upper],
            }[self.placement],
        )
        # The root of a union has the upper's attributes.
        shutil.copystat(source, upper)
        os.chown(upper, source.stat().st_uid, source.stat().st_gid)
