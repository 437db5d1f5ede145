"""Opening and checking a stack of branches, on plain directories."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Directories, OrdinaryUser
from unionfs import errors
from unionfs.branches import BranchStack
from unionfs.options import MountOptions, parse
from unionfs.values import escape

ROOT = os.geteuid() == 0


class Places(Directories):
    """Directories for one stack, not opened yet."""

    def options(
        self,
        *lowers: Path,
        upper: Path | str | None = "upper",
        mountpoint: Path | None = None,
        text: str = "",
    ) -> MountOptions:
        lowerdir = ":".join(escape(str(path)) for path in lowers or (self.lower, self.lower2))
        options = [f"lowerdir={lowerdir}", text]
        if upper == "upper":
            upper = self.upper
        if upper is not None:
            options.append(f"upperdir={escape(str(upper))}")
        return parse(options, [str(mountpoint or self.mountpoint)])


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


def opened(options: MountOptions) -> BranchStack:
    stack = BranchStack.open(options)
    try:
        stack.open_workdir()
    except BaseException:
        stack.close()
        raise
    return stack


# --- what a stack is ---


def test_a_writable_stack(places: Places) -> None:
    with BranchStack.open(places.options()) as stack:
        assert [branch.path for branch in stack.branches] == [
            str(places.upper),
            str(places.lower),
            str(places.lower2),
        ]
        assert stack.mountpoint == str(places.mountpoint)
        assert len(stack.lower_fds) == 2
        assert stack.upper_fd is stack.work_fd is None
        assert list(places.upper.iterdir()) == [], "opening changes nothing on disk"


def test_closing_twice(places: Places) -> None:
    stack = opened(places.options())
    stack.close()
    stack.close()


def test_a_read_only_stack_takes_the_upper_as_a_lower(places: Places) -> None:
    with opened(places.options(text="ro")) as stack:
        assert [branch.path for branch in stack.lowers] == [
            str(places.upper),
            str(places.lower),
            str(places.lower2),
        ]
        assert stack.upper_fd is stack.work_fd is None
    assert list(places.upper.iterdir()) == []


def test_paths_are_the_kernel_s(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """`link/..` is the parent of where the link leads, not the directory that holds the link."""
    elsewhere = places.base / "elsewhere"
    (elsewhere / "inner").mkdir(parents=True)
    (elsewhere / "diff").mkdir()
    (places.base / "link").symlink_to(elsewhere / "inner")
    (places.base / "diff").mkdir()
    monkeypatch.chdir(places.base)
    with BranchStack.open(places.options(Path("link/../diff"))) as stack:
        assert stack.lowers[0].path == str(elsewhere / "diff")


def test_any_byte_in_a_path(places: Places) -> None:
    lower = places.base / os.fsdecode(b"\xff,:\\\n\"'")
    lower.mkdir()
    with BranchStack.open(places.options(lower)) as stack:
        assert stack.lowers[0].path == str(lower)


# --- what cannot be a stack ---


def test_missing(places: Places) -> None:
    with pytest.raises(errors.BranchMissing, match="nowhere"):
        BranchStack.open(places.options(places.lower, places.base / "nowhere"))
    with pytest.raises(errors.BranchMissing, match="nowhere"):
        BranchStack.open(places.options(upper=places.base / "nowhere"))
    dangling = places.base / "dangling"
    dangling.symlink_to("nowhere")
    with pytest.raises(errors.BranchMissing, match="dangling"):
        BranchStack.open(places.options(dangling))


def test_not_a_directory(places: Places) -> None:
    file = places.base / "file"
    file.touch()
    for options in (
        places.options(file),
        places.options(upper=file),
        places.options(mountpoint=file),
    ):
        with pytest.raises(errors.NotADirectory, match="/file "):
            BranchStack.open(options)


def test_a_loop_of_links(places: Places) -> None:
    loop = places.base / "loop"
    loop.symlink_to(loop)
    with pytest.raises(errors.BranchUnreadable, match="symbolic links"):
        BranchStack.open(places.options(loop))
    with pytest.raises(errors.MountpointBad, match="symbolic links"):
        BranchStack.open(places.options(mountpoint=loop))


def test_the_same_directory_twice(places: Places) -> None:
    alias = places.base / "alias"
    alias.symlink_to(places.lower)
    with pytest.raises(errors.BranchTwice):
        BranchStack.open(places.options(places.lower, places.lower2, alias))
    with pytest.raises(errors.BranchTwice):
        BranchStack.open(places.options(places.lower, places.upper))


def test_upper_and_lower_inside_each_other(places: Places) -> None:
    inside = places.lower / "a" / "b"
    inside.mkdir(parents=True)
    with pytest.raises(errors.UpperInsideLower):
        BranchStack.open(places.options(upper=inside))
    inside = places.upper / "a" / "b"
    inside.mkdir(parents=True)
    with pytest.raises(errors.LowerInsideUpper):
        BranchStack.open(places.options(places.lower, inside))


def test_names_that_only_start_alike_do_not_overlap(places: Places) -> None:
    other = places.base / "lower-2"
    other.mkdir()
    with BranchStack.open(places.options(upper=other)):
        pass


def test_lowers_inside_each_other_are_harmless(places: Places) -> None:
    inside = places.lower / "a"
    inside.mkdir()
    with BranchStack.open(places.options(places.lower, inside)) as stack:
        assert len(stack.lowers) == 2


@pytest.mark.parametrize("branch", ["lower", "upper"])
@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_mountpoint_inside_a_branch(places: Places, branch: str, below: str) -> None:
    mountpoint = getattr(places, branch) / below
    mountpoint.mkdir(parents=True, exist_ok=True)
    with pytest.raises(errors.MountpointInsideBranch):
        BranchStack.open(places.options(mountpoint=mountpoint))


def test_a_branch_inside_the_mountpoint_is_fine(places: Places) -> None:
    """It is only hidden by the mount, and we hold its descriptor."""
    lower = places.mountpoint / "lower"
    lower.mkdir()
    with BranchStack.open(places.options(lower)) as stack:
        assert stack.mountpoint == str(places.mountpoint)


def test_missing_mountpoint(places: Places) -> None:
    with pytest.raises(errors.MountpointBad, match="nowhere"):
        BranchStack.open(places.options(mountpoint=places.base / "nowhere"))


def test_too_many_branches(places: Places) -> None:
    import resource

    lowers = [places.base / f"layer{number}" for number in range(40)]
    for lower in lowers:
        lower.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(descriptors()) + 10, hard))
    try:
        with pytest.raises(errors.TooManyBranches):
            BranchStack.open(places.options(*lowers))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- the work directory ---


def test_the_default_work_directory_comes_and_goes(places: Places) -> None:
    work = places.upper / ".wh..wh.work"
    with opened(places.options()) as stack:
        assert stack.workdir == str(work)
        assert stat.S_IMODE(work.stat().st_mode) == 0o700
        assert stack.work_fd is not None
        assert os.fstat(stack.work_fd).st_ino == (work / "work").stat().st_ino
        assert os.listdir(stack.work_fd) == []
        stack.remove_workdir()
    assert list(places.upper.iterdir()) == []


def test_a_work_directory_that_is_needed_stays(places: Places) -> None:
    with opened(places.options()) as stack:
        (places.upper / ".wh..wh.work" / "index").mkdir()
        stack.remove_workdir()
    assert (places.upper / ".wh..wh.work" / "index").is_dir()


def test_scratch_space_in_use_stays(places: Places) -> None:
    with opened(places.options()) as stack:
        (places.upper / ".wh..wh.work" / "work" / "#1").touch()
        stack.remove_workdir()
        stack.remove_workdir()
    assert (places.upper / ".wh..wh.work" / "work" / "#1").exists()


def test_a_work_directory_that_was_asked_for_stays(places: Places) -> None:
    with opened(places.options(text=f"workdir={places.work}")) as stack:
        assert stack.workdir == str(places.work)
        stack.remove_workdir()
    assert (places.work / "work").is_dir()
    assert list(places.upper.iterdir()) == []


def test_what_a_predecessor_left_is_cleared(places: Places) -> None:
    """Every type, deep trees, and links that point out."""
    scratch = places.work / "work"
    precious = places.base / "precious"
    (precious / "inner").mkdir(parents=True)
    (precious / "file").write_text("precious")
    scratch.mkdir()
    (scratch / "file").touch()
    (scratch / "link").symlink_to(precious)
    os.mkfifo(scratch / "fifo")
    (scratch / "full").mkdir()
    (scratch / "full" / "link").symlink_to(precious / "inner")
    os.link(precious / "file", scratch / "full" / "hard")
    (scratch / "moved-0").mkdir()
    (scratch / "moved-0" / "x").touch()
    (scratch / "moved-1").touch()
    deep = scratch
    for _ in range(500):
        deep = deep / "d"
        deep.mkdir()
        (deep / "f").touch()
    with opened(places.options(text=f"workdir={places.work}")) as stack:
        assert stack.work_fd is not None
        assert os.listdir(stack.work_fd) == []
    assert (precious / "file").read_text() == "precious"
    assert (precious / "inner").is_dir()


@pytest.mark.skipif(not ROOT, reason="only root can mount in the scratch space")
def test_a_mount_in_the_scratch_space_is_not_entered(places: Places) -> None:
    target = places.work / "work" / "d"
    target.mkdir(parents=True)
    (places.base / "precious").touch()
    subprocess.run(["mount", "--bind", places.base, target], check=True)
    try:
        with pytest.raises(errors.WorkdirUnusable, match="busy"):
            opened(places.options(text=f"workdir={places.work}"))
    finally:
        subprocess.run(["umount", target], check=True)
    assert (places.base / "precious").exists()


@pytest.mark.parametrize("planted", ["file", "link"])
def test_something_else_in_the_place_of_the_work_directory(places: Places, planted: str) -> None:
    place = places.upper / ".wh..wh.work"
    if planted == "file":
        place.touch()
    else:
        place.symlink_to(places.lower)
    with pytest.raises(errors.WorkdirUnusable):
        opened(places.options())
    assert list(places.lower.iterdir()) == []


def test_work_directory_that_cannot_be(places: Places) -> None:
    inside = places.upper / "inside"
    inside.mkdir()
    for work in (places.upper, places.lower, inside, places.base):
        with pytest.raises(errors.WorkdirUnusable, match="overlaps"):
            opened(places.options(text=f"workdir={work}"))
    with pytest.raises(errors.WorkdirUnusable, match="No such file"):
        opened(places.options(text=f"workdir={places.base}/nowhere"))
    file = places.base / "file"
    file.touch()
    with pytest.raises(errors.NotADirectory):
        opened(places.options(text=f"workdir={file}"))


@pytest.mark.skipif(not ROOT, reason="only root can mount a second filesystem")
@pytest.mark.parametrize("asked", [False, True], ids=["default", "workdir="])
def test_mounts_inside_the_upper_are_no_part_of_it(places: Places, asked: bool) -> None:
    """And upper and work directory are on one mount: renaming between two would be EXDEV."""
    inside = places.upper / "inside"
    inside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", inside], check=True)
    try:
        (inside / "hidden").touch()
        options = places.options(text=f"workdir={places.work}" if asked else "")
        with opened(options) as stack:
            assert stack.upper_fd is not None
            assert stack.work_fd is not None
            assert os.fstat(stack.upper_fd).st_ino == places.upper.stat().st_ino
            fd = os.open("inside", os.O_RDONLY, dir_fd=stack.upper_fd)
            assert os.listdir(fd) == []
            os.close(fd)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=stack.work_fd))
            os.rename("file", "file", src_dir_fd=stack.work_fd, dst_dir_fd=stack.upper_fd)
    finally:
        subprocess.run(["umount", inside], check=True)
    assert (places.upper / "file").exists()


@pytest.mark.skipif(not ROOT, reason="only root can mount a second filesystem")
def test_an_upper_that_is_no_longer_at_its_path(places: Places) -> None:
    """Something was mounted over it in between: the upper is still what was opened."""
    stack = BranchStack.open(places.options())
    subprocess.run(["mount", "-t", "tmpfs", "none", places.upper], check=True)
    try:
        with stack:
            stack.open_workdir()
            assert stack.upper_fd is not None
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=stack.upper_fd))
    finally:
        subprocess.run(["umount", places.upper], check=True)
    assert (places.upper / "file").exists()


@pytest.mark.skipif(not ROOT, reason="only root can mount a second filesystem")
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_work_directory_elsewhere(places: Places, kind: str) -> None:
    """Also through a bind mount of the same filesystem renaming is EXDEV."""
    other = places.base / "other"
    other.mkdir()
    command = ["-t", "tmpfs", "none"] if kind == "tmpfs" else ["--bind", str(places.work)]
    subprocess.run(["mount", *command, other], check=True)
    try:
        with pytest.raises(errors.WorkdirElsewhere):
            opened(places.options(text=f"workdir={other}"))
    finally:
        subprocess.run(["umount", other], check=True)


@pytest.mark.skipif(not ROOT, reason="only root can mount a read-only filesystem")
def test_upper_on_a_read_only_filesystem(places: Places) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", places.upper], check=True)
    try:
        with pytest.raises(errors.UpperReadOnly, match="-o ro"):
            BranchStack.open(places.options())
        with BranchStack.open(places.options(text="ro")) as stack:
            assert len(stack.lowers) == 3
    finally:
        subprocess.run(["umount", places.upper], check=True)


def test_the_overlay_format_is_tried_out(places: Places) -> None:
    with opened(places.options(text=f"workdir={places.work},whiteout=overlay")) as stack:
        assert stack.whiteout == "overlay"
        assert stack.work_fd is not None
        assert os.listdir(stack.work_fd) == [], "the trial leaves nothing"


@pytest.mark.skipif(not ROOT, reason="only root can mount a filesystem")
@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
def test_a_filesystem_without_extended_attributes(places: Places, whiteout: str) -> None:
    """ramfs: enough for the format that needs only names, not for the other one."""
    subprocess.run(["mount", "-t", "ramfs", "none", places.upper], check=True)
    try:
        options = places.options(text=f"whiteout={whiteout}")
        if whiteout == "overlay":
            with pytest.raises(errors.FilesystemLacks, match="whiteout=aufs"):
                opened(options)
        else:
            with opened(options) as stack:
                assert not stack.trusted
                stack.remove_workdir()
        work = places.upper / ".wh..wh.work" / "work"
        assert not work.exists() or list(work.iterdir()) == [], "the trial leaves nothing"
    finally:
        subprocess.run(["umount", places.upper], check=True)


@pytest.mark.skipif(not ROOT, reason="only root can mount a filesystem")
def test_a_filesystem_without_whiteout_devices(places: Places) -> None:
    """Kernel overlayfs keeps 0/0 devices for itself."""
    inner = [places.base / name for name in ("inner-lower", "inner-upper", "inner-work")]
    for directory in inner:
        directory.mkdir()
    options = "lowerdir={},upperdir={},workdir={}".format(*inner)
    subprocess.run(["mount", "-t", "overlay", "none", places.upper, "-o", options], check=True)
    try:
        with pytest.raises(errors.FilesystemLacks, match=r"mknod c 0 0.*whiteout=aufs"):
            opened(places.options(text="whiteout=overlay"))
        with opened(places.options()) as stack:
            stack.remove_workdir()
    finally:
        subprocess.run(["umount", places.upper], check=True)


# --- rights ---


def test_trusted_attributes(places: Places) -> None:
    probe = places.base / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "trusted.probe", b"")
        trusted = True
    except PermissionError:
        trusted = False
    for text in ("", "ro"):
        with opened(places.options(text=text)) as stack:
            assert stack.trusted is trusted


AS_USER = """
import sys
from unionfs.branches import BranchStack
from unionfs.options import parse
from unionfs.errors import UnionfsError
try:
    with BranchStack.open(parse(sys.argv[1:2], sys.argv[2:3])) as stack:
        stack.open_workdir()
        print("opened", stack.trusted)
