"""ACLs that name users and groups whom the mount's user namespace has no id for.

They give or deny nothing to anybody there; outside, what was copied up means what it did before.
"""

import os
import stat
from pathlib import Path

import pytest

from tests.mounted.harness import needs_root, only_unionfs
from tests.mounted.namespaces import STRANGER, inside, make_branches
from tests.posix.acls import ACCESS, DEFAULT, acl, decode

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(90)]

NAMED = f"u:6 U7:6 U{STRANGER}:6 g:4 G{STRANGER}:4 m:6 o:0"
INHERITED = f"u:7 U{STRANGER}:7 g:5 m:7 o:0"

user = "setpriv --reuid=7 --regid=7 --clear-groups"
other = "setpriv --reuid=8 --regid=8 --clear-groups"
getfacl = "getfacl --omit-header --numeric --absolute-names"


@pytest.fixture
def branches(place: Path) -> Path:
    make_branches(place)
    lower = place / "lower"
    for name in ("file", "other", "replaced"):
        (lower / name).write_text("content")
        os.setxattr(lower / name, ACCESS, acl(NAMED))
    (lower / "shared").mkdir()
    (lower / "shared").chmod(0o777)
    os.setxattr(lower / "shared", DEFAULT, acl(INHERITED))
    os.setxattr(lower / "shared", ACCESS, acl(f"u:7 U{STRANGER}:7 g:7 m:7 o:7"))
    (lower / "shared/file0").touch()
    (lower / "shared/file7").touch()
    os.mkfifo(lower / "shared/fifo")
    os.setxattr(lower / "shared/fifo", ACCESS, acl(NAMED))
    return place


def acl_of(path: Path, name: str = ACCESS) -> str:
    return decode(os.getxattr(path, name))


@pytest.mark.parametrize(
    "options",
    [
        "whiteout=aufs",
        "whiteout=overlay",
        "copyup=open",
        "uidmapping=0:0:65536,gidmapping=0:0:65536",
    ],
)
def test_files_stay_usable_and_their_copies_keep_the_acl(branches: Path, options: str) -> None:
    output = inside(
        branches,
        f"""
        cd {branches}/mnt
        {getfacl} file
        {user} cat file; echo
        {other} cat file 2> /dev/null || echo no
        {user} sh -c 'echo more >> file'
        chmod 640 other
        {other} chmod 777 other 2> /dev/null || echo no
        mv file moved
        chown 9 shared/fifo
        """,
        options,
    )
    shown = "user::rw-|user:7:rw-|group::r--|mask::rw-|other::---|"
    assert output.replace("\n", "|") == f"{shown}|content|no|no|"
    upper = branches / "upper"
    assert acl_of(upper / "moved") == NAMED
    assert (upper / "moved").read_text() == "contentmore\n"
    assert acl_of(upper / "other") == NAMED.replace("m:6", "m:4")
    assert stat.S_IMODE((upper / "other").stat().st_mode) == 0o640
    assert acl_of(upper / "shared", DEFAULT) == INHERITED
    assert acl_of(upper / "shared/fifo") == NAMED
    assert (upper / "shared/fifo").lstat().st_uid == 9
    for path in upper.rglob("*"):
        found = set(os.listxattr(path, follow_symlinks=False))
        assert not {name for name in found if "overlay." in name and name[-6:] != "opaque"}, path
    assert not list(branches.glob("work/*"))


@pytest.mark.parametrize("options", ["whiteout=aufs", "whiteout=overlay"])
def test_what_is_created_inherits_all_of_a_default_acl(branches: Path, options: str) -> None:
    inside(
        branches,
        f"""
        umask 077
        cd {branches}/mnt/shared
        for who in 0 7; do
            make="setpriv --reuid=$who --regid=$who --clear-groups"
            rm file$who     # leaves a whiteout
            $make mkdir file$who directory$who
            $make mkfifo pipe$who
            $make touch new$who
        done
        """,
        options,
    )
    upper = branches / "upper/shared"
    made = sorted(path for path in upper.iterdir() if not path.name.startswith(".wh."))
    assert len(made) == 8
    for path in made:
        bits = (7, 7) if path.is_dir() else (6, 6)
        assert acl_of(path) == INHERITED.replace("u:7", f"u:{bits[0]}").replace(
            "m:7", f"m:{bits[1]}"
        )
        if path.is_dir():
            assert acl_of(path, DEFAULT) == INHERITED


