"""The life of a mount, from Python: readiness, errors, signals, and what is left behind."""

import ast
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import unionfs
from tests.conftest import Directories, LogWatch, OrdinaryUser
from tests.mounted.harness import status
from tests.wire.channel import fails
from unionfs import _mount, copyup, daemon, daemons, kernel, session, uppers
from unionfs._tree import Tree
from unionfs.branches import BranchStack
from unionfs.errors import (
    DeviceMissing,
    DeviceRefused,
    MountFailed,
    NotAMount,
    PathUnusable,
    StartFailed,
    UnionfsError,
    UpperBusy,
    UsageError,
)
from unionfs.options import parse
from unionfs.session import Mount, Session

pytestmark = pytest.mark.timeout(60)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mount(2) is root's")


def device(path: Path) -> int:
    return path.stat().st_dev


def union(branches: Directories, **options: object) -> Mount:
    return unionfs.mount(
        [branches.lower, branches.lower2], branches.upper, branches.mountpoint, **options
    )


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@root_only
def test_a_mount_and_its_end(branches: Directories) -> None:
    (branches.lower / "file").write_text("lower")
    mount = union(branches)
    with pytest.raises(ValueError, match="not mounted"):
        mount.pid  # noqa: B018
    with mount:
        assert mount.pid != os.getpid()
        assert device(branches.mountpoint) != device(branches.base)
        (branches.mountpoint / "file").write_text("changed")
        with pytest.raises(ValueError, match="mounted already"):
            mount.start()
        pid = mount.pid
    assert gone(pid)
    assert device(branches.mountpoint) == device(branches.base)
    assert (branches.upper / "file").read_text() == "changed"
    assert os.listdir(branches.upper) == ["file"]  # the work directory has gone too
    mount.stop()  # nothing happens
    with mount:  # and again
        assert (branches.mountpoint / "file").read_text() == "changed"


@root_only
def test_several_mounts_of_one_program(branches: Directories, tmp_path: Path) -> None:
    """Each with a slow path of its own."""
    mounts = []
    for number in range(3):
        base = tmp_path / str(number)
        for name in ("upper", "mnt"):
            (base / name).mkdir(parents=True)
        mounts.append(unionfs.mount([branches.lower], base / "upper", base / "mnt"))
    (branches.lower / "a/b").mkdir(parents=True)
    (branches.lower / "a/b/large").write_bytes(bytes(3 << 20))
    try:
        for mount in mounts:
            mount.start()
        for number in range(3):
            with open(tmp_path / f"{number}/mnt/a/b/large", "r+b") as file:
                file.write(b"%d" % number)
        mounts[1].stop()
        for number in (0, 2):
            assert (tmp_path / f"{number}/mnt/a/b/large").read_bytes()[0:1] == b"%d" % number
    finally:
        for mount in mounts:
            mount.stop()
    for number in range(3):
        assert (tmp_path / f"{number}/upper/a/b/large").read_bytes()[:2] == b"%d\0" % number


@root_only
def test_read_only(branches: Directories) -> None:
    (branches.lower / "file").write_text("lower")
    with unionfs.mount([branches.lower], None, branches.mountpoint):
        assert (branches.mountpoint / "file").read_text() == "lower"
        with fails(errno.EROFS):
            (branches.mountpoint / "new").touch()


@root_only
def test_what_is_open_at_the_end_loses_its_connection(branches: Directories) -> None:
    """But not what was written through it, nor through a mapping."""
    import mmap

    with union(branches) as mount:
        file = os.open(branches.mountpoint / "file", os.O_RDWR | os.O_CREAT)
        os.write(file, b"written" + bytes(8192))
        mapping = mmap.mmap(file, 4096)
        mapping[4000:4006] = b"mapped"
        pid = mount.pid
    assert gone(pid)
    with fails(errno.ENOTCONN):
        os.write(file, b"more")
    with suppress(OSError):  # the descriptor is closed all the same
        os.close(file)
    content = (branches.upper / "file").read_bytes()
    assert (content[:7], content[4000:4006]) == (b"written", b"mapped")
    with suppress(BufferError):
        mapping.close()


@root_only
def test_a_daemon_that_was_killed(branches: Directories) -> None:
    mount = union(branches)
    mount.start()
    (branches.mountpoint / "file").write_text("x")
    os.kill(mount.pid, signal.SIGKILL)
    mount.stop()
    assert device(branches.mountpoint) == device(branches.base)
    with mount:
        assert (branches.mountpoint / "file").read_text() == "x"


