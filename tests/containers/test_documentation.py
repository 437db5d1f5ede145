"""The commands of docs/containers.md, taken from there, do what it says."""

import configparser
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from testbed.bed import CHECKOUT, PATH, UID, Bed
from testbed.engines import CONTAINERS_CONF
from testbed.images import write_base
from tests.containers.engines import MOUNT_PROGRAM, Who
from tests.mounted.harness import wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(60)]

_DOCUMENT = (CHECKOUT / "docs/containers.md").read_text()


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a language in the section below `heading`, up to the next heading."""
    section = re.split(rf"^#+ {re.escape(heading)}$", _DOCUMENT, flags=re.M)[1]
    section = re.split(r"^#+ ", section, flags=re.M)[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, flags=re.M | re.S)
    assert found, f"no block of {language} below {heading!r}"
    return found


class Reader:
    """An ordinary user who types what the document says."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.home = bed.directory("reader", UID)
        write_base(self.home / "base.tar")
        self.type("mkdir base && tar -C base -xf base.tar")

    def type(self, script: str) -> str:
        return self._bed.run(
            *("sh", "-ec", script),
            uid=UID,
            directory=self.home,
            environment={"HOME": str(self.home), "PATH": f"{MOUNT_PROGRAM.parent}:{PATH}"},
        )


@pytest.fixture
def reader(user_bed: Bed) -> Iterator[Reader]:
    reader = Reader(user_bed)
    yield reader
    reader.type("! mountpoint -q root || fusermount3 -u root")


@pytest.mark.parametrize("number", [0, 1], ids=get_args(Who)[::-1])
def test_the_lines_of_storage_conf_are_all_it_takes(user_bed: Bed, number: int) -> None:
    """The first block is an ordinary user's, the second one root's."""
    uid = (UID, 0)[number]
    text = blocks("podman and buildah", "toml")[number]
    assert "/usr/local/bin/unionfs-mount" in text
    home = user_bed.directory("reader", uid)
    files = {
        ".config/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
        "storage.conf": text.replace("/usr/local/bin/unionfs-mount", str(MOUNT_PROGRAM)),
        "containers.conf": CONTAINERS_CONF.format(home=home),
    }
    (home / ".config/containers").mkdir(parents=True)
    for name, content in files.items():
        (home / name).write_text(content)
    write_base(home / "base.tar")
    # Root's file and directories are the machine's: in a mount namespace of its own it has others.
    own = """
    mount -t tmpfs none /var/lib/containers
    mount -t tmpfs none /etc/containers
    cp storage.conf /etc/containers
    """
    script = f"""
    if [ "$(id -u)" = 0 ]; then {own} else cp storage.conf .config/containers; fi
    podman import --quiet base.tar localhost/base:latest
    podman run --rm localhost/base:latest cat /proc/mounts
    podman info
    podman rmi --force localhost/base:latest
    """
    user_bed.run("chown", "-R", f"{uid}:{uid}", home)
    run = f"/dev/shm/reader-{uid}"
    user_bed.run("install", "--directory", "--mode=700", f"--owner={uid}", run)
    said = user_bed.run(
        *(["unshare", "--mount"] if uid == 0 else []),
        *("sh", "-ec", script),
        uid=uid,
        directory=home,
        environment={
            "HOME": str(home), "XDG_RUNTIME_DIR": run, "CONTAINERS_CONF": f"{home}/containers.conf"
        },
    )  # fmt: skip
    assert "unionfs / fuse.unionfs-mount rw" in said
    assert f"Executable: {MOUNT_PROGRAM}" in said


def test_quicker_starts_name_what_is_installed() -> None:
    (settings,) = blocks("Quicker starts", "toml")
    (unit,) = blocks("Quicker starts", "systemd")
    named = re.findall(r"/usr/local/bin/(\S+?)\"?$", settings + unit, flags=re.M)
    assert named == ["unionfs-quickmount", "unionfs-mountd"]
    for name in named:
        assert os.access(MOUNT_PROGRAM.parent / name, os.X_OK)


@pytest.mark.parametrize("sandbox", ["bubblewrap", "crun", "runc"])
def test_an_ordinary_user_runs_a_sandbox_on_a_union(reader: Reader, sandbox: str) -> None:
    for block in blocks("Without an engine", "sh") + blocks(sandbox, "sh"):
        reader.type(block)
    assert (reader.home / "changes/greeting").read_text() == f"{sandbox}\n"
    assert not (reader.home / "base/greeting").exists()


def test_a_user_namespace_gives_files_other_owners(reader: Reader) -> None:
    (block,) = blocks("A user namespace", "sh")
    reader.type(block)
    greeting = reader.home / "changes/greeting"
    assert greeting.read_text() == "namespace\n"
    assert greeting.stat().st_uid not in (0, 5, UID)  # one of the user's subordinate ids
    wait_until(lambda: not (reader.home / "changes/.wh..wh.work").exists(), "the daemon ends")


#: What a machine looks like for the examples: /srv, and unionfs-mount where mount(8) looks.
_MACHINE = """
mount -t tmpfs none /srv
mkdir /srv/base /srv/patch /srv/changes /srv/union
echo one > /srv/base/a
echo two > /srv/patch/b
mount -t tmpfs none /usr/local/sbin
ln -s "$0" /usr/local/sbin/unionfs-mount
"$@"
cat /srv/union/a /srv/union/b
echo three > /srv/union/c
umount /srv/union
cat /srv/changes/c
"""


def _boot(bed: Bed, *command: str | Path) -> str:
    return bed.run("unshare", "--mount", "sh", "-ec", _MACHINE, MOUNT_PROGRAM, *command)


def test_the_line_of_fstab_mounts(bed: Bed) -> None:
    (line,) = blocks("At boot", "fstab")
    fstab = bed.directory("etc") / "fstab"
    fstab.write_text(line)
    assert _boot(bed, "mount", "--fstab", fstab, "/srv/union") == "one\ntwo\nthree\n"


def test_the_unit_of_systemd_mounts(bed: Bed) -> None:
    """By what systemd runs for a mount unit: mount WHAT WHERE -t TYPE -o OPTIONS."""
    (text,) = blocks("At boot", "systemd")
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read_string(text)
    mount = unit["Mount"]
    words = ("mount", mount["What"], mount["Where"], "-t", mount["Type"], "-o", mount["Options"])
    assert _boot(bed, *words) == "one\ntwo\nthree\n"
