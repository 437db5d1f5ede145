"""link(2) and linkat(2), and what hard links have in common."""

import os
import stat
from errno import EACCES, EEXIST, EMLINK, ENOENT, ENOTDIR, EPERM, EXDEV

import pytest

from tests.posix import calls
from tests.posix.asserts import fails, names, opened, raised, read, same, stamped, write
from tests.posix.places import USER, Place
from tests.posix.trees import Dir, File, Hardlink, Special, Symlink, given

TREE = {
    "file": File(content=b"content"),
    "pair": File(content=b"pair"),
    "dir": Dir(children={"twin": Hardlink(to="pair"), "other": File()}),
    "target": Dir(),
    "link": Symlink(target="file"),
    "fifo": Special(type=stat.S_IFIFO),
    "socket": Special(type=stat.S_IFSOCK),
}


@pytest.mark.parametrize("name", ["file", "pair", "link", "fifo", "socket"])
@given(TREE)
def test_links(place: Place, name: str) -> None:
    before = os.lstat(place / name)
    os.link(place / name, place / "target/new", follow_symlinks=False)
    after = os.lstat(place / "target/new")
    assert same(place / name, place / "target/new")
    assert after.st_ino == before.st_ino
    assert after.st_nlink == os.lstat(place / name).st_nlink == before.st_nlink + 1
    assert stat.S_IFMT(after.st_mode) == stat.S_IFMT(before.st_mode)


@given(TREE)
def test_follow(place: Place) -> None:
    os.link(place / "link", place / "new", follow_symlinks=True)
    # Python drops AT_SYMLINK_FOLLOW where it thinks it the default; ask the system itself.
    assert same(place / "new", place / "link") or same(place / "new", place / "file")
    os.symlink("file", place / "again")
    fd = os.open(place / "again", os.O_PATH)
    calls.link_proc(fd, place / "by-proc")
    assert same(place / "by-proc", place / "file")


@given(TREE)
def test_writes_show_under_every_name(place: Place) -> None:
    os.link(place / "file", place / "new")
    write(place / "new", b"changed")
    assert read(place / "file") == b"changed"
    os.chmod(place / "file", 0o600)
    assert os.stat(place / "new").st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("first", "second"), [("pair", "dir/twin"), ("dir/twin", "pair")])
@given(TREE)
def test_given_links_stay_one_file(place: Place, first: str, second: str) -> None:
    ino = os.stat(place / first).st_ino
    assert same(place / first, place / second)
    assert os.stat(place / first).st_nlink == 2
    write(place / first, b"written by one name")
    assert read(place / second) == b"written by one name"
    assert same(place / first, place / second)
    assert os.stat(place / second).st_ino == ino
    assert os.stat(place / second).st_nlink == 2
    write(place / second, b"and by the other")
    assert read(place / first) == b"and by the other"


@given(TREE)
def test_given_links_share_attributes(place: Place) -> None:
    os.chmod(place / "pair", 0o640)
    os.setxattr(place / "dir/twin", "user.a", b"1")
    os.utime(place / "pair", (5, 6))
    st = os.stat(place / "dir/twin")
    assert (st.st_mode & 0o777, st.st_mtime, st.st_nlink) == (0o640, 6, 2)
    assert os.getxattr(place / "pair", "user.a") == b"1"


@pytest.mark.parametrize(("gone", "left"), [("pair", "dir/twin"), ("dir/twin", "pair")])
@given(TREE)
def test_given_links_lose_a_name(place: Place, gone: str, left: str) -> None:
    ino = os.stat(place / left).st_ino
    os.unlink(place / gone)
    assert os.stat(place / left).st_nlink == 1
    assert os.stat(place / left).st_ino == ino
    write(place / left, b"still")
    assert os.stat(place / left).st_nlink == 1
    assert read(place / left) == b"still"


@given(TREE)
def test_given_links_renamed(place: Place) -> None:
    os.rename(place / "dir/twin", place / "target/moved")
    assert same(place / "pair", place / "target/moved")
    assert os.stat(place / "pair").st_nlink == 2
    write(place / "target/moved", b"m")
    assert read(place / "pair") == b"m"


