"""Each broken upper is named for what it is; repairing keeps what the union shows."""

import os
from pathlib import Path

import pytest

from tests.check.golden import CASES, LINKS, Broken
from tests.check.upper import Upper, opened
from tests.tree.union import on_disk
from unionfs.check import KINDS, check

#: Findings that no plain tree can have; the tests below and those of the command show them.
ELSEWHERE = {"other-filesystem", "unreadable", "workdir-elsewhere"}


def build(upper: Upper, case: Broken) -> list[set[str]]:
    """What is to be found, and what is to be left."""
    built = case.build(upper)
    name = f"{LINKS}/{built:016x}" if isinstance(built, int) else built
    return [{text.format(name) for text in texts} for texts in (case.found, case.left)]


def named(findings: object) -> list[str]:
    return sorted(f"{one.code} {one.path}" for one in findings)  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_found(upper: Upper, case: Broken) -> None:
    found, _ = build(upper, case)
    before = on_disk(upper.path)
    assert named(upper.check(lower=case.lower)) == sorted(found)
    assert on_disk(upper.path) == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_repaired(upper: Upper, case: Broken) -> None:
    found, left = build(upper, case)
    before = None if case.changes or not can_be_shown(case) else upper.visible()
    findings = upper.check(lower=case.lower, repair=True)
    assert {f"{one.code} {one.path}" for one in findings} == found
    assert {f"{one.code} {one.path}" for one in findings if not one.repaired} == left
    assert named(upper.check(lower=case.lower)) == sorted(left)
    if before is not None:
        assert upper.visible() == before


def can_be_shown(case: Broken) -> bool:
    """What is this broken cannot be looked at without an error, or before it is repaired."""
    return not {"link-type", "workdir-type", "link-count-malformed"} & {
        text.split()[0] for text in case.found
    }


def test_every_kind_is_shown() -> None:
    shown = {text.split()[0] for case in CASES for text in case.found}
    assert shown | ELSEWHERE == set(KINDS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_data_stays(upper: Upper, case: Broken) -> None:
    """No file that holds something is gone, or has changed, but in scratch space."""
    build(upper, case)

    def data() -> dict[str, object]:
        return {
            path: content
            for path, content in on_disk(upper.path).items()
            if isinstance(content, bytes) and content and "/work/" not in path
            if not path.endswith(".n")
        }

    before = data()
    upper.check(lower=case.lower, repair=True)
    assert data() == before


def test_repaired_counts_are_right(upper: Upper) -> None:
    number = upper.linked("a", "b", "c", count="1")
    upper.put(".wh.c")
    upper.check(lower=True, repair=True)
    assert os.readlink(upper.links / f"{number:016x}.n") == "2"
    assert {upper.visible()[name][1] for name in ("a", "b")} == {2}


def test_repaired_origin_is_shown_again(upper: Upper) -> None:
    upper.put("d/a")
    upper.attribute("d/a", "trusted.unionfs.origin", b"123456789")
    assert upper.visible()["d/a"][6] != 123456789
    upper.check(repair=True)
    assert upper.visible()["d/a"][6] == 123456789


def test_one_repair_can_heal_two_findings(upper: Upper) -> None:
    upper.put("d/a")
    upper.attribute("d", "trusted.unionfs.impure", b"impure")
    upper.attribute("d/a", "trusted.unionfs.origin", b"123456789")
    assert named(upper.check()) == ["impure-malformed d", "origin-unread d"]
    assert named(upper.check(repair=True)) == ["impure-malformed d"]
    assert upper.check() == []


def test_workdir_elsewhere(upper: Upper) -> None:
    with opened(upper.path, Path("/dev/shm")) as (fd, elsewhere):
        assert named(check(fd, elsewhere)) == ["workdir-elsewhere workdir:."]


def test_a_workdir_that_was_given(upper: Upper) -> None:
    place = upper.base / "given"
    (place / "work").mkdir(parents=True)
    (place / "work" / "#1").touch()
    (place / "links").mkdir(mode=0o700)
    (place / "links" / "x").touch()
    with opened(upper.path, place) as (fd, workdir):
        assert named(check(fd, workdir)) == [
            "link-unknown workdir:links/x",
            "scratch-left workdir:work",
            "workdir-mode workdir:work",
        ]


def test_repairing_what_cannot_be_changed_says_why(upper: Upper) -> None:
    upper.put("d/.wh..wh.a/data")
    (finding,) = upper.check(repair=True)
    assert not finding.repaired
    assert finding.detail == "repairing failed: Directory not empty"
