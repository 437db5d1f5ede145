"""Daemons and containers that are killed: what was written stays, and a start mounts anew."""

import os
import signal
from contextlib import suppress

import pytest

from testbed.bed import Failed
from testbed.images import BASE
from tests.containers.engines import Engine
from tests.leftovers import processes_about
from tests.mounted.commands import program
from tests.mounted.harness import gone, wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(120)]


def daemons(engine: Engine) -> set[int]:
    """The processes that serve the engine's mounts."""
    return {pid for pid in processes_about(engine.home) if program(pid) == "unionfs-mount"}


def kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it ended with one that was killed before
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_until(lambda: gone(pid), f"process {pid} ends")  # noqa: B023


def started(engine: Engine) -> tuple[str, int]:
    """A running container, and the daemon that serves it."""
    before = daemons(engine)
    container = engine.podman("run", "--detach", BASE, "sleep", "1000")
    (daemon,) = daemons(engine) - before
    script = "rm /data/removed; echo kept >> /data/file; mv /data/tree /data/moved"
    engine.podman("exec", container, "sh", "-ec", script)
    return container, daemon


def check(engine: Engine, container: str) -> None:
    script = "cat /data/file /data/moved/deep/3; test ! -e /data/removed"
    said = engine.podman("exec", container, "sh", "-ec", script)
    assert said.splitlines() == ["a file of the base", "kept", "deep 3"]


def test_a_container_starts_again_after_its_daemon_was_killed(engine: Engine) -> None:
    container, daemon = started(engine)
    kill({daemon})
    with pytest.raises(Failed):
        engine.podman("exec", container, "cat", "/data/file")
    engine.podman("stop", "--time=0", container)
    engine.podman("start", container)
    check(engine, container)
    engine.podman("rm", "--force", "--time=0", container)
    wait_until(lambda: not daemons(engine), "the daemons end")


def test_a_container_starts_again_after_the_machine_was_switched_off(engine: Engine) -> None:
    """No process, no mount, and nothing of what lies in memory is there any more."""
    container, _ = started(engine)
    script = """
    pids=$(cat "$1"/engine/pause.pid 2>/dev/null || true)
    sed -n "s|^[^ ]* [^ ]* [^ ]* [^ ]* \\($1[^ ]*\\) .*|\\1|p" /proc/self/mountinfo | sort -ru |
        xargs --no-run-if-empty umount --lazy
    rm -rf "$1"/engine/* "$XDG_RUNTIME_DIR"/*
    for state in /dev/shm/libpod_* /run/crun; do
        [ ! -O "$state" ] || rm -r "$state"  # another engine's user has such files too
    done
    [ -z "$pids" ] || kill -9 $pids
    """
    kill(processes_about(engine.home))
    engine.inside(script, engine.home)
    engine.podman("start", container)
    check(engine, container)
    engine.podman("rm", "--force", "--time=0", container)
    wait_until(lambda: not daemons(engine), "the daemons end")


def test_restarts_one_right_after_the_other(engine: Engine) -> None:
    """The predecessor may still be ending when the next mount of the same upper comes."""
    container, _ = started(engine)
    for _ in range(4):
        engine.podman("restart", "--time=0", container)
        check(engine, container)
    assert len(daemons(engine)) == 1
    engine.podman("rm", "--force", "--time=0", container)
    wait_until(lambda: not daemons(engine), "the daemon ends")


def test_nothing_stays_of_what_was_removed(engine: Engine) -> None:
    """No process, no mount, and no directory of the store."""
    layers = engine.inside('ls "$1"', engine.home / "graph/overlay")
    containers = [engine.podman("run", "--detach", BASE, "sleep", "1000") for _ in range(3)]
    assert len(daemons(engine)) == 3
    engine.podman("rm", "--force", "--time=0", *containers)
    wait_until(lambda: not daemons(engine), "the daemons end")
    assert engine.inside('ls "$1"', engine.home / "graph/overlay") == layers
    home = str(engine.home)
    mounts = engine.inside("cat /proc/self/mountinfo")
    assert not [line for line in mounts.splitlines() if "/merged " in line and home in line]
