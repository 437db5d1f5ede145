"""Record locks, open file description locks, flock(2) and leases."""

import fcntl
import os
import signal
import struct
from errno import EACCES, EAGAIN, EBADF, EDEADLK, EINVAL, EWOULDBLOCK

import pytest

from tests.posix import process
from tests.posix.asserts import fails, opened, raised, write
from tests.posix.places import USER, Place
from tests.posix.trees import File, given

TREE = {"file": File(content=b"0123456789"), "other": File(), "mine": File(uid=None, mode=0o666)}
RW = os.O_RDWR
NB = fcntl.LOCK_NB

#: struct flock of asm-generic/fcntl.h on 64 bits.
_FLOCK = "hhqqi4x"


def _set(fd: int, command: int, kind: int, start: int = 0, length: int = 0) -> None:
    fcntl.fcntl(fd, command, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))


def _get(fd: int, command: int, kind: int, start: int = 0, length: int = 0) -> tuple[int, ...]:
    asked = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
    return struct.unpack(_FLOCK, fcntl.fcntl(fd, command, asked))


def _elsewhere(path: str, command: int, kind: int, start: int = 0, length: int = 0) -> int:
    """The errno that another process meets when it tries to lock."""

    def act() -> int:
        fd = os.open(path, RW)
        return raised(_set, fd, command, kind, start, length)

    return int(process.call(act))


RECORD = pytest.mark.parametrize(
    ("held", "wanted", "errno"),
    [
        (fcntl.F_RDLCK, fcntl.F_RDLCK, 0),
        (fcntl.F_RDLCK, fcntl.F_WRLCK, EAGAIN),
        (fcntl.F_WRLCK, fcntl.F_RDLCK, EAGAIN),
        (fcntl.F_WRLCK, fcntl.F_WRLCK, EAGAIN),
    ],
)


@RECORD
@given(TREE)
def test_record_lock(place: Place, held: int, wanted: int, errno: int) -> None:
    with opened(place / "file", RW) as fd:
        _set(fd, fcntl.F_SETLK, held)
        assert _elsewhere(place / "file", fcntl.F_SETLK, wanted) == errno
        _set(fd, fcntl.F_SETLK, fcntl.F_UNLCK)
        assert _elsewhere(place / "file", fcntl.F_SETLK, wanted) == 0


@given(TREE)
def test_ranges(place: Place) -> None:
    with opened(place / "file", RW) as fd:
        _set(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 10, 10)
        for start, length, errno in ((0, 10, 0), (20, 0, 0), (19, 1, EAGAIN), (5, 6, EAGAIN)):
            assert _elsewhere(place / "file", fcntl.F_SETLK, fcntl.F_WRLCK, start, length) == errno
        _set(fd, fcntl.F_SETLK, fcntl.F_UNLCK, 12, 2)
        assert _elsewhere(place / "file", fcntl.F_SETLK, fcntl.F_WRLCK, 12, 2) == 0


@given(TREE)
def test_who_holds_it(place: Place) -> None:
    with opened(place / "file", RW) as fd:
        _set(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 3, 4)
        holder = os.getpid()

        def act() -> tuple[int, ...]:
            with opened(place / "file", RW) as other:
                return _get(other, fcntl.F_GETLK, fcntl.F_WRLCK)

        assert process.call(act) == (fcntl.F_WRLCK, os.SEEK_SET, 3, 4, holder)


@given(TREE)
def test_closing_any_descriptor_drops_record_locks(place: Place) -> None:
    """POSIX's trap, which databases rely on knowing."""
    with opened(place / "file", RW) as fd:
        _set(fd, fcntl.F_SETLK, fcntl.F_WRLCK)
        os.close(os.open(place / "file", os.O_RDONLY))
        assert _elsewhere(place / "file", fcntl.F_SETLK, fcntl.F_WRLCK) == 0


@given(TREE)
def test_record_locks_need_the_mode(place: Place) -> None:
    with opened(place / "file") as fd, fails(EBADF):
        _set(fd, fcntl.F_SETLK, fcntl.F_WRLCK)
    with opened(place / "file", os.O_WRONLY) as fd, fails(EBADF):
        _set(fd, fcntl.F_SETLK, fcntl.F_RDLCK)


