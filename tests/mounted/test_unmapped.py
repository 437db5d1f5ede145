"""Files of owners that the mount's user namespace has no id for.

In these namespaces 65534, which such owners are shown with, is the id of somebody: of nobody, as in
those that ``unshare --map-auto`` and container engines make.
"""

import itertools
import os
import stat
import sys
from errno import EOVERFLOW
from pathlib import Path

import pytest

from tests.mounted.harness import Union, detach, fails_with, needs_root, only_unionfs
from tests.mounted.namespaces import NOBODY, STRANGER, inside, make_branches, mount_idmapped
from tests.mounted.rights import CALLERS, CONTENT
from tests.mounted.users import as_user
from tests.posix.acls import ACCESS, acl, decode

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(90)]

UIDS = (0, 1000, NOBODY, STRANGER)
GIDS = (0, 1000, NOBODY, STRANGER)
FILES = (0o600, 0o640, 0o604, 0o666, 0o755, 0o060)
DIRECTORIES = (0o700, 0o770, 0o777)


def tree(root: Path) -> None:
    """Every owner with every mode: ``KIND-UID-GID-MODE``."""
    for uid in UIDS:
        for gid in GIDS:
            for kind, modes in (("f", FILES), ("d", DIRECTORIES)):
                for mode in modes:
                    path = root / f"{kind}-{uid}-{gid}-{mode:o}"
                    path.mkdir() if kind == "d" else path.write_bytes(CONTENT)
                    os.chown(path, uid, gid)
                    path.chmod(mode)


def acl_tree(root: Path) -> None:
    """Files of root with ACLs that name the stranger, as user and as group, among others."""
    texts = itertools.product(
        ("", f"U{STRANGER}:0 ", f"U{STRANGER}:6 "),
        ("", "U1000:0 ", "U1000:6 "),
        ("g:0", "g:4"),
        ("", f" G{STRANGER}:0", f" G{STRANGER}:6"),
        ("m:4 o:0", f"G{NOBODY}:0 m:6 o:4"),
    )
    for number, (stranger, user, group, strangers, rest) in enumerate(texts):
        path = root / f"a-0-0-{number}"
        path.write_bytes(CONTENT)
        os.setxattr(path, ACCESS, acl(f"u:6 {user}{stranger}{group}{strangers} {rest}"))


def is_known(name: str) -> bool:
    return str(STRANGER) not in name.split("-")[1:3]


@pytest.fixture
def branches(place: Path) -> Path:
    return make_branches(place)


def owners(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.lstat().st_uid, path.lstat().st_gid)
        for path in root.rglob("*")
    }


def test_rights_are_those_that_kernel_overlayfs_gives(branches: Path) -> None:
    """Nobody more than there, and to files of known owners the same."""
    tree(branches / "lower")
    acl_tree(branches / "lower")
    for name in ("kernel-upper", "kernel-work", "kernel"):
        (branches / name).mkdir()
    overlay = f"lowerdir={branches}/lower,upperdir={branches}/kernel-upper"
    overlay += f",workdir={branches}/kernel-work,userxattr"
    look = f"{sys.executable} -m tests.mounted.rights"
    output = inside(
        branches,
        f"""
        mount -t overlay -o {overlay} overlay {branches}/kernel
        cd {Path.cwd()}
        {look} {branches}/kernel
        {look} {branches}/mnt
        umount {branches}/kernel
        """,
    )
    lines = [tuple(line.split(" ")) for line in output.splitlines()]
    half = len(lines) // 2
    assert half == len(CALLERS) * len(os.listdir(branches / "lower")) > 0
    for theirs, ours in zip(lines[:half], lines[half:], strict=True):
        assert theirs[:3] == ours[:3]
        may, may_there = (set(line[3].split(",")) - {""} for line in (ours, theirs))
        if is_known(ours[2]):
            assert may == may_there, ours
        else:
            assert may <= may_there, ours
            # Rights that do not come from owning the file are the same, but for changing it.
            owner, group = ours[2].split("-")[1:3]
            if ours[0] != owner and ours[1] != group:
                looking = {"read", "run", "list", "enter"}
                assert may & looking == may_there & looking, ours
    # What copy-ups have written: no owner has become another.
    before, after = owners(branches / "lower"), owners(branches / "upper")
    assert after.items() <= before.items()
    acls = [name for name in after if name.startswith("a-")]
    assert len(acls) > 100
    for name in acls:
        kept = os.getxattr(branches / "lower" / name, ACCESS)
        assert os.getxattr(branches / "upper" / name, ACCESS) == kept


def test_a_group_without_an_id_leaves_a_file_to_its_owner(branches: Path) -> None:
    """Unless it has other rights than others, which nobody's group must not get."""
    upper = branches / "upper"
    os.chown(upper, 0, STRANGER)
    for mode in (0o755, 0o750):
        (upper / f"{mode:o}").mkdir()
        (upper / f"{mode:o}/file").touch()
        os.chown(upper / f"{mode:o}", 1000, STRANGER)
        (upper / f"{mode:o}").chmod(mode)
    output = inside(
        branches,
        f"""
        cd {branches}/mnt
        touch new
        stat -c '%n %u %g' 755 750
        user="setpriv --reuid=1000 --regid=1000 --clear-groups"
        for mode in 755 750; do
            $user touch $mode/new || true
            setpriv --reuid=1 --regid={NOBODY} --clear-groups ls $mode || true
        done 2>&1
        """,
    )
    assert output.splitlines() == [
        f"755 1000 {NOBODY}",
        f"750 1000 {NOBODY}",
        "touch: cannot touch '755/new': Permission denied",
        "file",
        "touch: cannot touch '750/new': Permission denied",
        "ls: cannot open directory '750': Permission denied",
    ]
    assert (upper / "new").exists()


