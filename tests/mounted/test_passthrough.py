"""io=passthrough: the kernel reads and writes the branches' files itself."""

import fcntl
import itertools
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from errno import EINVAL
from pathlib import Path

import pytest

from tests.mounted.harness import Union, fails_with, needs_root, only_unionfs, status, wait_until
from tests.mounted.trees import assert_same, build, snapshot

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(60)]

MIB = 1 << 20


@pytest.fixture
def union(place: Path) -> Iterator[Union]:
    union = Union(place, io="passthrough")
    build(union.lower, {"file": "lower content", "d/other": b"x" * 3 * MIB, "empty": b""})
    with union:
        yield union


def requests(union: Union) -> dict[str, int]:
    """How often each operation was asked for."""
    return {
        name: sum(plane["count"] for plane in planes.values())
        for name, planes in status(union.mountpoint)["requests"].items()
    }


def test_data_never_comes_by_the_daemon(union: Union) -> None:
    content = os.urandom(2 * MIB)
    with open(union.mountpoint / "new", "w+b") as file:
        file.write(content)
        file.seek(0)
        assert file.read() == content
    assert (union.mountpoint / "d/other").read_bytes() == b"x" * 3 * MIB
    with open(union.mountpoint / "d/other", "r+b") as file:
        file.write(b"changed")
    assert (union.mountpoint / "d/other").read_bytes()[:9] == b"changedxx"
    assert (union.upper / "new").read_bytes() == content  # type: ignore[operator]
    counts = requests(union)
    assert counts["OPEN"] >= 3
    assert counts.get("READ", 0) == counts.get("WRITE", 0) == 0


@pytest.mark.parametrize("how", ["write", "truncate", "rewrite", "append"])
def test_an_early_reader_keeps_what_he_opened(union: Union, how: str) -> None:
    path = union.mountpoint / "file"
    with open(path) as early:
        inode = path.stat().st_ino
        if how == "truncate":
            os.truncate(path, 5)
            expected = "lower"
        elif how == "rewrite":
            path.write_text("new")
            expected = "new"
        elif how == "append":
            with open(path, "a") as file:
                file.write("!")
            expected = "lower content!"
        else:
            with open(path, "r+") as file:
                file.write("LOWER")
            expected = "LOWER content"
        assert early.read() == "lower content"
        assert path.read_text() == expected
        assert path.stat().st_size == len(expected)
        assert path.stat().st_ino == inode == os.fstat(early.fileno()).st_ino
    assert path.read_text() == expected
    union.remount()
    assert path.read_text() == expected
    assert path.stat().st_ino == inode
    assert (union.lower / "file").read_text() == "lower content"


def test_attributes_change_under_a_reader(union: Union) -> None:
    """That alone does not part him from the file."""
    path = union.mountpoint / "file"
    with open(path) as early:
        os.chmod(path, 0o600)
        os.utime(path, (1, 2))
        os.setxattr(path, "user.note", b"value")
        assert os.fstat(early.fileno()).st_mode & 0o777 == 0o600
        with open(path) as late:
            assert late.read() == early.read() == "lower content"
        with open(path, "r+") as writer:
            writer.write("L")
        assert path.read_text() == "Lower content"
        assert path.stat().st_mode & 0o777 == 0o600


def test_writers_and_readers_share_a_file_of_the_upper(union: Union) -> None:
    path = union.mountpoint / "new"
    path.write_bytes(b"a" * MIB)
    with open(path, "rb", buffering=0) as reader, open(path, "r+b", buffering=0) as writer:
        writer.write(b"b" * MIB)
        assert reader.read(MIB) == b"b" * MIB
        os.truncate(path, 10)
        assert os.fstat(reader.fileno()).st_size == 10
        with mmap.mmap(writer.fileno(), 0) as mapped:
            mapped[:3] = b"map"
        reader.seek(0)
        assert reader.read() == b"mapbbbbbbb"
    assert path.read_bytes() == b"mapbbbbbbb"


def test_a_file_of_several_names_is_one_file(place: Path) -> None:
    union = Union(place, io="passthrough")
    build(union.lower, {"a": "content"})
    os.link(union.lower / "a", union.lower / "b")
    with union, open(union.mountpoint / "a") as early:
        (union.mountpoint / "b").write_text("CONTENT")
        assert early.read() == (union.mountpoint / "a").read_text() == "CONTENT"


