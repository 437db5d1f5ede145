"""What the tests keep of debootstrap for other runs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import debootstrap


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(debootstrap, "KEPT", tmp_path / "kept")


def test_a_file_is_made_once_for_all() -> None:
    places = []

    def make(file: Path, place: Path) -> str:
        places.append(place)
        place.mkdir()
        file.write_text("content")
        return ""

    with ThreadPoolExecutor(4) as pool:
        kept = set(pool.map(lambda _: debootstrap._kept("file", make), range(4)))
    assert kept == {(debootstrap.KEPT / "file", "")}
    assert (debootstrap.KEPT / "file").read_text() == "content"
    assert len(places) == 1
    assert not places[0].exists()


def test_a_file_that_cannot_be_made_is_tried_again() -> None:
    def fail(file: Path, _: Path) -> str:
        file.write_text("half")
        return "no mirror"

    def interrupt(file: Path, _: Path) -> str:
        file.write_text("half")
        raise KeyboardInterrupt

    assert debootstrap._kept("file", fail)[1] == "no mirror"
    with pytest.raises(KeyboardInterrupt):
        debootstrap._kept("file", interrupt)
    assert not (debootstrap.KEPT / "file").exists()

    def make(file: Path, _: Path) -> str:
        file.write_text("whole")
        return ""

    assert debootstrap._kept("file", make) == (debootstrap.KEPT / "file", "")
    assert (debootstrap.KEPT / "file").read_text() == "whole"
