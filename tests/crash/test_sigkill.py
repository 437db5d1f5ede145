"""SIGKILL at random instants under load: each name is as before or as after its operation."""

import mmap
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

from tests.mounted.harness import FROM_THE_DEAD, Union, needs_root, only_unionfs
from tests.mounted.trees import branch, build, differences

pytestmark = [only_unionfs, needs_root, pytest.mark.timeout(240)]

WORKERS = 4

#: What one worker's directory holds: path -> content, None for a directory.
State = dict[str, bytes | None]


class Step:
    """One system call that changes the tree, and what it makes of a state."""

    def __init__(self, text: str, act: Callable[[Path], object], after: State) -> None:
        self.text = text
        self.act = act
        self.after = after


def write_at(path: Path, data: bytes, offset: int) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(descriptor, data, offset) == len(data)
    finally:
        os.close(descriptor)


def files(state: State) -> list[str]:
    return [path for path, content in state.items() if content is not None]


def directories(state: State) -> list[str]:
    return [path for path, content in state.items() if content is None]


def new_path(chosen: random.Random, state: State) -> str:
    """A path in a directory that is there; it may itself be there."""
    return os.path.join(chosen.choice(["", *directories(state)]), f"n{chosen.randrange(12)}")


def below(state: State, directory: str) -> list[str]:
    return [path for path in state if path.startswith(f"{directory}/")]


