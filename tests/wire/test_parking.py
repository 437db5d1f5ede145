"""What needs the slow path waits for it, is asked for once, and runs again; the rest goes on."""

import errno
import struct
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import LogWatch
from tests.wire.channel import OPCODE, Served, status, write_in
from tests.wire.conftest import Serve, SlowPath

pytestmark = pytest.mark.timeout(60)

Play = Callable[[Served], SlowPath]


def large_file(served: Served, name: str = "large") -> int:
    """The node of a lower file that only the slow path may copy up (inline_limit is 0)."""
    if not (served.lower / name).exists():
        (served.lower / name).write_bytes(b"lower")
    node = served.wire.lookup(name.encode())
    assert node
    return node


def interrupt(served: Served, unique: int) -> None:
    served.wire.send("INTERRUPT", 0, struct.pack("=Q", unique))


def test_prepared_and_run_again(serve: Serve, slow_path: Play) -> None:
    served = serve()
    slow = slow_path(served)
    node = large_file(served)
    unique = served.wire.send("WRITE", node, write_in(b"UP"))
    question, opcode, asked_for = slow.question()
    assert (opcode, asked_for) == (OPCODE["OPEN"], node)
    assert status(served.wire)["parked"] == 1  # everybody else is served meanwhile
    served.tree.copy_up(node)
    slow.answer(question)
    assert served.wire.receive()[:2] == (unique, 0)
    assert (served.upper / "large").read_bytes() == b"UPwer"
    assert (served.lower / "large").read_bytes() == b"lower"
    found = status(served.wire)
    assert found["parked"] == 0
    assert found["requests"]["WRITE"]["slow"]["count"] == 1
    assert "fast" not in found["requests"]["WRITE"]


def test_one_question_for_all_who_wait(serve: Serve, slow_path: Play) -> None:
    served = serve()
    slow = slow_path(served)
    node = large_file(served)
    other = large_file(served, "other")
    sent = {served.wire.send("WRITE", node, write_in(b"x", 10 + n)) for n in range(50)}
    question, _, asked_for = slow.question()
    assert asked_for == node
    sent.add(served.wire.send("WRITE", other, write_in(b"x")))
    second, _, asked_for = slow.question()
    assert asked_for == other  # nothing else was asked in between
    assert status(served.wire)["parked"] == 51
    for one, which in ((second, other), (question, node)):
        served.tree.copy_up(which)
        slow.answer(one)
    answers = [served.wire.receive() for _ in sent]
    assert {unique for unique, _, _ in answers} == sent
    assert {error for _, error, _ in answers} == {0}
    assert (served.upper / "large").read_bytes() == b"lower" + bytes(5) + b"x" * 50


def test_many_questions(serve: Serve, slow_path: Play) -> None:
    """More than may be under way at once; answered in any order."""
    served = serve()
    names = [f"file{number}" for number in range(200)]
    for name in names:  # before the mount looks: lowers do not change later
        (served.lower / name).write_bytes(b"lower")
    nodes = [large_file(served, name) for name in names]
    sent = {served.wire.send("WRITE", node, write_in(b"U")) for node in nodes}
    assert status(served.wire)["parked"] == 200  # no slow path yet
    slow = slow_path(served)
    waiting: list[tuple[int, int]] = []
    for left in range(200, 0, -1):
        while len(waiting) < min(64, left):
            question, _, node = slow.question()
            waiting.append((question, node))
        question, node = waiting.pop(left % len(waiting))
        served.tree.copy_up(node)
        slow.answer(question)
    answers = [served.wire.receive() for _ in sent]
    assert {(unique, error) for unique, error, _ in answers} == {(unique, 0) for unique in sent}


def test_an_error_is_the_applications(serve: Serve, slow_path: Play) -> None:
    served = serve()
    slow = slow_path(served)
    unique = served.wire.send("WRITE", large_file(served), write_in(b"x"))
    slow.answer(slow.question()[0], errno.ENOSPC)
    assert served.wire.receive()[:2] == (unique, errno.ENOSPC)
    assert not (served.upper / "large").exists()


def test_not_for_ever(serve: Serve, slow_path: Play, log_watch: LogWatch) -> None:
    """A slow path that says "done" and has done nothing."""
    log_watch.expect("WRITE on node .* prepared 8 times")
    served = serve()
    slow = slow_path(served)
    unique = served.wire.send("WRITE", large_file(served), write_in(b"x"))
    for _ in range(8):
        slow.answer(slow.question()[0])
    assert served.wire.receive()[:2] == (unique, errno.EIO)


