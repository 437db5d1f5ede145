"""Debian packages: unpacked, rebuilt, installed, upgraded and removed on the mount."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import debootstrap
from tests.mounted.harness import Union, needs_root
from tests.mounted.trees import assert_same, snapshot
from tests.work.twins import Twins, needs, run

pytestmark = [needs("dpkg-deb", "dpkg"), pytest.mark.timeout(120)]


def write_package(root: Path, version: str) -> None:
    """What `dpkg-deb -b` makes a package of: files, a conffile, links, an empty directory."""
    control = root / "DEBIAN"
    control.mkdir(parents=True)
    (control / "control").write_text(
        "Package: specimen\n"
        f"Version: {version}\n"
        "Architecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\n"
        "Description: a package made on the spot\n"
    )
    (control / "conffiles").write_text("/etc/specimen.conf\n")
    (root / "etc").mkdir()
    (root / "etc/specimen.conf").write_text("colour = blue\n")
    library = root / "usr/lib/specimen"
    for number in range(40):
        (library / f"part{number % 4}").mkdir(parents=True, exist_ok=True)
        (library / f"part{number % 4}/{number}.dat").write_text(f"{version} {number}\n" * 200)
    if version == "1":
        (library / "once-a-file").write_text("1")
    else:
        (library / "once-a-file").mkdir()
        (library / "once-a-file/inside").write_text("2")
    (root / "usr/bin").mkdir()
    (root / "usr/bin/specimen").write_text(f"#!/bin/sh\necho {version}\n")
    (root / "usr/bin/specimen").chmod(0o755)
    (root / "usr/bin/also").symlink_to("specimen")
    os.link(library / "part0/0.dat", library / "part1/linked.dat")
    (root / "var/empty").mkdir(parents=True)


def build_package(place: Path, version: str) -> Path:
    tree = place / f"package-{version}"
    write_package(tree, version)
    package = place / f"specimen_{version}.deb"
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-b", tree, package, cwd=place)
    return package


def test_unpack_change_and_rebuild(twins: Twins, place: Path) -> None:
    package = build_package(place, "1")

    def make(root: Path) -> None:
        run("dpkg-deb", "-R", package, root / "tree", cwd=root)

    def job(root: Path) -> list[str]:
        run("dpkg-deb", "-R", package, root / "again", cwd=root)
        for tree in ("tree", "again"):
            notes = root / tree / "usr/lib/specimen/part2/2.dat"
            notes.write_text("changed\n")
            os.utime(notes, (1_600_000_000, 1_600_000_000))
            (root / tree / "usr/bin/also").unlink()
        results = []
        for tree in ("tree", "again"):
            # The times go into the archive.
            for path in [root / tree, *(root / tree).rglob("*")]:
                os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
            built = root / f"{tree}.deb"
            run("dpkg-deb", "--root-owner-group", "-Zgzip", "-b", tree, built, cwd=root)
            results.append(run("dpkg-deb", "-c", built, cwd=root))
            results.append(hashlib.sha256(built.read_bytes()).hexdigest())
        return results

    twins.work(make, job)


@needs_root
def test_install_upgrade_and_purge(twins: Twins, place: Path) -> None:
    first, second = build_package(place, "1"), build_package(place, "2")

    def dpkg(root: Path, *words: str | Path) -> str:
        return run(
            "dpkg", "--force-unsafe-io", "--force-confold", f"--root={root}", "--log=/dev/null",
            *words, cwd=root,
        )  # fmt: skip

    def make(root: Path) -> None:
        for name in ("info", "updates", "triggers"):
            (root / "var/lib/dpkg" / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        dpkg(root, "-i", first)
        (root / "etc/specimen.conf").write_text("colour = green\n")

    def job(root: Path) -> list[str]:
        outputs = [
            dpkg(root, "-i", second),
            dpkg(root, "--verify", "specimen"),
            run("sh", root / "usr/bin/also", cwd=root),
            dpkg(root, "-i", first),
            run("sh", root / "usr/bin/also", cwd=root),
            dpkg(root, "--remove", "specimen"),
            dpkg(root, "-i", second),
            dpkg(root, "--purge", "specimen"),
            dpkg(root, "-i", second),
        ]
        return [output.replace(str(root), "ROOT") for output in outputs]

    twins.work(make, job)


@pytest.mark.slow(reason="debootstrap downloads a root once and unpacks it twice")
@needs_root
@pytest.mark.timeout(900)
def test_debootstrap_makes_a_root_on_the_mount(place: Path) -> None:
    try:
        debootstrap.packages()
    except debootstrap.Unavailable as error:
        pytest.skip(str(error))
    plain = place / "plain"
    with Union(place) as union, ThreadPoolExecutor(2) as pool:
        root = union.mountpoint / "root"
        list(pool.map(debootstrap.make_root, (plain, root)))
        wanted = snapshot(plain, leave_out=debootstrap.CHANGING)
        assert_same(wanted, snapshot(root, leave_out=debootstrap.CHANGING), "mounted")
        union.remount()
        assert_same(wanted, snapshot(root, leave_out=debootstrap.CHANGING), "remounted")