def test_a_copy_keeps_its_acl_where_acls_do_not_count(branches: Path) -> None:
    inside(branches, f"chmod 600 {branches}/mnt/file", "noacl")
    assert acl_of(branches / "upper/file") == NAMED.replace("m:6", "m:0")


def test_an_acl_that_is_set_replaces_the_whole(branches: Path) -> None:
    output = inside(
        branches,
        f"""
        cd {branches}/mnt
        setfacl -m u:8:4 file
        {other} cat file
        setfacl -b other
        setfacl -d -m u:8:7 shared
        mkdir shared/new
        """,
    )
    assert output == "content"
    upper = branches / "upper"
    assert acl_of(upper / "file") == "u:6 U7:6 U8:4 g:4 m:6 o:0"
    assert ACCESS not in os.listxattr(upper / "other")
    assert acl_of(upper / "shared/new", DEFAULT) == "u:7 U8:7 g:5 m:7 o:0"


#: ACLs, and what a copy has that cannot have entries about the stranger; None: there is none.
LEFT = {
    NAMED: "u:6 U7:6 g:4 m:6 o:0",
    f"u:6 U{STRANGER}:6 g:4 m:4 o:4": "u:6 g:4 m:4 o:4",
    f"u:6 U{STRANGER}:4 g:6 m:4 o:0": "u:6 g:6 m:4 o:0",
    f"u:6 U{STRANGER}:0 g:0 G{STRANGER}:0 m:0 o:0": "u:6 g:0 m:0 o:0",
    # The stranger would get what others, or a group that he may be in, have.
    f"u:6 U{STRANGER}:0 g:0 m:6 o:4": None,
    f"u:6 U{STRANGER}:6 g:6 m:4 o:6": None,
    f"u:6 U{STRANGER}:4 g:6 m:6 o:0": None,
    f"u:6 U{STRANGER}:0 g:0 G7:4 m:4 o:0": None,
    f"u:6 g:0 G{STRANGER}:0 m:6 o:4": None,
    f"u:6 g:6 G{STRANGER}:4 m:6 o:4": "u:6 g:6 m:6 o:4",
}


def test_where_overlayfs_cannot_help_nobody_gets_more(branches: Path) -> None:
    """A stack of two overlays is as high as the kernel lets one be."""
    for number, text in enumerate(LEFT):
        (branches / "lower" / str(number)).write_text("content")
        os.setxattr(branches / "lower" / str(number), ACCESS, acl(text))
    below = branches / "lower"
    before = ""
    for name in ("first", "second"):
        for kind in ("", "-upper", "-work"):
            (branches / f"{name}{kind}").mkdir()
        here = branches / name
        data = f"lowerdir={below},upperdir={here}-upper,workdir={here}-work,userxattr"
        before += f"mount -t overlay -o {data} overlay {here}\n"
        below = here
    before += f"mount --bind {below} {branches}/lower"
    output = inside(
        branches,
        f"""
        cd {branches}/mnt
        for number in $(seq 0 {len(LEFT) - 1}); do
            touch $number 2>&1 || cat $number; echo
        done
        """,
        before=before,
    )
    upper = branches / "upper"
    for number, (text, left) in enumerate(LEFT.items()):
        if left is None:
            assert not (upper / str(number)).exists(), text
        else:
            assert acl_of(upper / str(number)) == left, text
    assert output.count("Value too large for defined data type\ncontent\n") == 5
