"""programs/command.c: which interpreter the installed commands start, and with what around it.

Compiled here for an interpreter that is a script, and tells how it was called.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "programs" / "command.c"
SETUP = Path(__file__).parent.parent / "setup.py"
NAME = "python{}.{}".format(*sys.version_info)
#: What stands for an interpreter: prints its own name and its arguments.
TELLS = '#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n'


def interpreter(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TELLS)
    path.chmod(0o755)
    return path


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Path]:
    """Builds the program as prefix/bin/unionfs-where, for the interpreter tmp_path/configured."""

    def build(python: str | Path = tmp_path / "configured", name: str = NAME) -> Path:
        path = tmp_path / "prefix" / "bin" / "unionfs-where"
        path.parent.mkdir(parents=True, exist_ok=True)
        macros = {"COMMAND": "unionfs-where", "VERB": "where", "PYTHON": python}
        macros |= {"PYTHON_NAME": name, "LIBRARY_PATH": ""}
        defined = [f'-D{key}="{value}"' for key, value in macros.items()]
        subprocess.run(["gcc", *defined, SOURCE, "-o", path], check=True)
        return path

    return build


def called(program: Path, *words: str) -> list[str]:
    done = subprocess.run([program, *words], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


def test_the_interpreter_that_it_was_built_with(
    program: Callable[..., Path], tmp_path: Path
) -> None:
    path = program()
    python = interpreter(tmp_path / "configured")
    interpreter(path.parent / "python3")
    interpreter(path.parent / NAME)
    code = "from unionfs.__main__ import installed; installed('where')"
    expected = [str(python), "-I", "-X", "utf8", "-c", code, str(path), "a b", ""]
    assert called(path, "a b", "") == expected


def test_in_an_environment_wherever_it_is(program: Callable[..., Path], tmp_path: Path) -> None:
    path = program()
    interpreter(tmp_path / "configured")
    (tmp_path / "prefix/pyvenv.cfg").touch()
    interpreter(path.parent / "python3")
    moved = tmp_path / "moved"
    (tmp_path / "prefix").rename(moved)
    (tmp_path / "link").symlink_to(moved / "bin/unionfs-where")
    for name in (moved / "bin/unionfs-where", tmp_path / "link"):
        assert called(name)[0] == str(moved / "bin/python3")


@pytest.mark.parametrize("directory", ["site-packages", "dist-packages"])
def test_a_prefix_that_has_the_package(
    program: Callable[..., Path], tmp_path: Path, directory: str
) -> None:
    """Its own interpreter; else the configured one, which is told where the package is."""
    path = program()
    packages = tmp_path / "prefix/lib" / NAME / directory
    (packages / "unionfs").mkdir(parents=True)
    configured = interpreter(tmp_path / "configured")
    assert called(path)[0] == str(configured)
    own = interpreter(path.parent / NAME)
    # Debian's interpreter in /usr/bin has its packages there.
    assert called(path)[0] == str(own if directory == "site-packages" else configured)
    own.unlink()
    configured.unlink()
    configured.symlink_to(sys.executable)
    (packages / "unionfs/__init__.py").touch()
    (packages / "unionfs/__main__.py").write_text(
        "import sys\ndef installed(verb): print(verb, __file__, *sys.argv)\n"
    )
    assert called(path, "x") == [f"where {packages}/unionfs/__main__.py -c {path} x"]


def test_no_interpreter(program: Callable[..., Path], tmp_path: Path) -> None:
    done = subprocess.run([program(name="python9.9")], capture_output=True, text=True)
    assert done.returncode == 47
    assert done.stderr == (
        f"unionfs-where: no python9.9 was found beside it, as {tmp_path}/configured, nor in "
        "/usr/bin: install unionfs again with the Python that is to run it\n"
    )


REPORT = """#!{python} -I
import json, os, resource, signal
print(json.dumps({{
    "environment": dict(os.environ),
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "ignored": sorted(n for n in (signal.SIGHUP, signal.SIGCHLD, signal.SIGURG)
                      if signal.getsignal(n) == signal.SIG_IGN),
    "stack": resource.getrlimit(resource.RLIMIT_STACK)[0],
}}))
"""


def test_nothing_of_the_caller_is_left(program: Callable[..., Path], tmp_path: Path) -> None:
    path = program()
    report = tmp_path / "configured"
    report.write_text(REPORT.format(python=sys.executable))
    report.chmod(0o755)
    kept = {"PATH": os.environ["PATH"], "TZ": "UTC", "UNIONFS_MOUNTD": "/x"}
    strange = {"LD_LIBRARY_PATH": "/x", "MALLOC_PERTURB_": "7", "PYTHONHOME": "/x", "LC_ALL": "C"}

    def before() -> None:
        for number in (signal.SIGHUP, signal.SIGCHLD, signal.SIGURG):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    done = subprocess.run(
        ["sh", "-c", 'ulimit -Ss 512; exec "$0"', path],
        env={**strange, **kept},
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    # Python sets this one when it starts in the C locale.
    assert found["environment"].pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"
    assert found["environment"] == kept
    assert (found["blocked"], found["ignored"]) == ([], [signal.SIGHUP])
    assert found["stack"] == 8 << 20


def test_no_library_is_loaded_from_where_a_command_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """LD_LIBRARY_PATH of the build is kept, and often has an empty element."""
    monkeypatch.setenv("LD_LIBRARY_PATH", ":/opt/a;lib:/opt/b::.")
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    monkeypatch.setattr("Cython.Build.cythonize", lambda *_, **__: [])
    assert runpy.run_path(str(SETUP))["PYTHON"]["LIBRARY_PATH"] == "/opt/a:/opt/b"
