"""An ordinary user's own directories whose mode keeps the user out: 0555 and less.

What rename(2), rmdir(2) and chmod(2) do with them on one filesystem they do in the union.
"""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.tree.union import Union, hide, put
from unionfs import workdir

NOBODY = 65534
CALLER = {"uid": NOBODY, "gid": NOBODY}
MODES = [0o555, 0o500, 0o444, 0o111, 0o000]
each_mode = pytest.mark.parametrize("mode", MODES, ids="{:03o}".format)


class Owner:
    """A user without privileges, from `begin` on, and a union of the user's own directories."""

    def __init__(self, union: Union, whiteout: str) -> None:
        self.union = union
        self.whiteout = whiteout

    def begin(self, **options: object) -> Union:
        subprocess.run(["chown", "-hR", f"{NOBODY}:{NOBODY}", self.union.base], check=True)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        self.union.restart(trusted=False, keep_open=True, whiteout=self.whiteout, **options)
        return self.union

    def end(self) -> None:
        self.union.restart()
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def owner(make_union: Callable[..., Union], whiteout: str) -> Iterator[Owner]:
    owner = Owner(make_union(), whiteout)
    try:
        yield owner
        assert not [name for name in os.listdir(owner.union.work) if name.startswith("mode-")]
    finally:
        owner.end()


def mode_of(status: os.stat_result) -> int:
    return stat.S_IMODE(status.st_mode)


def assert_mode(union: Union, path: str, mode: int) -> None:
    """On disk, on this mount and on the next one."""
    assert oct(mode_of((union.upper / path).stat())) == oct(mode)
    for _ in range(2):
        assert oct(mode_of(union.stat(path))) == oct(mode)
        union.restart()


@each_mode
def test_copied_up(owner: Owner, mode: int) -> None:
    put(owner.union.lower, "d/sub/f")
    (owner.union.lower / "d").chmod(mode)
    union = owner.begin()
    before = union.stat("d")
    after = union.tree.setattr(union.node("d"), mtime_ns=1000)
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert_mode(union, "d", mode)


def test_children_of_an_unwritable_directory_change(owner: Owner) -> None:
    """Only what changes its names takes the right to write it."""
    put(owner.union.lower, "d/file", "d/sub/x")
    put(owner.union.upper, "d/")
    (owner.union.lower / "d/sub").chmod(0o555)
    (owner.union.upper / "d").chmod(0o555)
    union = owner.begin()
    before = union.stat("d")
    union.write("d/file", b"L")
    union.tree.setattr(union.node("d/sub/x"), mode=0o600)
    union.tree.setattr(union.node("d/sub"), mtime_ns=1000)
    after = union.stat("d")
    assert (after.st_ctime_ns, after.st_mtime_ns) == (before.st_ctime_ns, before.st_mtime_ns)
    assert (union.upper / "d/file").read_bytes()[:1] == b"L"
    assert_mode(union, "d", 0o555)
    assert_mode(union, "d/sub", 0o555)


@each_mode
def test_made_over_a_whiteout(owner: Owner, mode: int) -> None:
    put(owner.union.lower, "d/hidden")
    hide(owner.union.upper, "d", owner.whiteout)
    union = owner.begin()
    union.mkdir("d", mode, **CALLER)
    assert_mode(union, "d", mode)
    (union.upper / "d").chmod(0o700)
    assert union.names("d") == []


@pytest.mark.parametrize(
    ("rename_dir", "mode"),
    [("redirect", mode) for mode in MODES]
    # Its content has to be read and searched to be copied.
    + [("copy", mode) for mode in MODES if mode & 0o500 == 0o500],
)
def test_renamed(owner: Owner, mode: int, rename_dir: str) -> None:
    put(owner.union.lower, "d/sub/f", "over/", "gone/x")
    hide(owner.union.upper, "gone", owner.whiteout)
    union = owner.begin(rename_dir=rename_dir)
    union.tree.setattr(union.node("d"), mode=mode)
    union.restart()
    for old, new in (("d", "e"), ("e", "over"), ("over", "gone")):
        union.rename(old, new)
        assert_mode(union, new, mode)
    (union.upper / "gone").chmod(0o700)
    assert union.names("gone") == ["sub"]
    assert union.names("gone/sub") == ["f"]