@pytest.mark.parametrize("writer", ["file", "twin"])
def test_linked_while_open_and_then_written(union: Union, writer: str) -> None:
    """By either name: the other one shows what was written, too."""
    path, twin = union.mountpoint / "file", union.mountpoint / "twin"
    with open(path) as early:
        os.link(path, twin)
        names = [path, twin]
        for name in names:  # the kernel knows both, and what they show
            assert name.read_text() == "lower content"
            assert name.stat().st_nlink == 2
        with open(union.mountpoint / writer, "w") as file:
            file.write("new")
        assert [name.stat().st_size for name in names] == [3, 3]
        assert len({name.stat().st_ino for name in names}) == 1
        assert [name.read_text() for name in names] == ["new", "new"]
        assert early.read() == "lower content"
    union.remount()
    assert [name.stat().st_size for name in names] == [3, 3]
    assert os.path.samefile(path, twin)


def test_removed_and_replaced_while_open(union: Union) -> None:
    path = union.mountpoint / "d/other"
    with open(path, "rb") as early:
        path.unlink()
        path.write_text("another")
        assert early.read(3) == b"xxx"
        assert path.read_text() == "another"
        (union.mountpoint / "file").replace(path)
        assert path.read_text() == "lower content"
        assert early.read(3) == b"xxx"


def test_everything_else_is_as_ever(place: Path) -> None:
    plain, union = place / "plain", Union(place, io="passthrough")
    plain.mkdir()

    def work(root: Path) -> None:
        build(root, {f"d{number % 5}/f{number}": b"%d" % number * 999 for number in range(50)})
        for number in range(0, 50, 3):
            (root / f"d{number % 5}/f{number}").unlink()
        for number in range(1, 50, 3):
            os.truncate(root / f"d{number % 5}/f{number}", 7000)
        os.rename(root / "d1", root / "moved")

    work(plain)
    with union:
        work(union.mountpoint)
        assert_same(snapshot(plain), snapshot(union.mountpoint))
        union.remount()
        assert_same(snapshot(plain), snapshot(union.mountpoint), "after remounting")


def test_nothing_is_left_open(union: Union) -> None:
    """Neither descriptors of the daemon nor numbers of backing files in the kernel."""

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{union.pid}/fd"))

    path = union.mountpoint / "new"
    path.write_text("content")
    before = descriptors()
    for _ in range(300):
        with open(path, "r+") as file:
            file.write("x")
    path.unlink()
    # The kernel waits for no answer to RELEASE.
    wait_until(lambda: descriptors() <= before, "all handles are released")


def test_done_without_where_the_kernel_refuses(place: Path) -> None:
    """A branch that is a stacked filesystem itself."""
    lower = Union(place / "below", io_uring="off")
    with lower:
        (lower.mountpoint / "file").write_text("content")
        union = Union(place / "above", io="passthrough")
        union.lowers = [lower.mountpoint]
        with union:
            assert (union.mountpoint / "file").read_text() == "content"
            (union.mountpoint / "file").write_text("changed")
            assert (union.mountpoint / "file").read_text() == "changed"
        assert (lower.mountpoint / "file").read_text() == "content"


# --- what is changed past the daemon -------------------------------------------------------------