def test_interrupted_while_parked(serve: Serve, slow_path: Play) -> None:
    served = serve()
    slow = slow_path(served)
    node = large_file(served)
    # pid 0 is somebody the daemon cannot see: only root of another pid namespace knows.
    first = served.wire.send("WRITE", node, write_in(b"1"), pid=0)
    second = served.wire.send("WRITE", node, write_in(b"2", 1))
    question, *_ = slow.question()
    interrupt(served, first)
    assert served.wire.receive()[:2] == (first, errno.EINTR)
    interrupt(served, first)  # too late, and no matter
    served.tree.copy_up(node)
    slow.answer(question)
    assert served.wire.receive()[:2] == (second, 0)
    assert (served.upper / "large").read_bytes() == b"l2wer"
    assert status(served.wire)["parked"] == 0


def test_everybody_interrupted(serve: Serve, slow_path: Play) -> None:
    """The answer then finds nobody; the next writer is asked for anew, or finds it done."""
    served = serve()
    slow = slow_path(served)
    node = large_file(served)
    unique = served.wire.send("WRITE", node, write_in(b"1"), pid=0)
    question, *_ = slow.question()
    interrupt(served, unique)
    assert served.wire.receive()[:2] == (unique, errno.EINTR)
    served.wire.send("FORGET", node, struct.pack("=Q", 1))  # the question pins the node
    served.tree.copy_up(node)
    slow.answer(question)
    again = served.wire.lookup(b"large")
    assert served.wire.ask("WRITE", again, write_in(b"2"))
    assert (served.upper / "large").read_bytes() == b"2ower"


def test_a_signal_that_does_not_kill(serve: Serve, slow_path: Play) -> None:
    """No reason for a system call on a file to fail; but SIGKILL may come next, unannounced."""
    served = serve()
    slow = slow_path(served)
    node = large_file(served)
    with subprocess.Popen(["sleep", "60"]) as caller:
        unique = served.wire.send("WRITE", node, write_in(b"1"), pid=caller.pid)
        question, *_ = slow.question()
        interrupt(served, unique)
        assert served.wire.silent(0.2)
        caller.kill()
        caller.wait()
        assert served.wire.receive()[:2] == (unique, errno.EINTR)
    slow.answer(question, errno.EIO)


def test_interrupts_of_nothing(serve: Serve) -> None:
    served = serve()
    for unique in (0, 1, 2, 2**64 - 1):
        interrupt(served, unique)
    assert served.wire.silent()


def test_answers_to_nothing(serve: Serve, slow_path: Play) -> None:
    served = serve()
    slow = slow_path(served)
    for unique in (0, 1, 99, 2**64 - 1):
        slow.answer(unique, errno.EIO)
    unique = served.wire.send("WRITE", large_file(served), write_in(b"x"))
    question, _, node = slow.question()
    slow.answer(question + 1)
    assert served.wire.silent()
    served.tree.copy_up(node)
    slow.answer(question)
    assert served.wire.receive()[:2] == (unique, 0)


def test_a_slow_path_that_dies_and_comes_back(serve: Serve, slow_path: Play) -> None:
    served = serve()
    slow = slow_path(served)
    node = large_file(served)
    unique = served.wire.send("WRITE", node, write_in(b"x"))
    slow.question()
    slow.close()
    assert served.wire.receive()[:2] == (unique, errno.EIO)
    with ThreadPoolExecutor(1) as pool:
        needed = pool.submit(served.parking.wait)
        assert not needed.done()
        unique = served.wire.send("WRITE", node, write_in(b"x"))
        assert needed.result(20) is True
    slow = slow_path(served)
    question, *_ = slow.question()
    served.tree.copy_up(node)
    slow.answer(question)
    assert served.wire.receive()[:2] == (unique, 0)


def test_nobody_waits_after_closing(serve: Serve) -> None:
    served = serve()
    with ThreadPoolExecutor(1) as pool:
        needed = pool.submit(served.parking.wait)
        served.parking.close()
        assert needed.result(20) is False
    unique = served.wire.send("WRITE", large_file(served), write_in(b"x"))
    assert served.wire.receive()[:2] == (unique, errno.EIO)


def test_closing_waits_for_the_slow_path(serve: Serve, slow_path: Play) -> None:
    """It works on the tree, which goes next."""
    served = serve()
    slow = slow_path(served)
    node = large_file(served)
    unique = served.wire.send("WRITE", node, write_in(b"x"))
    question, *_ = slow.question()
    closing = threading.Thread(target=served.fastpath.close)
    closing.start()
    assert served.wire.receive()[:2] == (unique, errno.EIO)
    closing.join(0.1)
    assert closing.is_alive()
    served.tree.copy_up(node)
    slow.answer(question)
    closing.join(20)
    assert not closing.is_alive()
