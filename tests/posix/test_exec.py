"""execve(2) and ETXTBSY."""

import os
import shutil
import subprocess
from errno import EACCES, ENOEXEC, ETXTBSY

import pytest

from tests.posix import process
from tests.posix.asserts import fails, opened, raised, read, write
from tests.posix.places import GROUP, USER, Place
from tests.posix.trees import Dir, File, Symlink, given

#: A static program, so that it runs as any user whatever the paths of libraries allow.
BUSYBOX = shutil.which("busybox")
_PROGRAM = read(BUSYBOX) if BUSYBOX else b""
needs_program = pytest.mark.skipif(not BUSYBOX, reason="needs busybox as a static program")

TREE = {
    "script": File(content=b"#!/bin/sh\necho script $1\n", mode=0o755),
    "busybox": File(content=_PROGRAM, mode=0o755),
    "plain": File(content=b"#!/bin/sh\necho no\n", mode=0o644),
    "text": File(content=b"no program", mode=0o755),
    "link": Symlink(target="script"),
    "dir": Dir(),
    "loop-script": File(content=b"#!/nonexistent/interpreter\n", mode=0o755),
}


def _output(program: str, *args: str) -> str:
    """What the program prints; busybox looks at the name it is called by."""
    name = "script" if os.path.basename(program) in ("script", "link") else "busybox"
    done = subprocess.run(
        [name, *args], executable=program, capture_output=True, check=True, text=True, timeout=20
    )
    return done.stdout


@given(TREE)
def test_script(place: Place) -> None:
    assert _output(place / "script", "runs") == "script runs\n"
    assert _output(place / "link", "too") == "script too\n"


@needs_program
@given(TREE)
def test_program(place: Place) -> None:
    assert _output(place / "busybox", "echo", "hello") == "hello\n"


@needs_program
def test_program_just_written(place: Place) -> None:
    write(place / "new", _PROGRAM)
    os.chmod(place / "new", 0o755)
    assert _output(place / "new", "echo", "hello") == "hello\n"


@needs_program
@given(TREE)
def test_program_after_copy_up(place: Place) -> None:
    os.utime(place / "busybox")
    assert _output(place / "busybox", "echo", "copied") == "copied\n"
    with opened(place / "busybox", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"trailing bytes")
    assert _output(place / "busybox", "echo", "changed") == "changed\n"


@given(TREE)
def test_script_rewritten(place: Place) -> None:
    assert _output(place / "script", "1") == "script 1\n"
    write(place / "script", b"#!/bin/sh\necho other $1\n")
    assert _output(place / "script", "2") == "other 2\n"


@pytest.mark.parametrize(("name", "errno"), [("plain", EACCES), ("dir", EACCES), ("text", ENOEXEC)])
@given(TREE)
def test_refused(place: Place, name: str, errno: int) -> None:
    with fails(errno):
        os.execv(place / name, ["x"])


@given(TREE)
def test_missing_interpreter(place: Place) -> None:
    with fails(2):
        os.execv(place / "loop-script", ["x"])


@pytest.mark.needs("users")
@given(
    {
        "private": File(content=b"#!/bin/sh\n", mode=0o700),
        "execute": File(content=_PROGRAM, mode=0o711),
    }
)
def test_rights(place: Place) -> None:
    assert place.as_user(raised, os.execv, place / "private", ["x"]) == EACCES
    if BUSYBOX:
        assert place.as_user(_output, place / "execute", "echo", "ran") == "ran\n"


@needs_program
@given(TREE)
def test_running_program_is_not_written(place: Place) -> None:
    running = subprocess.Popen([place / "busybox", "sleep", "30"])
    try:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with fails(ETXTBSY):
                os.open(place / "busybox", flags)
        with fails(ETXTBSY):
            os.truncate(place / "busybox", 0)
        os.chmod(place / "busybox", 0o711)
        os.rename(place / "busybox", place / "moved")
        with fails(ETXTBSY):
            os.open(place / "moved", os.O_WRONLY)
        os.unlink(place / "moved")
        write(place / "busybox", b"a new file of that name")
    finally:
        running.kill()
        running.wait()


@needs_program
@given(TREE)
def test_written_program_does_not_run(place: Place) -> None:
    with opened(place / "busybox", os.O_WRONLY):
        assert process.call(raised, os.execv, place / "busybox", ["x"]) == ETXTBSY
    assert _output(place / "busybox", "echo", "again") == "again\n"


@needs_program
@given(TREE)
def test_replaced_program_runs_on(place: Place) -> None:
    """How package managers replace what runs: write beside, rename over."""
    running = subprocess.Popen([place / "busybox", "sleep", "30"])
    try:
        write(place / "new", _PROGRAM)
        os.chmod(place / "new", 0o755)
        os.rename(place / "new", place / "busybox")
        assert running.poll() is None
        assert _output(place / "busybox", "echo", "new") == "new\n"
    finally:
        running.kill()
        running.wait()


@needs_program
@pytest.mark.needs("users")
@given({"setuid": File(content=_PROGRAM, mode=0o6755, uid=USER, gid=GROUP)})
def test_set_user_id_program(place: Place) -> None:
    """The union is mounted without nosuid by root; in a user namespace its own ids count."""
    expected = f"{USER}\n{GROUP}\n"
    assert _output(place / "setuid", "id", "-u") + _output(place / "setuid", "id", "-g") == expected


@needs_program
@given(TREE)
def test_by_descriptor(place: Place) -> None:
    fd = os.open(place / "busybox", os.O_RDONLY)
    os.unlink(place / "busybox")
    pid = os.fork()
    if pid == 0:
        os.execve(fd, ["busybox", "true"], {})
    assert os.waitpid(pid, 0)[1] == 0
