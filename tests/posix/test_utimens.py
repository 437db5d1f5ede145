"""utimensat(2), and times that files have."""

import os
import time
from errno import EACCES, EINVAL, EPERM

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, later_than, opened, raised, read, stamped, write
from tests.posix.calls import UTIME_NOW, UTIME_OMIT
from tests.posix.places import USER, Place
from tests.posix.trees import Dir, File, Symlink, given

TREE = {
    "file": File(content=b"content", time=1_000_000_000),
    "dir": Dir(children={"child": File()}, time=1_000_000_000),
    "link": Symlink(target="file"),
    "theirs": File(mode=0o666, time=1_000_000_000),
    "private": File(mode=0o600),
    "mine": File(uid=None),
}

OLD = 1_000_000_000

#: Seconds: the epoch, before it, the ends of 32 bits, the last but one of ext4's 34 bits.
STAMPS = [
    0, 1, -1, -(1 << 31) + 1, -1_000_000_000, (1 << 31) - 1, 1 << 31, 1 << 32, 15_032_385_534
]  # fmt: skip


@pytest.mark.parametrize("seconds", STAMPS)
@pytest.mark.parametrize("name", ["file", "dir"])
@given(TREE)
def test_stamp(place: Place, name: str, seconds: int) -> None:
    atime, mtime = seconds * 10**9 + 123456789, seconds * 10**9 + 987654321
    os.utime(place / name, ns=(atime, mtime))
    st = os.stat(place / name)
    assert (st.st_atime_ns, st.st_mtime_ns) == (atime, mtime)


@pytest.mark.parametrize("seconds", STAMPS)
@given({str(seconds): File(content=b"x", time=seconds) for seconds in STAMPS})
def test_given_stamp(place: Place, seconds: int) -> None:
    name = str(seconds)
    assert os.stat(place / name).st_mtime_ns == seconds * 10**9
    os.chmod(place / name, 0o600)
    assert os.stat(place / name).st_mtime_ns == seconds * 10**9
    assert os.stat(place / name).st_atime_ns == seconds * 10**9


@pytest.mark.parametrize("nanoseconds", [0, 1, 999, 999_999_999])
@given(TREE)
def test_nanoseconds(place: Place, nanoseconds: int) -> None:
    calls.utimensat(place / "file", (5, nanoseconds), (6, nanoseconds))
    st = os.stat(place / "file")
    assert st.st_atime_ns % 10**9 == st.st_mtime_ns % 10**9 == nanoseconds


@given(TREE)
def test_now(place: Place) -> None:
    before = time.time_ns()
    later_than(before)
    os.utime(place / "file")
    st = os.stat(place / "file")
    assert st.st_mtime_ns > before and st.st_atime_ns > before


@given(TREE)
def test_now_for_one(place: Place) -> None:
    before = time.time_ns()
    later_than(before)
    calls.utimensat(place / "file", (0, UTIME_NOW), (7, 8))
    st = os.stat(place / "file")
    assert st.st_atime_ns > before and st.st_mtime_ns == 7 * 10**9 + 8
    calls.utimensat(place / "file", (7, 8), (0, UTIME_NOW))
    st = os.stat(place / "file")
    assert st.st_mtime_ns > before and st.st_atime_ns == 7 * 10**9 + 8


@given(TREE)
def test_omit(place: Place) -> None:
    calls.utimensat(place / "file", (0, UTIME_OMIT), (7, 0))
    st = os.stat(place / "file")
    assert (st.st_atime, st.st_mtime) == (OLD, 7)
    calls.utimensat(place / "file", (9, 0), (0, UTIME_OMIT))
    st = os.stat(place / "file")
    assert (st.st_atime, st.st_mtime) == (9, 7)


@given(TREE)
def test_omit_both_changes_nothing(place: Place) -> None:
    with stamped({place / "file": "A"}):
        calls.utimensat(place / "file", (0, UTIME_OMIT), (0, UTIME_OMIT))


@given(TREE)
def test_stamps_ctime(place: Place) -> None:
    with stamped({place / "mine": "c?"}):
        calls.utimensat(place / "mine", (7, 0), (0, UTIME_OMIT))
    with stamped({place / "dir": "c?"}):
        calls.utimensat(place / "dir", (7, 0), (0, UTIME_OMIT))