@root_only
def test_unmounted_by_somebody_else(branches: Directories) -> None:
    with union(branches) as mount:
        subprocess.run(["umount", branches.mountpoint], check=True)
        pid = mount.pid
    assert gone(pid)


@root_only
def test_the_mount_ends_with_the_program(branches: Directories) -> None:
    code = """
import os, sys, unionfs
mount = unionfs.mount([sys.argv[1]], *sys.argv[2:])
mount.start()
open(f"{sys.argv[3]}/file", "w").write("x")
print(mount.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    directories = [branches.lower, branches.upper, branches.mountpoint]
    result = subprocess.run(
        [sys.executable, "-c", code, *directories], stdout=subprocess.PIPE, text=True
    )
    pid = int(result.stdout)
    while not gone(pid):
        threading.Event().wait(0.01)
    assert device(branches.mountpoint) == device(branches.base)
    assert (branches.upper / "file").read_text() == "x"


# --- errors ---


@root_only
def test_a_busy_upper_names_its_holder(
    branches: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uppers, "PATIENCE", 0.2)
    other = branches.base / "other"
    other.mkdir()
    with union(branches) as mount:
        with pytest.raises(UpperBusy) as caught:
            unionfs.mount([branches.lower], branches.upper, other).start()
        assert caught.value.details == {
            "path": str(branches.upper),
            "pid": str(mount.pid),
            "state": f"mounted at {branches.mountpoint}: unmount that first",
        }
        (branches.mountpoint / "still").touch()
    with unionfs.mount([branches.lower], branches.upper, other):
        assert (other / "still").exists()


@root_only
def test_a_work_directory_in_use(branches: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uppers, "PATIENCE", 0.2)
    for name in ("upper2", "mnt2"):
        (branches.base / name).mkdir()
    with union(branches, workdir=branches.work) as mount:
        with pytest.raises(UpperBusy) as caught:
            unionfs.mount(
                [branches.lower],
                branches.base / "upper2",
                branches.base / "mnt2",
                workdir=branches.work,
            ).start()
        assert caught.value.details["pid"] == str(mount.pid)


@root_only
def test_waiting_for_a_predecessor(branches: Directories) -> None:
    """Whoever locks the directory: a lock without a note is waited for as well."""
    fd = os.open(branches.upper, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    timer = threading.Timer(0.3, os.close, [fd])
    timer.start()
    with union(branches):
        assert timer.finished.is_set()
    timer.join()


def test_a_lock_without_a_note(branches: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uppers, "PATIENCE", 0.1)
    fd = os.open(branches.upper, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(UpperBusy, match="unknown"):
            union(branches).start()
    finally:
        os.close(fd)


@root_only
@pytest.mark.parametrize(
    ("found", "state"),
    [
        (None, "mounted at {}: unmount that first"),
        ((None, True), "unmounted from {}, which still writes out"),
        (("/else", False), "mounted at {} in another mount namespace"),
    ],
)
def test_what_is_said_of_who_holds_an_upper(
    branches: Directories,
    monkeypatch: pytest.MonkeyPatch,
    found: tuple[str | None, bool] | None,
    state: str,
) -> None:
    """What still writes out is not called mounted, and what nobody here sees not unmountable."""
    monkeypatch.setattr(uppers, "PATIENCE", 0.1)
    other = branches.base / "other"
    other.mkdir()
    with union(branches) as mount:
        daemon_found = None
        if found is not None:
            daemon_found = daemons.Daemon(mount.pid, 0, found[0], False, found[1])
        monkeypatch.setattr(daemons, "daemon_of", lambda pid: daemon_found)
        with pytest.raises(UpperBusy) as caught:
            unionfs.mount([branches.lower], branches.upper, other).start()
        assert state.format(branches.mountpoint) in str(caught.value)


def test_options_are_checked_at_once(branches: Directories) -> None:
    """In the words of the command, before anything is mounted."""
    for options, words in (
        ({"whiteout": "none"}, "option whiteout is one of aufs, overlay, not 'none'"),
        ({"xattr_permissions": 3}, "option xattr_permissions is one of 0, 1, 2, not '3'"),
        ({"timeout": -1}, "option timeout is a number of seconds"),
        ({"threads": 65}, "option threads is a number from 1 to 64, not '65'"),
        ({"io": "auto", "writeback": True}, "it excludes writeback"),
        ({"propagation": "public"}, "option propagation has no value 'public'"),
        ({"flags": ["nosiud"]}, "no flag of the kernel"),
        ({"uid_map": [(0, 0, 0)]}, "option uidmapping has a range that holds no ids"),
    ):
        with pytest.raises(UsageError, match=re.escape(words)):
            union(branches, **options)
    for options, words in (
        ({"volatil": True}, "there is no option volatil: did you mean volatile?"),
        ({"frobnicate": 1}, "there is no option frobnicate"),
        ({"volatile": "yes"}, "option volatile is True or False, not 'yes'"),
    ):
        with pytest.raises(TypeError, match=re.escape(words)):
            union(branches, **options)
    for lowers in (str(branches.lower), branches.lower, b"/"):
        with pytest.raises(TypeError, match="a sequence of paths"):
            unionfs.mount(lowers, None, branches.mountpoint)  # type: ignore[arg-type]


def test_what_a_mount_tells(branches: Directories) -> None:
    (branches.lower / "a").touch()
    mount = union(branches)
    assert repr(mount) == f"<unionfs.Mount at '{branches.mountpoint}', not mounted>"
    mount.start()
    assert repr(mount) == f"<unionfs.Mount at '{branches.mountpoint}', process {mount.pid}>"
    assert mount.status()["requests"]
    assert mount.where("a")["branch"] == 1
    assert mount.where()["branch"] == 0
    with pytest.raises(PathUnusable):
        mount.where("missing")
    mount.unmount()
    with pytest.raises(NotAMount):
        mount.status()


def test_no_device(branches: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "DEVICE", str(branches.base / "fuse"))
    with pytest.raises(DeviceMissing):
        union(branches).start()
    (branches.base / "fuse").mkdir()  # cannot be opened for writing, by root neither
    with pytest.raises(DeviceRefused):
        union(branches).start()
    assert os.listdir(branches.upper) == []


@root_only
def test_a_mount_the_kernel_refuses(branches: Directories) -> None:
    with pytest.raises(MountFailed) as caught:
        union(branches, labels=(("context", "nonsense"),)).start()
    assert caught.value.details["path"] == str(branches.mountpoint)
    assert "security module that knows context=" in str(caught.value)
    assert os.listdir(branches.upper) == []


@root_only
def test_security_labels_are_the_kernels_business(
    branches: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What mount(2) gets; whether it is taken depends on the machine."""

    def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
        raise OSError(errno.EPERM, data)  # in another process: this is how we hear of it

    monkeypatch.setattr(_mount, "mount", mount)
    labels = (("context", "system_u:object_r:t:s0:c1,c2"), ("defcontext", "a:b:c"))
    with pytest.raises(MountFailed) as caught:
        union(branches, labels=labels).start()
    asked = str(caught.value)
    assert asked.endswith(',context="system_u:object_r:t:s0:c1,c2",defcontext="a:b:c"')


