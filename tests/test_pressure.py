"""Where the kernel is asked about memory pressure."""

import os
from pathlib import Path

import pytest

from unionfs import pressure

GROUPS = {
    "0::/user.slice/session-1.scope\n": ["user.slice/session-1.scope"],
    "9:name=systemd:/\n4:memory:/mem\n0::/one/two words\n": ["one/two words"],
    "0::/\n": [],
    "4:memory:/mem\n": [],
    "": [],
}


@pytest.mark.parametrize("groups", GROUPS)
def test_the_own_control_group(
    groups: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    monkeypatch.setattr(pressure, "_GROUPS", str(tmp_path / "cgroup"))
    monkeypatch.setattr(pressure, "_GROUP_MOUNTS", ("/here",))
    wanted = [f"/here/{path}/memory.pressure" for path in GROUPS[groups]]
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