def test_every_type_of_file_tells_its_owner(branches: Path) -> None:
    """Unknown owners own nothing, whatever they own: nobody's own files are nobody's still."""
    names = ("file", "link", "fifo", "dir")
    for owner in (NOBODY, STRANGER):
        here = branches / "lower" / str(owner)
        here.mkdir()
        (here / "file").touch()
        (here / "link").symlink_to("nowhere")
        os.mkfifo(here / "fifo")
        (here / "dir").mkdir()
        for name in names:
            os.lchown(here / name, owner, owner)
    here.parent.chmod(0o777)
    for owner in (NOBODY, STRANGER):
        (branches / "lower" / str(owner)).chmod(0o777 | stat.S_ISVTX)
    output = inside(
        branches,
        f"""
        cd {branches}/mnt
        stat -c '%n %u %g' {STRANGER}/file {NOBODY}/link
        for name in {" ".join(names)}; do
            for owner in {NOBODY} {STRANGER}; do
                setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups \\
                    chown -h {NOBODY} $owner/$name 2> /dev/null && echo $owner owns $name
                rm -r $owner/$name 2> /dev/null && echo $owner/$name is gone
            done
        done
        true
        """,
    )
    assert output.splitlines() == [
        f"{STRANGER}/file {NOBODY} {NOBODY}",
        f"{NOBODY}/link {NOBODY} {NOBODY}",
        *(line for name in names for line in (f"{NOBODY} owns {name}", f"{NOBODY}/{name} is gone")),
    ]


def test_an_unknown_owners_program_cannot_be_replaced(branches: Path) -> None:
    program = branches / "lower/bin/program"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho theirs\n")
    program.chmod(0o755)
    for path in (program, program.parent):
        os.chown(path, STRANGER, STRANGER)
    output = inside(
        branches,
        f"""
        cd {branches}/mnt/bin
        nobody="setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"
        for change in 'echo bad > program' 'rm program' 'mv program other' 'touch new' \\
            'chmod 777 program' 'chown {NOBODY} program'
        do
            $nobody sh -c "$change" 2> /dev/null && echo "nobody may: $change"
            sh -c "$change" 2> /dev/null && echo "root may: $change"
        done
        ./program
        """,
    )
    assert output == "theirs\n"
    assert not list((branches / "upper").iterdir())


def test_the_lookout_ends_with_the_daemon(branches: Path) -> None:
    """It is started by the first owner in question, and a killed daemon leaves nothing mounted."""
    (branches / "lower/link").symlink_to("nowhere")  # which its mode lets everybody write
    os.lchown(branches / "lower/link", STRANGER, 0)
    output = inside(
        branches,
        f"""
        count() {{ pgrep -cf "unionfs-mount .* {branches}/mnt"; }}
        count
        stat {branches}/mnt/link > /dev/null
        count
        cat /proc/$(pgrep -nf "unionfs-mount .* {branches}/mnt")/comm
        kill -KILL $(pgrep -of "unionfs-mount .* {branches}/mnt")
        while count > /dev/null; do sleep 0.01; done
        ! stat {branches}/mnt 2> /dev/null
        """,
    )
    assert output.split() == ["1", "2", "unionfs-lookout"]


def test_a_lookout_that_was_killed_is_started_anew(branches: Path) -> None:
    """By the kernel for its memory, say. One that was stopped does not keep the daemon."""
    for number in range(3):
        (branches / f"lower/{number}").touch()
        os.chown(branches / f"lower/{number}", NOBODY, 0)
    output = inside(
        branches,
        f"""
        daemon=$(pgrep -f "unionfs-mount .* {branches}/mnt")
        chmod 600 {branches}/mnt/0
        for number in 1 2; do
            kill -KILL $(pgrep -P "$daemon")
            chmod 600 {branches}/mnt/$number    # which is EOVERFLOW for an unknown owner's
        done
        ps -o comm= --ppid "$daemon"
        kill -STOP $(pgrep -P "$daemon")
        """,
    )
    assert output == "unionfs-lookout\n"


def test_an_idmapped_branch_has_owners_without_a_counterpart_too(place: Path) -> None:
    """In the first user namespace, which knows every id."""
    union = Union(place)
    for owner in (NOBODY, STRANGER):
        file = union.lower / str(owner)
        file.write_text("content")
        os.chown(file, owner, owner)
        file.chmod(0o604)
    (union.lower / "acl").write_text("content")
    os.setxattr(union.lower / "acl", ACCESS, acl(f"u:6 U7:4 U{STRANGER}:4 g:4 m:4 o:0"))
    mount_idmapped(union.lower)
    try:
        with union as mount:
            root = mount.mountpoint
            for owner in (NOBODY, STRANGER):
                assert (root / str(owner)).stat().st_uid == NOBODY
            as_user(NOBODY, lambda: (root / str(NOBODY)).chmod(0o600))
            fails_with(EOVERFLOW, lambda: as_user(NOBODY, (root / str(STRANGER)).unlink))
            fails_with(EOVERFLOW, lambda: (root / str(STRANGER)).chmod(0o600))
            assert as_user(NOBODY, (root / str(STRANGER)).read_text) == "content"
            assert as_user(7, (root / "acl").read_text) == "content"
            (root / "acl").chmod(0o660)
        assert union.upper is not None
        assert decode(os.getxattr(union.upper / "acl", ACCESS)) == "u:6 U7:4 g:4 m:6 o:0"
    finally:
        detach(union.lower)