except UnionfsError as error:
    print(type(error).__name__, error)
"""


def as_user(user: OrdinaryUser, options: str, mountpoint: Path) -> str:
    done = user.python(AS_USER, options, str(mountpoint))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def reachable(branches: Directories, ordinary_user: OrdinaryUser) -> Directories:
    branches.give_to(ordinary_user)
    return branches


def text_for(places: Directories) -> str:
    return f"lowerdir={places.lower},upperdir={places.upper}"


@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
def test_an_ordinary_user(
    reachable: Directories, ordinary_user: OrdinaryUser, whiteout: str
) -> None:
    options = f"{text_for(reachable)},whiteout={whiteout}"
    assert as_user(ordinary_user, options, reachable.mountpoint) == "opened False"


@pytest.mark.parametrize(
    ("branch", "mode", "message"),
    [
        ("lower", 0o311, "BranchUnreadable"),
        ("lower", 0o644, "BranchUnreadable"),
        ("upper", 0o555, "BranchUnreadable"),
        ("base", 0o644, "BranchUnreadable"),
    ],
)
def test_a_branch_that_this_user_may_not_use(
    reachable: Directories, ordinary_user: OrdinaryUser, branch: str, mode: int, message: str
) -> None:
    place = getattr(reachable, branch)
    place.chmod(mode)
    try:
        said = as_user(ordinary_user, text_for(reachable), reachable.mountpoint)
    finally:
        place.chmod(0o755)
    assert said.startswith(message)
    assert "change its permissions" in said


def test_an_ordinary_user_s_scratch_space_of_any_mode_is_cleared(
    reachable: Directories, ordinary_user: OrdinaryUser
) -> None:
    scratch = reachable.work / "work"
    (scratch / "d" / "e").mkdir(parents=True)
    (scratch / "d" / "e" / "f").touch()
    reachable.give_to(ordinary_user)
    (scratch / "d" / "e").chmod(0)
    (scratch / "d").chmod(0)
    options = f"{text_for(reachable)},workdir={reachable.work}"
    assert as_user(ordinary_user, options, reachable.mountpoint) == "opened False"
    assert os.listdir(scratch) == []
