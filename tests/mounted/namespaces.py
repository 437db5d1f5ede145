"""A user namespace that knows every id of the host but one, and a union mounted in it."""

import ctypes
import os
import struct
import subprocess
from pathlib import Path

from tests.mounted.commands import command, wait_for_nobody
from tests.mounted.users import in_user_namespace

#: The id that the namespace does not have.
STRANGER = 5000
#: The overflow id: stat(2) shows strangers with it, and here it is somebody's too.
NOBODY = 65534
#: The others are inside what they are outside.
_IDS = f"0 0 {STRANGER}\n{STRANGER + 1} {STRANGER + 1} {65536 - STRANGER - 1}"


def make_branches(place: Path) -> Path:
    """The directories of a union, `lower`, `upper` and `mnt`, below `place`; which is returned."""
    for name in ("lower", "upper", "mnt"):
        (place / name).mkdir()
    return place


def inside(place: Path, script: str, options: str = "rw", before: str = "") -> str:
    """Run a script in the namespace, with a union of `place` mounted; what it prints.

    What is to be done before mounting is in `before`.
    """
    mount = f"{command('unionfs-mount')} -o {options} {place}/lower {place}/upper {place}/mnt"
    (place / "script").write_text(f"set -e; {before}\n{mount}\n{script}\ncd /; umount {place}/mnt")
    status, output = in_user_namespace(f"sh {place}/script", _IDS)
    assert status == 0, output
    wait_for_nobody(place)
    return output


#: Numbers of system calls, and flags, that no module has: <linux/mount.h>, mount_setattr(2).
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE, _MOVE_FROM_FD, _AT_EMPTY_PATH, _ATTR_IDMAP = 1, 4, 0x1000, 0x100000
_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *words: int | bytes) -> int:
    result = _libc.syscall(number, *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return int(result)


def mount_idmapped(directory: Path) -> None:
    """Mount a directory over itself with the ids that the namespace has, the stranger's without
    a counterpart."""
    holder = subprocess.Popen(["unshare", "--user", "cat"], stdin=subprocess.PIPE)
    try:
        before = os.readlink("/proc/self/ns/user")
        while os.readlink(f"/proc/{holder.pid}/ns/user") == before:
            assert holder.poll() is None
        for kind in ("uid", "gid"):
            Path(f"/proc/{holder.pid}/{kind}_map").write_text(_IDS)
        namespace = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY)
    finally:
        holder.kill()
        holder.communicate()
    path = os.fsencode(directory)
    tree = _call(_OPEN_TREE, -1, path, _OPEN_TREE_CLONE | os.O_CLOEXEC)
    attributes = struct.pack("QQQQ", _ATTR_IDMAP, 0, 0, namespace)
    _call(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))
    _call(_MOVE_MOUNT, tree, b"", -1, path, _MOVE_FROM_FD)
    os.close(tree)
    os.close(namespace)