def test_stores_through_a_mapping_move_mtime(union: Union) -> None:
    """While the file is open, and when the mapping is all that is left of the opening."""
    path = union.mountpoint / "file"
    with open(path, "r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
        for _ in range(2):
            os.utime(path, (1, 1))
            mapping[0] ^= 1
            mapping.flush()
            assert os.fstat(file.fileno()).st_mtime > 1
    os.utime(path, (1, 1))
    assert path.stat().st_mtime == 1
    mapping[0] ^= 1
    assert path.stat().st_mtime > 1
    mapping.close()
    assert union.upper is not None
    assert path.stat().st_mtime_ns == (union.upper / "file").stat().st_mtime_ns


def test_a_new_file_that_is_mapped(union: Union) -> None:
    """CREATE gives the attributes with the handle."""
    path = union.mountpoint / "new"
    with open(path, "w+b") as file:
        file.truncate(4096)
        os.utime(path, (1, 1))
        with mmap.mmap(file.fileno(), 0) as mapping:
            assert path.stat().st_mtime == 1
            mapping[0] = 1
    assert path.stat().st_mtime > 1


def test_attributes_of_what_is_only_read_stay_cached(union: Union) -> None:
    path = union.mountpoint / "file"
    assert path.read_text() == "lower content"
    path.stat()
    before = requests(union).get("GETATTR", 0)
    for _ in range(10):
        path.stat()
    assert requests(union).get("GETATTR", 0) == before


FLAGS = [0, os.O_APPEND, os.O_DIRECT, os.O_APPEND | os.O_DIRECT]


@pytest.mark.parametrize("io", ["cached", "passthrough"])
def test_flags_set_and_taken_back(place: Path, io: str) -> None:
    """fcntl(F_SETFL): each change of O_APPEND and O_DIRECT, beside another writer, as on a branch.

    dd oflag=direct takes O_DIRECT back for the last, short block.
    """
    union = Union(place, io=io)
    block = mmap.mmap(-1, 4096)  # aligned, as O_DIRECT needs it
    block[:] = b"d" * 4096

    def work(path: Path, steps: tuple[int, ...]) -> list[object]:
        seen: list[object] = []
        path.write_bytes(b"0" * 8192)
        fd = os.open(path, os.O_RDWR | steps[0])
        other = os.open(path, os.O_RDWR)
        for flags in steps:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)
            os.pwritev(fd, [block], 0)
            os.write(fd, block)
            if not flags & os.O_DIRECT:
                os.pwrite(fd, b"short", 5)
                seen.append(os.pread(fd, 9, 3))
                os.ftruncate(fd, 8192)
            os.lseek(fd, 4096, os.SEEK_SET)
            os.pwrite(other, b"other", 4000)
            seen += [os.fstat(fd).st_size, os.preadv(fd, [block], 0), bytes(block[3990:4010])]
            block[:] = b"d" * 4096
        os.close(fd)
        os.close(other)
        return [*seen, path.read_bytes()]

    with union:
        for number, steps in enumerate(itertools.product(FLAGS, repeat=2)):
            expected = work(place / f"plain{number}", steps)
            assert work(union.mountpoint / f"file{number}", steps) == expected, steps


def test_what_is_opened_for_appending_is_never_cached_twice(union: Union) -> None:
    """Reading it goes by the daemon, splice(2) from it would fill the mount's page cache."""
    path = union.mountpoint / "new"
    path.write_bytes(b"a" * 8192)
    fd, other = os.open(path, os.O_RDWR | os.O_APPEND), os.open(path, os.O_RDWR)
    reader, writer = os.pipe()
    fails_with(EINVAL, lambda: os.splice(fd, writer, 100, offset_src=0))
    assert os.splice(other, writer, 3, offset_src=0) == 3
    assert os.read(reader, 10) == b"aaa"
    for content in (b"b", b"c"):
        os.pwrite(other, content, 0)
        assert os.pread(fd, 1, 0) == content
    with mmap.mmap(fd, 0) as mapping:
        mapping[0:1] = b"d"
        assert os.pread(fd, 1, 0) == os.pread(other, 1, 0) == b"d"
    for number in (fd, other, reader, writer):
        os.close(number)


# --- io=auto -------------------------------------------------------------------------------------


def test_auto_on_plain_branches(place: Path) -> None:
    union = Union(place, io="auto")
    build(union.lower, {"file": "content"})
    with union:
        assert (union.mountpoint / "file").read_text() == "content"
        assert status(union.mountpoint)["passthrough"] == 1
        assert requests(union).get("READ", 0) == 0


def test_auto_on_a_stacked_branch_costs_no_opens(place: Path) -> None:
    for name in ("below", "above", "work", "lower0"):
        (place / name).mkdir()
    build(place / "below", {"file": "content", "other": "more"})
    options = f"lowerdir={place}/below,upperdir={place}/above,workdir={place}/work"
    subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, place / "lower0"], check=True
    )
    with Union(place, io="auto") as union:
        for _ in range(3):
            assert (union.mountpoint / "file").read_text() == "content"
            assert (union.mountpoint / "other").read_text() == "more"
        assert status(union.mountpoint)["passthrough"] == 0
        assert requests(union)["OPEN"] == 1  # its answer is that it need not be asked again


@pytest.mark.parametrize(
    ("command", "expected"), [((), "True"), (("unshare", "--user", "--map-root-user"), "False")]
)
def test_who_may_pass_through(place: Path, command: tuple[str, ...], expected: str) -> None:
    """Root of a user namespace may not; an ordinary user, the other case, keeps OPEN anyway."""
    program = f"""
import os
from unionfs import kernel
print(kernel.may_pass_through([os.open({str(place)!r}, os.O_PATH)]))
"""
    said = subprocess.run([*command, sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout.strip() == expected, said.stderr
