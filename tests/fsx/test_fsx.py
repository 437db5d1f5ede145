"""A share of the exerciser's work on the union: on its own files and on files of a lower."""

import os
import random
from collections.abc import Iterator

import pytest

from tests.fsx.exerciser import Exerciser, Mismatch
from tests.posix.places import KINDS, Mounted
from tests.posix.trees import File

CONTENT = random.Random(1).randbytes(150_000)
SHORT_RUNS = 100

#: Of each long run: with the four of them 20,000 for every place.
OPERATIONS = 5_000
TREE = {
    "given": File(content=CONTENT),
    "truncated": File(content=CONTENT),
    "sparse": File(content=CONTENT[:5000], size=150_000),
    **{f"short-{number}": File(content=CONTENT[:70_000]) for number in range(SHORT_RUNS)},
}


@pytest.fixture(scope="module", params=["plain", "unionfs-upper", "unionfs-lower", "unionfs-user"])
def mounted(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    if os.geteuid() != 0 and KINDS[request.param].caller != "user":
        pytest.skip("mounting in a namespace of its own needs root")
    mounted = Mounted(request.param, {"fsx": TREE})
    yield mounted
    mounted.close()


def _exercise(path: str, seed: int, initial: bytes | None, operations: int) -> None:
    exerciser = Exerciser(path, seed, initial=initial)
    exerciser.run(operations)
    exerciser.close()


def test_new_file(mounted: Mounted) -> None:
    mounted.run(_exercise, mounted.place("fsx") / "new", 11, None, OPERATIONS, deadline=120)


def test_given_file(mounted: Mounted) -> None:
    mounted.run(_exercise, mounted.place("fsx") / "given", 12, CONTENT, OPERATIONS, deadline=120)


def test_given_sparse_file(mounted: Mounted) -> None:
    content = CONTENT[:5000].ljust(150_000, b"\0")
    mounted.run(_exercise, mounted.place("fsx") / "sparse", 13, content, OPERATIONS, deadline=120)


def test_given_file_after_truncation(mounted: Mounted) -> None:
    path = mounted.place("fsx") / "truncated"

    def act() -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        _exercise(path, 14, b"", OPERATIONS)

    mounted.run(act, deadline=120)


def test_short_runs(mounted: Mounted) -> None:
    """The first changes of a lower file, in another order every time."""
    place = mounted.place("fsx")

    def act() -> None:
        for number in range(SHORT_RUNS):
            _exercise(place / f"short-{number}", number, CONTENT[:70_000], 60)

    mounted.run(act, deadline=120)


def test_finds_a_planted_fault(tmp_path: object) -> None:
    """An exerciser that cannot fail proves nothing: change one byte behind its back."""
    path = os.path.join(str(tmp_path), "file")
    exerciser = Exerciser(path, 3)
    exerciser.run(200)
    size = os.stat(path).st_size or 1
    with open(path, "r+b") as file:
        file.seek(size // 2)
        byte = file.read(1) or b"\0"
        file.seek(size // 2)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(Mismatch, match=r"seed 3, operation"):
        exerciser.run(1)
    exerciser.close()