@given(TREE)
def test_open_descriptor_and_other_name(place: Place) -> None:
    with opened(place / "pair") as reader:
        with opened(place / "dir/twin", os.O_WRONLY | os.O_TRUNC) as writer:
            os.write(writer, b"through the twin")
        assert os.read(reader, 100) == b"through the twin"
        assert os.fstat(reader).st_nlink == 2


@given(TREE)
def test_third_link(place: Place) -> None:
    os.link(place / "dir/twin", place / "third")
    assert [os.stat(place / name).st_nlink for name in ("pair", "dir/twin", "third")] == [3] * 3
    for name in ("pair", "dir/twin", "third"):
        os.unlink(place / name)
    assert names(place / "dir") == {"other"}


@given(TREE)
def test_unlinked_and_linked_again(place: Place) -> None:
    with opened(place / "file") as fd:
        for name in ("a", "b", "c"):
            os.link(place / "file", place / name)
        for name in ("a", "file", "c", "b"):
            os.unlink(place / name)
        assert os.fstat(fd).st_nlink == 0


@given(TREE)
def test_times(place: Place) -> None:
    with stamped({place / "file": "c", place / "target": "mc", place.path: "?"}):
        os.link(place / "file", place / "target/new")


@pytest.mark.parametrize("name", ["file", "dir", "link", "fifo"])
@given(TREE)
def test_target_exists(place: Place, name: str) -> None:
    with fails(EEXIST):
        os.link(place / "pair", place / name)
    assert os.stat(place / "pair").st_nlink == 2


@given(TREE)
def test_source_missing(place: Place) -> None:
    with fails(ENOENT):
        os.link(place / "missing", place / "new")


@given(TREE)
def test_directory(place: Place) -> None:
    with fails(EPERM):
        os.link(place / "dir", place / "new")


@given(TREE)
def test_target_with_slash(place: Place) -> None:
    with fails(ENOENT):
        os.link(place / "file", place / "new/")
    with fails(ENOTDIR):
        os.link(place / "file/", place / "new")


@given(TREE)
def test_other_filesystem(place: Place) -> None:
    with fails(EXDEV):
        os.link(place / "file", "/dev/shm/unionfs-test-link")
    with fails(EXDEV):
        os.link("/proc/self/status", place / "new")


@pytest.mark.needs("users")
@given({"dir": Dir(mode=0o755), "file": File(mode=0o666)})
def test_without_the_right_to_the_directory(place: Place) -> None:
    assert place.as_user(raised, os.link, place / "file", place / "dir/new") == EACCES


@pytest.mark.needs("users")
@given({"mine": File(uid=USER, content=b"m")})
def test_user_links_his_own(place: Place) -> None:
    place.as_user(os.link, place / "mine", place / "new")
    assert os.stat(place / "mine").st_nlink == 2


@given(TREE)
def test_by_descriptor(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        calls.link_proc(fd, place / "new")
        assert os.fstat(fd).st_nlink == 2
        os.write(fd, b"CONTENT")
    assert read(place / "new") == b"CONTENT"


@given(TREE)
def test_by_descriptor_after_unlink_is_refused(place: Place) -> None:
    with opened(place / "file", os.O_RDWR) as fd:
        os.unlink(place / "file")
        with fails(ENOENT):
            calls.link_proc(fd, place / "again")


@given(TREE)
def test_by_descriptor_while_another_name_lives(place: Place) -> None:
    with opened(place / "pair", os.O_RDWR) as fd:
        os.unlink(place / "pair")
        calls.link_proc(fd, place / "again")
        assert os.fstat(fd).st_nlink == 2
    assert same(place / "again", place / "dir/twin")


def test_many_links(place: Place) -> None:
    write(place / "file", b"")
    for number in range(500):
        os.link(place / "file", place / str(number))
    assert os.stat(place / "499").st_nlink == 501
    for number in range(500):
        os.unlink(place / str(number))
    assert os.stat(place / "file").st_nlink == 1


@pytest.mark.needs("time")
def test_links_have_a_limit(place: Place) -> None:
    """ext4 stops at 65000; a filesystem over it may stop earlier but not pretend."""
    write(place / "0", b"")
    os.chdir(place.path)
    try:
        for number in range(1, 65001):
            os.link("0", str(number))
    except OSError as error:
        assert error.errno == EMLINK
    assert os.stat("0").st_nlink == 65000
    assert not os.path.exists("65000")
