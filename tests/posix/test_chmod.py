"""chmod(2) and fchmod(2)."""

import ctypes
import os
import stat
from errno import ENOSYS, EOPNOTSUPP, EPERM

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, mode, names, opened, raised, read, stamped
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, Special, Symlink, given

TREE = {
    "file": File(content=b"content"),
    "dir": Dir(children={"child": File()}),
    "link": Symlink(target="file"),
    "fifo": Special(type=stat.S_IFIFO),
    "socket": Special(type=stat.S_IFSOCK),
}

ALL_BITS = [0o000, 0o001, 0o444, 0o555, 0o644, 0o777, 0o1777, 0o2755, 0o4755, 0o7777]


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("name", ["file", "dir"])
@given(TREE)
def test_sets(place: Place, name: str, bits: int) -> None:
    before = os.stat(place / name)
    os.chmod(place / name, bits)
    assert mode(place / name) == bits
    after = os.stat(place / name)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    os.chmod(place / name, 0o700)
    if name == "file":
        assert read(place / name) == b"content"
    else:
        assert names(place / name) == {"child"}


@pytest.mark.parametrize("name", ["fifo", "socket"])
@given(TREE)
def test_special(place: Place, name: str) -> None:
    kind = stat.S_IFMT(os.stat(place / name).st_mode)
    os.chmod(place / name, 0o621)
    assert os.stat(place / name).st_mode == kind | 0o621


@given(TREE)
def test_follows_links(place: Place) -> None:
    os.chmod(place / "link", 0o611)
    assert mode(place / "file") == 0o611
    assert mode(place / "link") == 0o777


@given(TREE)
def test_link_itself_has_no_mode(place: Place) -> None:
    """fchmodat2(2) with AT_SYMLINK_NOFOLLOW; older kernels do not know the call."""
    number = 452
    name = os.fsencode(place / "link")
    buffer = ctypes.create_string_buffer(name)
    with fails(EOPNOTSUPP, ENOSYS):
        calls._check(
            calls._syscall(number, calls.AT_FDCWD, ctypes.addressof(buffer), 0o600, 0x100, 0)
        )


@given(TREE)
def test_by_descriptor(place: Place) -> None:
    with opened(place / "file") as fd:
        os.fchmod(fd, 0o604)
        assert os.fstat(fd).st_mode & 0o7777 == 0o604
    with opened(place / "dir") as fd:
        os.fchmod(fd, 0o711)
    assert mode(place / "dir") == 0o711


@given(TREE)
def test_times(place: Place) -> None:
    with stamped({place / "file": "c", place.path: "?"}):
        os.chmod(place / "file", 0o600)
    with stamped({place / "dir": "c", place.path: "?"}):
        os.chmod(place / "dir", 0o700)


@given(TREE)
def test_same_mode_still_stamps(place: Place) -> None:
    with stamped({place / "file": "c"}):
        os.chmod(place / "file", 0o644)


@pytest.mark.needs("users")
@given({"theirs": File(mode=0o666), "open": Dir(mode=0o777)})
def test_not_the_owner(place: Place) -> None:
    for name in ("theirs", "open"):
        assert place.as_user(raised, os.chmod, place / name, 0o600) == EPERM


@pytest.mark.needs("users")
@given({"mine": File(uid=USER, gid=GROUP)})
def test_owner(place: Place) -> None:
    place.as_user(os.chmod, place / "mine", 0o4711)
    assert mode(place / "mine") == 0o4711


@pytest.mark.needs("users")
@given({"mine": File(uid=USER, gid=0)})
def test_set_group_id_of_a_foreign_group_is_dropped(place: Place) -> None:
    place.as_user(os.chmod, place / "mine", 0o2755)
    assert mode(place / "mine") == 0o755


@pytest.mark.needs("users")
@given({"mine": File(uid=USER, gid=777)})
def test_set_group_id_of_a_supplementary_group_is_kept(place: Place) -> None:
    def act() -> None:
        os.chmod(place / "mine", 0o2755)

    place.as_user(act, groups=[777])
    assert mode(place / "mine") == 0o2755


@pytest.mark.parametrize("bits", [0o000, 0o400, 0o444, 0o555])
@given({f"{bits:03o}": File(mode=bits, content=b"r") for bits in (0o000, 0o400, 0o444, 0o555)})
def test_given_without_write_permission(place: Place, bits: int) -> None:
    """Attributes set in the wrong order at copy-up lock the copier out."""
    name = f"{bits:03o}"
    os.utime(place / name, (1, 2))
    assert mode(place / name) == bits
    os.chmod(place / name, 0o600)
    assert mode(place / name) == 0o600
    assert read(place / name) == b"r"
    os.unlink(place / name)
    assert name not in names(place.path)


@given({"dir": Dir(mode=0o555, children={"file": File(), "sub": Dir(mode=0o500)})})
def test_given_directory_without_write_permission(place: Place) -> None:
    os.chmod(place / "dir", 0o755)
    os.rename(place / "dir/file", place / "dir/new")
    os.rmdir(place / "dir/sub")
    assert names(place / "dir") == {"new"}


@given(TREE)
def test_open_descriptors_see_it(place: Place) -> None:
    with opened(place / "file") as fd:
        os.chmod(place / "file", 0o600)
        assert os.fstat(fd).st_mode & 0o777 == 0o600
