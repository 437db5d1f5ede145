"""pyfuse3 at the other end of the pair: started when needed, and again when it has died."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.conftest import LogWatch
from tests.wire.channel import INIT, Served, fails, status, union_tree, write_in
from unionfs import copyup, operations
from unionfs.relay import Relay

pytestmark = pytest.mark.timeout(60)

Serve = Callable[..., tuple[Served, Relay]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves a tree over `tmp_path` with pyfuse3 as its slow path."""
    ends: list[Callable[[], None]] = []
    with union_tree(tmp_path) as tree:

        def start(**settings: Any) -> tuple[Served, Relay]:
            relay = Relay(tree)
            relay.start()
            ends.append(relay.close)
            served = Served(tmp_path, relay.parking, tree, **settings)
            ends.append(served.close)
            served.wire.ask("INIT", 0, INIT)
            return served, relay

        try:
            yield start
        finally:
            for end in reversed(ends):
                end()


def lower(served: Served, *names: str) -> list[int]:
    """Nodes of lower files in a directory of the lower, which only the slow path copies up."""
    directory = served.lower / "a/b"
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_text("lower")
    wire = served.wire
    parent = wire.lookup(b"b", wire.lookup(b"a"))
    return [wire.lookup(name.encode(), parent) for name in names]


def running(relay: Relay) -> bool:
    return relay.token is not None


def test_prepared_by_pyfuse3(serve: Serve) -> None:
    served, relay = serve()
    one, two = lower(served, "one", "two")
    assert not running(relay)  # nothing has needed it
    assert served.wire.ask("WRITE", one, write_in(b"UP"))
    assert running(relay)
    assert (served.upper / "a/b/one").read_text() == "UPwer"
    assert served.wire.ask("WRITE", two, write_in(b"UP"))
    assert sorted(path.name for path in (served.upper / "a/b").iterdir()) == ["one", "two"]
    found = status(served.wire)["requests"]["WRITE"]
    assert found == {"slow": found["slow"]}
    assert found["slow"]["count"] == 2


def test_renaming_a_lower_directory(serve: Serve) -> None:
    """It is made whole first, however deep."""
    served, _ = serve()
    lower(served, "one", "two")
    served.wire.ask("RENAME", 1, (1).to_bytes(8, sys.byteorder) + b"a\0moved\0")
    assert sorted(os.listdir(served.upper / "moved/b"))[-2:] == ["one", "two"]
    assert (served.upper / "moved/b/one").read_text() == "lower"
    assert served.wire.lookup(b"a") == 0
    assert served.wire.lookup(b"one", served.wire.lookup(b"b", served.wire.lookup(b"moved")))


def test_an_error_reaches_the_application(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "full")

    served, _ = serve()
    (node,) = lower(served, "file")
    monkeypatch.setattr(copyup, "bring_up", full)
    with fails(errno.ENOSPC):
        served.wire.ask("WRITE", node, write_in(b"x"))
    monkeypatch.undo()
    assert served.wire.ask("WRITE", node, write_in(b"x"))


def test_a_bug_is_eio_and_a_record(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, log_watch: LogWatch
) -> None:
    log_watch.expect("broken of node .* failed")

    def broken(*_: object) -> NoReturn:
        raise ZeroDivisionError

    served, relay = serve()
    (node,) = lower(served, "file")
    monkeypatch.setattr(copyup, "bring_up", broken)
    with fails(errno.EIO):
        served.wire.ask("WRITE", node, write_in(b"x"))
    token = relay.token
    monkeypatch.undo()
    assert served.wire.ask("WRITE", node, write_in(b"x"))
    assert relay.token is token  # it was not the end of the loop


def test_a_slow_path_that_dies_in_the_middle_of_work(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, log_watch: LogWatch
) -> None:
    log_watch.expect("the slow path died")
    working = threading.Event()
    go_on = threading.Event()

    def hang(*_: object) -> None:
        working.set()
        go_on.wait(20)

    def crash() -> NoReturn:
        raise RuntimeError("on purpose")

    served, relay = serve()
    one, two, three = lower(served, "one", "two", "three")
    monkeypatch.setattr(copyup, "bring_up", hang)
    due = {
        served.wire.send("WRITE", node, write_in(b"x", offset))
        for offset, node in enumerate([one, one, two])
    }
    assert working.wait(20)
    assert relay.token is not None
    first = relay.token
    first.run_sync_soon(crash)
    go_on.set()  # a thread cannot be killed: trio waits for it
    answers = [served.wire.receive() for _ in due]
    assert {unique for unique, _, _ in answers} == due
    # Those whose preparation had been answered before are asked for again, and meet the same.
    assert {error for _, error, _ in answers} == {errno.EIO}
    monkeypatch.undo()
    for node in (one, two, three):
        assert served.wire.ask("WRITE", node, write_in(b"UP"))
    assert relay.token is not None
    assert relay.token is not first
    assert (served.upper / "a/b/two").read_text() == "UPwer"


def test_a_slow_path_that_cannot_start(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, log_watch: LogWatch
) -> None:
    log_watch.expect("the slow path died")

    def unable(*_: object) -> NoReturn:
        raise RuntimeError("on purpose")

    served, _ = serve()
    (node,) = lower(served, "file")
    monkeypatch.setattr(operations, "Preparing", unable)
    for _ in range(3):
        with fails(errno.EIO):
            served.wire.ask("WRITE", node, write_in(b"x"))
    monkeypatch.undo()
    assert served.wire.ask("WRITE", node, write_in(b"x"))


def test_a_record_that_cannot_be_written(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the thread of the slow path; nobody may wait for it then."""

    def unable(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("on purpose")

    ended = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: ended.set())
    served, _ = serve()
    (node,) = lower(served, "file")
    monkeypatch.setattr(operations, "Preparing", unable)
    monkeypatch.setattr("unionfs.relay.log.exception", unable)
    for _ in range(3):
        with fails(errno.EIO):
            served.wire.ask("WRITE", node, write_in(b"x"))
    assert ended.wait(20)


def test_starting_and_ending_again_and_again_leaks_nothing(tmp_path: Path) -> None:
    def once(number: int) -> None:
        base = tmp_path / str(number)
        base.mkdir()
        with union_tree(base) as tree:
            relay = Relay(tree)
            relay.start()
            served = Served(base, relay.parking, tree)
            served.wire.ask("INIT", 0, INIT)
            if number % 2:
                (node,) = lower(served, "file")
                assert served.wire.ask("WRITE", node, write_in(b"x"))
            served.close()
            relay.close()
            relay.join()

    once(1)  # imports
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(2, 12):
        once(number)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    # Threads of trio's cache end by themselves, ten seconds after their last work.
    assert threading.active_count() <= threads + 2


def test_nothing_of_the_slow_path_is_imported_before_it_is_needed() -> None:
    code = "import sys, unionfs.session; print(*sorted({'trio', 'pyfuse3'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert result.stdout == "\n"