@root_only
def test_a_channel_that_does_not_answer(
    branches: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount is taken away again, and the message says what happened."""

    def refuse(*_: object) -> os.stat_result:
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))

    monkeypatch.setattr(session, "_answer", refuse)
    with pytest.raises(StartFailed, match="refused"):
        union(branches).start()
    assert device(branches.mountpoint) == device(branches.base)
    assert os.listdir(branches.upper) == []


def test_a_bug_before_the_mount_answers(
    branches: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged where the daemon logs, and the caller told to look there."""
    log = branches.base / "log"

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(session, "Tree", broken)
    with pytest.raises(StartFailed, match="ended with status 1; see its log"):
        union(branches, log_file=log).start()
    text = log.read_text()
    assert "Traceback" in text
    assert "ZeroDivisionError: on purpose" in text
    assert os.listdir(branches.upper) == []


@pytest.mark.parametrize("name", [name for name, _ in sorted(vars(unionfs.errors).items())])
def test_errors_travel_from_the_daemon(name: str) -> None:
    kind = getattr(unionfs.errors, name)
    if not (isinstance(kind, type) and issubclass(kind, UnionfsError)):
        return
    fields = [text.partition("}")[0] for text in kind.message.split("{")[1:]]
    sent = kind(**{field: f"{field} \udcff of {name}" for field in fields})

    def body(report: daemon.Report, leash: int | None) -> int:
        raise sent

    with pytest.raises(kind) as caught:
        daemon.Daemon(body, [], leash=False, what="here")
    assert str(caught.value) == str(sent)
    assert caught.value.details == sent.details


# --- the daemon ---


def test_what_a_daemon_holds() -> None:
    """Its own session and directory, no terminal, no descriptor it was not given."""
    keep_read, keep_write = os.pipe()
    other = os.open("/", os.O_RDONLY)

    def body(report: daemon.Report, leash: int | None) -> int:
        held = sorted(os.listdir("/proc/self/fd"), key=int)[:-1]  # the last is the listing's own
        paths = {os.readlink(f"/proc/self/fd/{fd}") for fd in held[:3]}
        os.write(keep_write, repr((len(held), paths, os.getcwd(), os.getsid(0))).encode())
        report.ready()
        return 0

    process = daemon.Daemon(body, [keep_write], leash=True, what="here")
    os.close(keep_write)
    with open(keep_read) as file:
        number, paths, directory, session_id = ast.literal_eval(file.read())
    assert paths == {"/dev/null"}
    assert directory == "/"
    assert session_id == process.pid
    assert number <= 3 + 3  # the report, the leash, and what was to be kept
    os.close(other)
    process.end()


def test_a_daemon_that_ends_without_a_word(log_watch: LogWatch) -> None:
    with pytest.raises(StartFailed, match=r"here .* status 3"):
        daemon.Daemon(lambda report, leash: os._exit(3), [], leash=False, what="here")


def test_a_daemon_that_ends_badly_is_mentioned(log_watch: LogWatch) -> None:
    log_watch.expect("ended with status 5")

    def body(report: daemon.Report, leash: int | None) -> int:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
        report.ready()
        while True:
            signal.pause()

    daemon.Daemon(body, [], leash=False, what="here").end()


def test_signals_become_readable() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with daemon.end_signals() as fd:
        os.set_blocking(fd, False)
        with pytest.raises(BlockingIOError):
            os.read(fd, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert os.read(fd, 1) == bytes([signal.SIGTERM])
    assert signal.getsignal(signal.SIGTERM) is before


# --- a mount served by this process ---


@pytest.fixture
def here(branches: Directories) -> Iterator[Callable[..., Session]]:
    """Mounts in this process, where the test can reach the slow path."""
    sessions: list[Session] = []

    def start(*words: str) -> Session:
        options = parse(
            [*words, f"lowerdir={branches.lower},upperdir={branches.upper}"],
            [str(branches.mountpoint)],
        )
        sessions.append(Session(options, BranchStack.open(options)))
        sessions[-1].start()
        return sessions[-1]

    yield start
    for one in sessions:
        one.close()


@root_only
def test_a_slow_path_killed_in_the_middle_of_work(
    branches: Directories, here: Callable[..., Session], log_watch: LogWatch
) -> None:
    """EIO for what waited, then work goes on."""
    log_watch.expect("the slow path died")
    names = [f"file{number}" for number in range(20)]
    (branches.lower / "a/b").mkdir(parents=True)
    for name in names:
        (branches.lower / "a/b" / name).write_bytes(bytes(4 << 20))
    relay = here().relay
    assert relay is not None
    stopped = threading.Event()
    results: dict[str, str] = {}

    def append(name: str) -> None:
        try:
            with open(branches.mountpoint / "a/b" / name, "ab") as file:
                file.write(b"x")
            results[name] = "done"
        except OSError as error:
            assert error.errno == errno.EIO
            results[name] = "EIO"

    def crash() -> None:
        stopped.set()
        raise RuntimeError("on purpose")

    threads = [threading.Thread(target=append, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    while relay.token is None:
        threading.Event().wait(0.001)
    relay.token.run_sync_soon(crash)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert stopped.is_set()
    assert len(results) == len(names)
    for name in names:
        append(name)
        wanted = (4 << 20) + 1 + (results[name] == "done")
        assert (branches.mountpoint / "a/b" / name).stat().st_size >= wanted - 1
    assert set(results.values()) == {"done"}


@root_only
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_waits_for_a_copy_can_be_killed(
    branches: Directories,
    here: Callable[..., Session],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """At once, and other signals do not make its write fail."""
    copying = threading.Event()
    go_on = threading.Event()
    bring_up = copyup.bring_up

    def held(tree: Tree, node: int) -> None:
        copying.set()
        go_on.wait(30)
        bring_up(tree, node)

    (branches.lower / "a/b").mkdir(parents=True)
    names = ["a/b/killed", "a/b/patient"]
    for name in names:
        (branches.lower / name).write_bytes(b"lower".ljust(copyup.INLINE_LIMIT + 1))
    monkeypatch.setattr(copyup, "bring_up", held)
    here()
    code = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
fd = os.open(sys.argv[1], os.O_WRONLY)
os.write(1, b"ready")
os.write(1, b"%d" % os.write(fd, b"UP"))
"""
    words = [[sys.executable, "-c", code, str(branches.mountpoint / name)] for name in names]
    with (
        subprocess.Popen(words[0], stdout=subprocess.PIPE) as killed,
        subprocess.Popen(words[1], stdout=subprocess.PIPE) as patient,
    ):
        assert killed.stdout is not None
        assert patient.stdout is not None
        assert killed.stdout.read(5) == patient.stdout.read(5) == b"ready"
        assert copying.wait(30)
        try:
            while status(branches.mountpoint)["parked"] < 2:
                threading.Event().wait(0.001)
            patient.send_signal(signal.SIGUSR1)
            killed.send_signal(number)
            assert killed.wait(30) == -number
            assert killed.stdout.read() == b""
            assert status(branches.mountpoint)["parked"] == 1
        finally:
            go_on.set()
        assert patient.stdout.read() == b"2"
    assert [(branches.mountpoint / name).read_text().rstrip() for name in names] == [
        "lower",
        "UPwer",
    ]


@root_only
def test_a_session_that_is_closed_by_its_owner(
    branches: Directories, here: Callable[..., Session]
) -> None:
    mount = here("timeout=0")
    (branches.mountpoint / "file").write_text("x")
    mount.close()
    mount.close()
    assert device(branches.mountpoint) == device(branches.base)
    assert os.listdir(branches.upper) == ["file"]


# --- an ordinary user ---


def test_an_ordinary_user(branches: Directories, ordinary_user: OrdinaryUser) -> None:
    """Through fusermount3; OPEN is kept, so that rights are those of the moment of opening."""
    (branches.lower / "file").write_text("lower")
    branches.give_to(ordinary_user)
    code = """
import os, sys, unionfs
lower, upper, mountpoint = sys.argv[1:]
with unionfs.mount([lower], upper, mountpoint) as mount:
    fd = os.open(f"{mountpoint}/new", os.O_CREAT | os.O_WRONLY, 0o444)
    assert os.write(fd, b"new") == 3
    os.close(fd)
    fd = os.open(f"{mountpoint}/file", os.O_RDWR)
    os.chmod(f"{mountpoint}/file", 0)
    assert os.write(fd, b"LOW") == 3
    assert os.pread(fd, 10, 0) == b"LOWer"
    os.close(fd)
    os.chmod(f"{mountpoint}/file", 0o600)
    mounts = open("/proc/mounts", errors="surrogateescape")  # another's can have any name
    print(*(line.split()[2] for line in mounts if f" {mountpoint} " in line))
names = set(os.listdir(upper)) - {".wh..wh.work"}  # holds the st_ino of what was closed to us
print(sorted(names), open(f"{upper}/file").read())
"""
    result = ordinary_user.python(
        code, str(branches.lower), str(branches.upper), str(branches.mountpoint)
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "fuse.unionfs-mount\n['file', 'new'] LOWer\n"


# --- the package ---


def test_importing_the_package_is_cheap() -> None:
    code = """
import sys, unionfs
heavy = {"trio", "pyfuse3", "argparse", "logging", "unionfs.session", "unionfs._tree"}
print(sorted(heavy & set(sys.modules)), unionfs.__version__, unionfs.mount.__name__)
try:
    unionfs.nothing
except AttributeError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert result.stdout.splitlines() == [
        f"[] {unionfs.__version__} mount",
        "module 'unionfs' has no attribute 'nothing'",
    ]


def test_mounting_imports_nothing_that_only_the_slow_path_needs() -> None:
    code = """
import sys, unionfs.cli.mount, unionfs.session
print(sorted({"trio", "pyfuse3", "argparse", "logging", "json", "socket"} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert result.stdout == "[]\n"
