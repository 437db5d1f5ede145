"""What holds for every test: nothing is left behind, nothing unexpected is logged.

All temporary directories of a run are below one directory of its own (TMPDIR), which every
user can reach.  What a test leaves running or mounted is recognised by that path, so that runs
side by side do not see each other.  As root a run has a mount namespace of its own (namespace.py).
"""

import logging
import os
import pwd
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import unionfs

pytest.register_assert_rewrite("tests.mounted.harness", "tests.mounted.trees", "tests.work.twins")

from tests import namespace, seeds  # noqa: E402
from tests.leftovers import clean_up, keep, leftovers, remove  # noqa: E402
from tests.mounted.commands import COMMANDS  # noqa: E402
from tests.mounted.harness import watchdog  # noqa: E402
from tests.mounts import mounts_below  # noqa: E402
from tests.seeds import chance  # noqa: E402
from tests.times import Times  # noqa: E402

__all__ = ["chance"]

_base = pytest.StashKey[Path]()

#: Most of it is never written. In bytes.
_FILESYSTEM_SIZE = 24 << 30


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", type=Path, metavar="FILE", help="store how long each test took")
    parser.addoption(
        "--long", action="store_true", help="only the searches that other runs leave out"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give the run its seed, and its directory on a filesystem that can be a branch of any kind."""
    seeds.configure(config)
    config.pluginmanager.register(Times(config.getoption("--times")))
    entered = namespace.enter()
    parent = os.environ.get("UNIONFS_TEST_DIR") or tempfile.gettempdir()
    if _filesystem(parent) in ("tmpfs", "overlay"):
        parent = "/var/tmp"
    base = Path(tempfile.mkdtemp(prefix="unionfs-", dir=parent))
    if os.geteuid() == 0:
        _fill_with_a_filesystem(base)
    base.chmod(0o1777)
    os.environ["TMPDIR"] = tempfile.tempdir = str(base)
    os.environ.pop("PYTHONUNBUFFERED", None)  # it hides what a program forgets to flush
    config.stash[_base] = base
    keep(base, own_namespace=entered)


def pytest_unconfigure(config: pytest.Config) -> None:
    base = config.stash.get(_base, None)
    if base is not None:
        remove(base)


def pytest_report_header(config: pytest.Config) -> str:
    return seeds.how_to_repeat(config)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        terminalreporter.line(seeds.how_to_repeat(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the searches (`long`), or all else."""
    wanted = config.getoption("--long")
    left = [item for item in items if (item.get_closest_marker("long") is None) is wanted]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [
            item for item in items if (item.get_closest_marker("long") is None) is not wanted
        ]


def _fill_with_a_filesystem(directory: Path) -> None:
    """Mount a new ext4 there that waits for no disk; where none can be, change nothing.

    Making files where many were just removed takes ext4 ten times as long (recently_deleted() in
    fs/ext4/ialloc.c), and that is what runs of these tests do to each other.
    """
    image = directory.with_suffix(".img")
    try:
        with image.open("wb") as file:
            file.truncate(_FILESYSTEM_SIZE)
        for command in (
            ("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard,lazy_journal_init=1", image),
            ("mount", "-o", "loop,barrier=0,noinit_itable", image, directory),
        ):
            subprocess.run(command, check=True, capture_output=True)
        (directory / "lost+found").rmdir()
    except (FileNotFoundError, subprocess.CalledProcessError):
        pass  # no mkfs, or no loop devices, as in many containers
    finally:
        image.unlink()


def _filesystem(path: str) -> str:
    command = ["stat", "--file-system", "--format=%T", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# --- nothing is left behind ---


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No mount, daemon or loop device that was not there before outlives the test.

    What fixtures of a wider scope hold was there before.
    """
    base = request.config.stash[_base]
    before = leftovers(base)
    yield
    # A daemon ends a moment after its mount is gone; that is not the test's fault.
    deadline = time.monotonic() + 15
    while (left := leftovers(base) - before) and time.monotonic() < deadline:
        if not any(item.startswith("process") for item in left):
            break
        time.sleep(0.02)
    if left:
        for mount in reversed(mounts_below(base)):
            if f"mount {mount.point}" in left:
                clean_up(mount.point)
        pytest.fail(f"left behind: {', '.join(sorted(left))}")


# --- nothing unexpected is logged ---


class LogWatch(logging.Handler):
    """Collects what the package logs at level WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []
        self.expected: list[re.Pattern[str]] = []
        self.allowed: list[re.Pattern[str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    def expect(self, pattern: str) -> None:
        """Records that contain this pattern are what the test wants; one at least must come."""
        self.expected.append(re.compile(pattern))

    def allow(self, pattern: str) -> None:
        """The same, but none need come."""
        self.allowed.append(re.compile(pattern))

    def problems(self) -> list[str]:
        unexpected = [
            record
            for record in self.records
            if not any(pattern.search(record) for pattern in self.expected + self.allowed)
        ]
        missing = [
            f"no record matches {pattern.pattern!r}"
            for pattern in self.expected
            if not any(pattern.search(record) for record in self.records)
        ]
        return unexpected + missing


@pytest.fixture(autouse=True)
def log_watch() -> Iterator[LogWatch]:
    """A test fails on a log record it did not announce with `log_watch.expect(pattern)`."""
    watch = LogWatch()
    logger = logging.getLogger("unionfs")
    logger.addHandler(watch)
    yield watch
    logger.removeHandler(watch)
    if problems := watch.problems():
        pytest.fail("log: " + "; ".join(problems))


# --- other users ---


#: What tools/sanitize.py surrounds every process with, its users' too.
SANITIZERS = {"LD_PRELOAD", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONMALLOC"}
SANITIZERS |= {"ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"}


class OrdinaryUser:
    """Runs commands as somebody without any privilege, who may use /dev/fuse."""

    def __init__(self, uid: int, gid: int, home: Path) -> None:
        self.uid = uid
        self.gid = gid
        self.home = home  #: a directory of the user's own, the working directory of commands

    def run(
        self,
        *command: str | os.PathLike[str],
        environment: Mapping[str, str] | None = None,
        check: bool = False,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and return what it printed."""
        mine = os.geteuid() == self.uid
        return subprocess.run(
            command,
            user=None if mine else self.uid,
            group=None if mine else self.gid,
            extra_groups=None if mine else [],
            cwd=self.home,
            env={
                "HOME": str(self.home),
                "PATH": f"{COMMANDS}:/usr/local/bin:/usr/bin:/bin",
                "TMPDIR": str(self.home),
                "LC_ALL": "C.UTF-8",
                **{key: os.environ[key] for key in SANITIZERS & os.environ.keys()},
                **(environment or {}),
            },
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
        )

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python code that may import the package."""
        package = str(Path(unionfs.__file__).parent.parent)
        return self.run(sys.executable, "-c", code, *arguments, environment={"PYTHONPATH": package})


@pytest.fixture
def ordinary_user() -> Iterator[OrdinaryUser]:
    """Somebody without privileges: this user, or nobody when root runs the tests."""
    if os.geteuid() == 0:
        entry = pwd.getpwnam("nobody")
        uid, gid = entry.pw_uid, entry.pw_gid
    else:
        uid, gid = os.geteuid(), os.getegid()
    home = Path(tempfile.mkdtemp(prefix="home-"))
    os.chown(home, uid, gid)
    user = OrdinaryUser(uid, gid, home)
    try:
        try:
            reachable = user.python("import json, unionfs.errors").returncode == 0
        except PermissionError:
            reachable = False
        if not reachable:
            pytest.skip(
                f"other users may not enter the directory of {sys.executable} or of this file"
            )
        yield user
    finally:
        subprocess.run(["rm", "-rf", home], check=True)


# --- directories to mount ---


class Directories:
    """Empty directories for one union, below `base`, reachable for every user."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.lower, self.lower2, self.upper, self.work, self.mountpoint = (
            base / name for name in ("lower", "lower2", "upper", "work", "mnt")
        )
        for path in (self.lower, self.lower2, self.upper, self.work, self.mountpoint):
            path.mkdir()

    def give_to(self, user: OrdinaryUser) -> None:
        """Let an ordinary user own all of them, with their content."""
        subprocess.run(["chown", "-hR", f"{user.uid}:{user.gid}", self.base], check=True)


@pytest.fixture
def branches() -> Iterator[Directories]:
    """Directories for one union; they and what is mounted there are gone after the test.

    What hangs on a mount there is ended after 60 seconds by aborting its connection.
    """
    base = Path(tempfile.mkdtemp(prefix="branches-"))
    base.chmod(0o755)
    try:
        with watchdog(base, 60):
            yield Directories(base)
    finally:
        remove(base)


@pytest.fixture
def mounted(branches: Directories) -> Iterator[Callable[..., Path]]:
    """Mounts `branches` (two lowers under an upper) and unmounts them after the test.

    Keyword arguments are those of `unionfs.mount`.
    """
    import unionfs

    sessions = []

    def mount(**options: object) -> Path:
        lowers = [branches.lower, branches.lower2]
        session = unionfs.mount(lowers, branches.upper, branches.mountpoint, **options)
        session.__enter__()
        sessions.append(session)
        return branches.mountpoint

    try:
        yield mount
    finally:
        for session in reversed(sessions):
            session.__exit__(None, None, None)