@pytest.mark.parametrize("nanoseconds", [-1, 10**9, 1 << 40])
@given(TREE)
def test_bad_nanoseconds(place: Place, nanoseconds: int) -> None:
    with fails(EINVAL):
        calls.utimensat(place / "file", (1, nanoseconds), (1, 0))


@given(TREE)
def test_link_and_target(place: Place) -> None:
    os.utime(place / "link", (3, 4))
    assert os.stat(place / "file").st_mtime == 4
    calls.utimensat(place / "link", (5, 0), (6, 0), calls.AT_SYMLINK_NOFOLLOW)
    assert os.lstat(place / "link").st_mtime == 6
    assert os.stat(place / "file").st_mtime == 4


@given(TREE)
def test_by_descriptor(place: Place) -> None:
    with opened(place / "file") as fd:
        os.utime(fd, (3, 4))
        assert os.fstat(fd).st_mtime == 4
    assert os.stat(place / "file").st_mtime == 4


@given(TREE)
def test_survives_what_does_not_write(place: Place) -> None:
    os.utime(place / "file", (3, 4))
    os.chmod(place / "file", 0o600)
    os.rename(place / "file", place / "dir/moved")
    assert read(place / "dir/moved") == b"content"
    assert os.stat(place / "dir/moved").st_mtime == 4


@given(TREE)
def test_set_after_writing_stays_after_close(place: Place) -> None:
    """`tar` and `cp -p` do so: pages written back later must not stamp the file again."""
    fd = os.open(place / "file", os.O_WRONLY)
    os.write(fd, b"x" * 100_000)
    os.utime(fd, (3, 4))
    os.close(fd)
    assert os.stat(place / "file").st_mtime == 4
    with opened(place / "file") as again:
        os.fsync(again)
    assert os.stat(place / "file").st_mtime == 4


@pytest.mark.needs("users")
@pytest.mark.parametrize(
    ("name", "atime", "mtime", "errno"),
    [
        ("theirs", (0, UTIME_NOW), (0, UTIME_NOW), 0),
        ("theirs", (1, 0), (1, 0), EPERM),
        ("theirs", (0, UTIME_NOW), (1, 0), EPERM),
        ("theirs", (0, UTIME_OMIT), (0, UTIME_NOW), EPERM),
        ("theirs", (0, UTIME_OMIT), (0, UTIME_OMIT), 0),
        ("private", (0, UTIME_NOW), (0, UTIME_NOW), EACCES),
        ("private", (1, 0), (1, 0), EPERM),
    ],
)
@given(TREE)
def test_rights(
    place: Place, name: str, atime: tuple[int, int], mtime: tuple[int, int], errno: int
) -> None:
    assert place.as_user(raised, calls.utimensat, place / name, atime, mtime) == errno


@pytest.mark.needs("users")
@given({"mine": File(uid=USER, mode=0o000)})
def test_owner_without_rights(place: Place) -> None:
    place.as_user(os.utime, place / "mine", (1, 2))
    assert os.stat(place / "mine").st_mtime == 2


@given(TREE)
def test_writing_moves_mtime_on(place: Place) -> None:
    with stamped({place / "file": "mc"}):
        write(place / "file", b"content")


@given({"file": File(content=b"x" * 10, time=OLD)})
def test_reading_moves_atime_as_relatime_says(place: Place) -> None:
    """An atime not younger than mtime or ctime is moved on; the copy must not be older."""
    read(place / "file")
    assert os.stat(place / "file").st_mtime == OLD
    with opened(place / "file", os.O_RDWR) as fd:
        os.pwrite(fd, b"y", 0)
        assert os.pread(fd, 10, 0) == b"yxxxxxxxxx"


@given(TREE)
def test_noatime_of_the_owner(place: Place) -> None:
    before = os.stat(place / "file").st_atime_ns
    with opened(place / "file", os.O_RDONLY | os.O_NOATIME) as fd:
        assert os.read(fd, 100) == b"content"
    assert os.stat(place / "file").st_atime_ns == before