@given(TREE)
def test_waiting_for_a_record_lock(place: Place) -> None:
    ready, told = os.pipe()
    with opened(place / "file", RW) as fd:
        _set(fd, fcntl.F_SETLK, fcntl.F_WRLCK)
        pid = os.fork()
        if pid == 0:
            other = os.open(place / "file", RW)
            os.write(told, b"w")
            _set(other, fcntl.F_SETLKW, fcntl.F_WRLCK)
            os.pwrite(other, b"got it", 0)
            os._exit(0)
        os.read(ready, 1)
        assert os.pread(fd, 6, 0) == b"012345"
        _set(fd, fcntl.F_SETLK, fcntl.F_UNLCK)
        assert os.waitpid(pid, 0)[1] == 0
        assert os.pread(fd, 6, 0) == b"got it"


@given(TREE)
def test_waiting_can_be_interrupted(place: Place) -> None:
    class Alarm(Exception):
        pass

    def alarm(*_: object) -> None:
        raise Alarm

    with opened(place / "file", RW) as fd:
        _set(fd, fcntl.F_SETLK, fcntl.F_WRLCK)

        def act() -> str:
            signal.signal(signal.SIGALRM, alarm)
            other = os.open(place / "file", RW)
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            try:
                _set(other, fcntl.F_SETLKW, fcntl.F_WRLCK)
            except Alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)
                return "interrupted"
            return "locked"

        assert process.call(act) == "interrupted"


@given(TREE)
def test_dead_lock_is_found(place: Place) -> None:
    ready, told = os.pipe()
    with opened(place / "file", RW) as one, opened(place / "other", RW) as two:
        _set(one, fcntl.F_SETLK, fcntl.F_WRLCK)
        pid = os.fork()
        if pid == 0:
            other = os.open(place / "other", RW)
            _set(other, fcntl.F_SETLK, fcntl.F_WRLCK)
            os.write(told, b"w")
            code = raised(_set, os.open(place / "file", RW), fcntl.F_SETLKW, fcntl.F_WRLCK)
            os._exit(code)
        os.read(ready, 1)
        seen = raised(_set, two, fcntl.F_SETLKW, fcntl.F_WRLCK)
        if seen == 0:  # the child was refused and let its lock go
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == EDEADLK
        else:
            assert seen == EDEADLK
            _set(one, fcntl.F_SETLK, fcntl.F_UNLCK)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@RECORD
@given(TREE)
def test_description_lock(place: Place, held: int, wanted: int, errno: int) -> None:
    with opened(place / "file", RW) as one, opened(place / "file", RW) as two:
        _set(one, fcntl.F_OFD_SETLK, held)
        assert raised(_set, two, fcntl.F_OFD_SETLK, wanted) == errno
        assert _elsewhere(place / "file", fcntl.F_OFD_SETLK, wanted) == errno
        os.close(os.open(place / "file", os.O_RDONLY))
        assert _elsewhere(place / "file", fcntl.F_OFD_SETLK, wanted) == errno


@given(TREE)
def test_description_lock_ends_with_its_last_descriptor(place: Place) -> None:
    fd = os.open(place / "file", RW)
    copy = os.dup(fd)
    _set(fd, fcntl.F_OFD_SETLK, fcntl.F_WRLCK)
    os.close(fd)
    assert _elsewhere(place / "file", fcntl.F_OFD_SETLK, fcntl.F_WRLCK) == EAGAIN
    os.close(copy)
    assert _elsewhere(place / "file", fcntl.F_OFD_SETLK, fcntl.F_WRLCK) == 0


@given(TREE)
def test_record_and_description_locks_conflict(place: Place) -> None:
    with opened(place / "file", RW) as fd:
        _set(fd, fcntl.F_OFD_SETLK, fcntl.F_WRLCK)
        assert _elsewhere(place / "file", fcntl.F_SETLK, fcntl.F_WRLCK) == EAGAIN


