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

#: Of each long run: with the four of them 20,000 for every place; and of each with --long.
OPERATIONS = 5_000
SEARCH = 300_000
TREE = {
    "given": File(content=CONTENT),
    "truncated": File(content=CONTENT),
    "sparse": File(content=CONTENT[:5000], size=150_000),
    **{f"short-{number}": File(content=CONTENT[:70_000]) for number in range(SHORT_RUNS)},
}


PLACES = ["plain", "unionfs-upper", "unionfs-lower", "unionfs-passthrough", "unionfs-user"]


@pytest.fixture(scope="module", params=PLACES)
def mounted(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    if os.geteuid() != 0 and KINDS[request.param].caller != "user":
        pytest.skip("mounting in a namespace of its own needs root")
    mounted = Mounted(request.param, {"fsx": TREE})
    yield mounted
    mounted.close()


@pytest.fixture
def seed(chance: random.Random) -> int:
    return chance.randrange(1 << 32)


@pytest.fixture(
    params=[OPERATIONS, pytest.param(SEARCH, marks=[pytest.mark.long, pytest.mark.timeout(1000)])]
)
def operations(request: pytest.FixtureRequest) -> int:
    """How many operations a long run takes."""
    number: int = request.param
    return number


def _exercise(path: str, seed: int, initial: bytes | None, operations: int) -> None:
    exerciser = Exerciser(path, seed, initial=initial)
    exerciser.run(operations)
    exerciser.close()


def test_new_file(mounted: Mounted, seed: int, operations: int) -> None:
    path = mounted.place("fsx") / f"new-{operations}"
    mounted.run(_exercise, path, seed, None, operations, deadline=120 + operations / 400)


def test_given_file(mounted: Mounted, seed: int, operations: int) -> None:
    path = mounted.place("fsx") / "given"
    mounted.run(_exercise, path, seed, CONTENT, operations, deadline=120 + operations / 400)


def test_given_sparse_file(mounted: Mounted, seed: int, operations: int) -> None:
    content = CONTENT[:5000].ljust(150_000, b"\0")
    path = mounted.place("fsx") / "sparse"
    mounted.run(_exercise, path, seed, content, operations, deadline=120 + operations / 400)


def test_given_file_after_truncation(mounted: Mounted, seed: int, operations: int) -> None:
    path = mounted.place("fsx") / "truncated"

    def act() -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        _exercise(path, seed, b"", operations)

    mounted.run(act, deadline=120 + operations / 400)


def test_short_runs(mounted: Mounted, seed: int) -> None:
    """The first changes of a lower file, in another order every time."""
    place = mounted.place("fsx")

    def act() -> None:
        for number in range(SHORT_RUNS):
            _exercise(place / f"short-{number}", seed + number, CONTENT[:70_000], 60)

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