def _create(chosen: random.Random, state: State, path: str) -> Step:
    return Step(
        f"create {path}",
        lambda root: os.close(os.open(root / path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
        state | {path: b""},
    )


def _mkdir(chosen: random.Random, state: State, path: str) -> Step:
    return Step(f"mkdir {path}", lambda root: os.mkdir(root / path), state | {path: None})


def _write(chosen: random.Random, state: State, path: str) -> Step:
    old = state[path]
    assert old is not None
    offset = chosen.randrange(len(old) + 1)
    # Within a page: the kernel may send a write across two as two requests.
    room = mmap.PAGESIZE - offset % mmap.PAGESIZE
    data = bytes([chosen.randrange(256)]) * chosen.randrange(1, room + 1)
    new = old[:offset] + data + old[offset + len(data) :]
    return Step(
        f"write {path} {len(data)}@{offset}",
        lambda root: write_at(root / path, data, offset),
        state | {path: new},
    )


def _truncate(chosen: random.Random, state: State, path: str) -> Step:
    old = state[path]
    assert old is not None
    size = chosen.choice([0, len(old) // 2, len(old) + 1000])
    return Step(
        f"truncate {path} {size}",
        lambda root: os.truncate(root / path, size),
        state | {path: old[:size].ljust(size, b"\0")},
    )


def _unlink(chosen: random.Random, state: State, path: str) -> Step:
    after = {name: content for name, content in state.items() if name != path}
    return Step(f"unlink {path}", lambda root: os.unlink(root / path), after)


def _rmdir(chosen: random.Random, state: State, path: str) -> Step:
    after = {name: content for name, content in state.items() if name != path}
    return Step(f"rmdir {path}", lambda root: os.rmdir(root / path), after)


def _rename(chosen: random.Random, state: State, path: str) -> Step | None:
    target = new_path(chosen, state)
    if target == path or (target in state and state[target] is None):
        return None
    after = {name: content for name, content in state.items() if name != path}
    after[target] = state[path]
    return Step(
        f"rename {path} {target}", lambda root: os.rename(root / path, root / target), after
    )


def _rename_directory(chosen: random.Random, state: State, path: str) -> Step | None:
    target = new_path(chosen, state)
    if target.startswith(path) or below(state, target) or state.get(target) is not None:
        return None
    after: State = {}
    for name, content in state.items():
        if name == path or name.startswith(f"{path}/"):
            after[target + name.removeprefix(path)] = content
        elif name != target:
            after[name] = content
    return Step(
        f"rename {path} {target}", lambda root: os.rename(root / path, root / target), after
    )


Taker = Callable[[random.Random, State, str], Step | None]

#: What may come next, each with the paths of a state that it can be done to; one that is there
#: twice comes twice as often.
KINDS: list[tuple[Taker, Callable[[State], list[str]]]] = [
    (_create, lambda state: []),
    (_mkdir, lambda state: []),
    *[(_write, files)] * 2,
    (_truncate, files),
    (_unlink, files),
    (_rmdir, lambda state: [name for name in directories(state) if not below(state, name)]),
    (_rename, files),
    (_rename_directory, directories),
]


def random_step(chosen: random.Random, state: State) -> Step:
    """A step that succeeds in `state`."""
    while True:
        take, candidates = chosen.choice(KINDS)
        if take in (_create, _mkdir):
            path = new_path(chosen, state)
            if path in state or path.count("/") > 3:
                continue
        else:
            wanted = candidates(state)
            if not wanted:
                continue
            path = chosen.choice(wanted)
        step = take(chosen, state, path)
        if step is not None:
            return step


def read_state(root: Path) -> State:
    state: State = {}
    for base, directories, files in os.walk(root):
        for name in directories:
            state[os.path.relpath(os.path.join(base, name), root)] = None
        for name in files:
            path = os.path.join(base, name)
            state[os.path.relpath(path, root)] = Path(path).read_bytes()
    return state


class Worker(threading.Thread):
    """Takes steps until the mount dies under it."""

    def __init__(self, root: Path, state: State, seed: int, killed: threading.Event) -> None:
        super().__init__()
        self.killed = killed
        self.root = root
        self.before = self.after = state
        self.chosen = random.Random(seed)
        self.steps: list[str] = []  #: taken or begun, the last one perhaps in vain
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while True:
                step = random_step(self.chosen, self.before)
                self.steps.append(step.text)
                self.after = step.after
                step.act(self.root)
                self.before = self.after
        except OSError as error:
            if not self.killed.is_set() or error.errno not in FROM_THE_DEAD:
                self.failure = error
        except BaseException as error:
            self.failure = error


def lower_state(worker: int) -> State:
    """What a worker's directory holds at first, spread over two lowers."""
    state: State = {f"n{number}": bytes([65 + number]) * (4000 * number) for number in range(6)}
    state |= {f"d{number}": None for number in range(3)}
    state |= {f"d{number}/n{file}": b"lower" * 20_000 for number in range(3) for file in range(4)}
    return state


def short(state: State) -> dict[str, str]:
    """A state with digests in the place of contents, to be shown."""
    return {
        path: "directory" if content is None else f"{len(content)} bytes, {crc32(content):08x}"
        for path, content in state.items()
    }


def report(union: Union, worker: str, what: list[str], history: list[str]) -> str:
    """What a failure can be explained with: all that was done, and what the branches hold."""
    assert union.upper is not None
    lines = [*what, *history]
    for place in (union.upper, *union.lowers):
        lines += [f"{place.name}/{worker}:", *map(str, sorted(branch(place / worker).items()))]
    return "\n".join(lines)


def check_upper(union: Union) -> None:
    """Nothing is left of work under way: no work directory, no whiteout that hides nothing."""
    assert union.upper is not None
    found = branch(union.upper)
    assert not [path for path in found if ".wh..wh.work" in path]
    for path, what in found.items():
        base, name = os.path.split(path)
        if what == "whiteout" or (name.startswith(".wh.") and name != ".wh..wh..opq"):
            hidden = os.path.join(base, name.removeprefix(".wh."))
            assert any(os.path.lexists(lower / hidden) for lower in union.lowers), path


@pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
@pytest.mark.parametrize(
    "rounds", [30, pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
def test_every_name_is_before_or_after(
    place: Path, whiteout: str, rounds: int, chance: random.Random
) -> None:
    union = Union(place, lowers=2, whiteout=whiteout)
    states = []
    histories: list[list[str]] = [[] for _ in range(WORKERS)]
    for worker in range(WORKERS):
        state = lower_state(worker)
        states.append(state)
        for number, (path, content) in enumerate(sorted(state.items())):
            if content is None:
                for lower in union.lowers:
                    build(lower, {f"w{worker}/{path}": None})
            else:
                build(union.lowers[number % 2], {f"w{worker}/{path}": content})
    union.mount()
    try:
        for attempt in range(rounds):
            killed = threading.Event()
            workers = [
                Worker(
                    union.mountpoint / f"w{number}",
                    states[number],
                    chance.randrange(1 << 30),
                    killed,
                )
                for number in range(WORKERS)
            ]
            for worker in workers:
                worker.start()
            # How long is random: no result depends on it.
            time.sleep(chance.uniform(0, 0.25))
            killed.set()
            os.kill(union.pid, signal.SIGKILL)
            # The dead mount stays until nobody works on it, so that nobody works below it.
            for worker in workers:
                worker.join()
            union.clear_dead()
            union.mount()
            for number, worker in enumerate(workers):
                histories[number] += [*worker.steps, f"kill {attempt}"]
                found = read_state(union.mountpoint / f"w{number}")
                if worker.failure is not None or found not in (worker.before, worker.after):
                    what = [repr(worker.failure), *differences(short(worker.before), short(found))]
                    pytest.fail(report(union, f"w{number}", what, histories[number]), pytrace=False)
                states[number] = found
            assert union.upper is not None
            # All that may be there is the note of who has mounted.
            assert os.listdir(union.upper / ".wh..wh.work/work") == ["mounted-by"]
        union.unmount()
        check_upper(union)
    finally:
        union.unmount()