@each_mode
@pytest.mark.parametrize("how", ["rmdir", "rename over"])
@pytest.mark.parametrize("restart", [False, True], ids=["same", "next"])
def test_removed_when_it_is_empty(owner: Owner, mode: int, how: str, restart: bool) -> None:
    put(owner.union.lower, "d/a", "d/b", "new/")
    put(owner.union.upper, "pure/")
    union = owner.begin()
    for name in union.names("d"):
        union.unlink(f"d/{name}")
    for directory in ("d", "pure"):
        union.tree.setattr(union.node(directory), mode=mode)
        if restart:
            union.restart()
        if how == "rmdir":
            union.rmdir(directory)
            assert not union.exists(directory)
            union.mkdir(directory, **CALLER)
        else:
            union.mkdir("newer", **CALLER)
            union.rename("newer", directory)
        for _ in range(2):
            assert union.names(directory) == []
            union.restart()
    assert union.scratch() <= {"origins"}
    assert not [name for _, _, files in os.walk(union.work / "origins") for name in files]


@pytest.mark.parametrize("mode", [0o300, 0o000])
def test_not_removed_when_it_is_not_empty(owner: Owner, mode: int) -> None:
    put(owner.union.lower, "d/a", "e/a")
    put(owner.union.upper, "e/b")
    for path in (owner.union.lower / "e", owner.union.upper / "e"):
        path.chmod(mode)
    union = owner.begin()
    union.tree.setattr(union.node("d"), mode=mode)
    union.mkdir("new", **CALLER)
    for restart in (False, True):
        if restart:
            union.restart()
        for name, error in (("d", OSError), ("e", OSError)):
            with pytest.raises(error):
                union.rmdir(name)
            with pytest.raises(error):
                union.rename("new", name)
    assert_mode(union, "d", mode)
    assert (union.upper / "e").exists()


def test_what_a_lower_hides_is_not_known(owner: Owner) -> None:
    """A lower directory that cannot be read may hold anything: it is neither removed nor left."""
    put(owner.union.lower, "d/a", "e/a")
    put(owner.union.upper, "e/")
    for path in (owner.union.lower / "d", owner.union.lower / "e", owner.union.upper / "e"):
        path.chmod(0)
    union = owner.begin()
    for name in ("d", "e"):
        with pytest.raises(PermissionError):
            union.rmdir(name)
        with pytest.raises(PermissionError):
            union.rename(name, "new")
    assert union.names() == ["d", "e"]
    assert_mode(union, "e", 0)


# --- after a crash ---


def records(union: Union, *targets: str) -> None:
    for number, target in enumerate(targets):
        os.symlink(target, union.work / f"mode-#{number}")


def restore(union: Union) -> None:
    fds = [os.open(path, os.O_RDONLY) for path in (union.upper, union.work)]
    try:
        workdir.restore(*fds)
    finally:
        for fd in fds:
            os.close(fd)


def test_the_next_mount_gives_modes_back(union: Union) -> None:
    put(union.upper, "a/b c/", "a/other/")
    inner = union.upper / "a/b c"
    for path in (union.upper / "a", inner):
        path.chmod(0o755)
    outer_inode, inner_inode = (union.upper / "a").stat().st_ino, inner.stat().st_ino
    records(union, f"0055 {outer_inode} a", f"0555 {inner_inode} a/b c", "0 1 gone")
    inner.chmod(0o755)
    restore(union)
    assert mode_of(inner.stat()) == 0o555
    assert mode_of((union.upper / "a").stat()) == 0o055


@pytest.mark.parametrize("what", ["inode", "mode", "owner", "link", "nonsense"])
def test_a_record_of_something_else_says_nothing(union: Union, what: str) -> None:
    put(union.upper, "d/e/")
    directory = union.upper / "d/e"
    directory.chmod(0o755)
    inode = directory.stat().st_ino
    path = "d/e"
    if what == "inode":
        inode += 1
    elif what == "mode":
        directory.chmod(0o711)
    elif what == "owner":
        os.chown(directory, NOBODY, NOBODY)
    elif what == "link":
        (union.upper / "link").symlink_to("d")
        path = "link/e"
    before = directory.stat().st_mode
    records(union, "nonsense" if what == "nonsense" else f"0555 {inode} {path}")
    restore(union)
    assert directory.stat().st_mode == before
