"""A user namespace that knows every id of the host but one, and a union mounted in it."""

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