@pytest.mark.parametrize(
    ("held", "wanted", "errno"),
    [
        (fcntl.LOCK_SH, fcntl.LOCK_SH, 0),
        (fcntl.LOCK_SH, fcntl.LOCK_EX, EWOULDBLOCK),
        (fcntl.LOCK_EX, fcntl.LOCK_SH, EWOULDBLOCK),
        (fcntl.LOCK_EX, fcntl.LOCK_EX, EWOULDBLOCK),
    ],
)
@given(TREE)
def test_flock(place: Place, held: int, wanted: int, errno: int) -> None:
    with opened(place / "file") as one, opened(place / "file") as two:
        fcntl.flock(one, held)
        assert raised(fcntl.flock, two, wanted | NB) == errno
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, wanted | NB)


@given(TREE)
def test_flock_of_a_directory(place: Place) -> None:
    with opened(place.path) as one, opened(place.path) as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with fails(EWOULDBLOCK):
            fcntl.flock(two, fcntl.LOCK_EX | NB)


@given(TREE)
def test_flock_is_inherited(place: Place) -> None:
    with opened(place / "file") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        pid = os.fork()
        if pid == 0:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os._exit(0)
        os.waitpid(pid, 0)
        with opened(place / "file") as other:
            fcntl.flock(other, fcntl.LOCK_EX | NB)


@given(TREE)
def test_flock_converts(place: Place) -> None:
    with opened(place / "file") as one, opened(place / "file") as two:
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(one, fcntl.LOCK_EX | NB)
        assert raised(fcntl.flock, two, fcntl.LOCK_SH | NB) == EWOULDBLOCK
        fcntl.flock(one, fcntl.LOCK_SH | NB)
        fcntl.flock(two, fcntl.LOCK_SH | NB)


@given(TREE)
def test_flock_and_record_locks_do_not_meet(place: Place) -> None:
    with opened(place / "file", RW) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert _elsewhere(place / "file", fcntl.F_SETLK, fcntl.F_WRLCK) == 0


@given(TREE)
def test_lock_survives_copy_up(place: Place) -> None:
    """The lock belongs to the file, whichever branch it lies in."""
    with opened(place / "file") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        _set(fd, fcntl.F_SETLK, fcntl.F_RDLCK)
        write_fd = os.dup(fd)
        os.chmod(place / "file", 0o600)
        os.truncate(place / "file", 3)

        def act() -> tuple[int, int]:
            other = os.open(place / "file", RW)
            return (
                raised(fcntl.flock, other, fcntl.LOCK_EX | NB),
                raised(_set, other, fcntl.F_SETLK, fcntl.F_WRLCK),
            )

        assert process.call(act) == (EWOULDBLOCK, EAGAIN)
        os.close(write_fd)


@given(TREE)
def test_lock_goes_with_rename_and_links(place: Place) -> None:
    with opened(place / "file") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.rename(place / "file", place / "moved")
        os.link(place / "moved", place / "twin")
        with opened(place / "twin") as other, fails(EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_EX | NB)
        write(place / "file", b"")
        with opened(place / "file") as other:
            fcntl.flock(other, fcntl.LOCK_EX | NB)


@pytest.mark.parametrize("kind", [fcntl.F_RDLCK, fcntl.F_WRLCK])
@given(TREE)
def test_lease(place: Place, kind: int) -> None:
    with opened(place / "file") as fd:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == kind
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_UNLCK


@given(TREE)
def test_lease_is_refused_while_others_write(place: Place) -> None:
    with opened(place / "file") as fd, opened(place / "file", os.O_WRONLY):
        for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):
            with fails(EAGAIN):
                fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)


@given(TREE)
def test_lease_is_broken_by_an_opener(place: Place) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    with opened(place / "file") as fd:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        with fails(EWOULDBLOCK):
            os.open(place / "file", os.O_WRONLY | os.O_NONBLOCK)
        assert signal.sigtimedwait({signal.SIGIO}, 10) is not None
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(os.open(place / "file", os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.needs("users")
@given(TREE)
def test_lease_is_for_the_owner(place: Place) -> None:
    os.chown(place / "mine", USER, -1)
    for name, errno in (("mine", 0), ("file", EACCES)):

        def act(path: str = place / name) -> int:
            fd = os.open(path, os.O_RDONLY)
            return raised(fcntl.fcntl, fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)

        assert place.as_user(act) == errno


@given(TREE)
def test_lease_of_a_directory(place: Place) -> None:
    with opened(place.path) as fd, fails(EINVAL):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
