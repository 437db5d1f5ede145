"""Where the kernel is asked about memory pressure."""

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from unionfs import pressure, session

GROUPS = {
    "0::/user.slice/session-1.scope\n": ["user.slice/session-1.scope"],
    "9:name=systemd:/\n4:memory:/mem\n0::/one/two words\n": ["one/two words"],
    "0::/a\udcff\n": ["a\udcff"],
    "0::/\n": [""],  # in a namespace of control groups it is the container's own
    "4:memory:/mem\n": [],
    "": [],
}


@pytest.mark.parametrize("groups", GROUPS)
def test_the_own_control_group(
    groups: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup").write_text(groups, errors="surrogateescape")
    monkeypatch.setattr(pressure, "_GROUPS", str(tmp_path / "cgroup"))
    monkeypatch.setattr(pressure, "_GROUP_MOUNTS", ("/here",))
    wanted = [os.path.join("/here", path, "memory.pressure") for path in GROUPS[groups]]
    assert list(pressure._own_group()) == wanted


def test_machine_and_group_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, group = tmp_path / "memory", tmp_path / "group/memory.pressure"
    group.parent.mkdir()
    for path in (machine, group):
        path.touch()
    (tmp_path / "cgroup").write_text("0::/group\n")
    monkeypatch.setattr(pressure, "_MACHINE", str(machine))
    monkeypatch.setattr(pressure, "_GROUPS", str(tmp_path / "cgroup"))
    monkeypatch.setattr(pressure, "_GROUP_MOUNTS", (str(tmp_path / "nothing"), str(tmp_path)))
    with pressure.watched() as fds:
        assert [os.readlink(f"/proc/self/fd/{fd}") for fd in fds] == [str(machine), str(group)]
    for path in (machine, group):
        assert path.read_bytes() == b"some 200000 2000000\0"
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_kernel_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MACHINE", "_GROUPS"):
        monkeypatch.setattr(pressure, name, str(tmp_path / "nothing"))
    with pressure.watched() as fds:
        assert fds == []


def test_a_control_group_that_is_gone_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """poll(2) returns at once then, for ever, and says POLLPRI too (kernfs_fop_poll() in
    fs/kernfs/file.c)."""
    done, machine, group = 3, 4, 5
    said: list[list[tuple[int, int]]] = [
        [],  # in the first second nobody is asked
        [(machine, select.POLLPRI), (group, select.POLLPRI)],
        [(group, select.POLLPRI | select.POLLERR)],
        [(machine, select.POLLPRI)],
        [(done, select.POLLIN)],
    ]
    shrinks: list[str] = []

    class Poll:
        def __init__(self) -> None:
            self.registered: dict[int, int] = {}

        def register(self, fd: int, events: int) -> None:
            self.registered[fd] = events

        def unregister(self, fd: int) -> None:
            del self.registered[fd]

        def poll(self, timeout: int | None = None) -> list[tuple[int, int]]:
            assert (machine in self.registered) is (timeout is None)
            ready = said.pop(0)
            assert {fd for fd, _ in ready} <= set(self.registered)
            return ready

    poll = Poll()

    @contextmanager
    def watched() -> Iterator[list[int]]:
        yield [machine, group]
        ended.append("pressure")

    ended: list[str] = []
    monkeypatch.setattr(pressure, "watched", watched)
    monkeypatch.setattr(session.select, "poll", lambda: poll)
    mount = object.__new__(session.Session)
    mount._stack = SimpleNamespace(close_lowers=lambda: ended.append("lowers"))
    mount._late, mount._undo = ExitStack(), ExitStack()
    mount._undo.callback(ended.append, "branches")
    mount._tree = SimpleNamespace(shrink=lambda: shrinks.append("shrunk"))
    mount._fastpath = SimpleNamespace(done_fd=done)
    mount.wait()
    assert said == []
    assert shrinks == ["shrunk"] * 3
    assert set(poll.registered) == {done, machine}
    mount.close()
    # The branches need not wait for the kernel.
    assert ended == ["lowers", "branches", "pressure"]
