"""Run tests on extensions that were built to find what a normal build passes over.

    python tools/sanitize.py VARIANT [PYTEST-ARGUMENT...]

asan  AddressSanitizer and UndefinedBehaviorSanitizer
init  every local variable starts as a pattern: who reads one that nothing filled meets it
tsan  ThreadSanitizer

Without further arguments the directories of tests that belong to the variant are run.  Each
variant has its own directory below build/sanitize, and what the checkout runs from stays as it is.
Daemons, commands and other users' processes that tests start are watched as well: what any of
them reports is printed at the end, and the exit status is 1 then.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
NATIVE = ["tests/tree", "tests/wire"]


@dataclass(frozen=True)
class Variant:
    """How the extensions are compiled, and what has to surround the interpreter."""

    flags: str
    tests: list[str] = field(default_factory=lambda: [*NATIVE, "tests/mounted"])
    runtime: str = ""  #: the library that must be there before the interpreter
    command: list[str] = field(default_factory=list)  #: in front of the interpreter
    environment: dict[str, str] = field(default_factory=dict)  #: {log} is the reports' place


VARIANTS = {
    "asan": Variant(
        "-fsanitize=address,undefined -fno-omit-frame-pointer -g",
        runtime="libasan.so",
        environment={
            # An interpreter leaves memory behind when it ends; what a union keeps is counted by
            # the tests of long lives.
            # faulthandler would take the signals of a crash, and with them the report.
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1:handle_segv=2:"
            "handle_sigbus=2:handle_sigill=2:handle_sigfpe=2:log_path={log}",
            "UBSAN_OPTIONS": "print_stacktrace=1:log_path={log}",
            "PYTHONMALLOC": "malloc",
        },
    ),
    "init": Variant("-ftrivial-auto-var-init=pattern -g"),
    "tsan": Variant(
        "-fsanitize=thread -fno-omit-frame-pointer -g",
        runtime="libtsan.so",
        # Its threads; of a mount, those that a program of one thread has started: after a fork
        # beside other threads nothing is reported.
        tests=[
            *("tests/tree/test_robustness.py", "tests/wire", "tests/stress"),
            # It weighs the daemon, and what ThreadSanitizer remembers grows with what is done.
            "--deselect=tests/stress/test_soak.py::test_nothing_grows",
        ],
        # gcc 12's does not find its way in an address space that is too random.
        command=["setarch", "--addr-no-randomize"],
        environment={"TSAN_OPTIONS": "exitcode=0:die_after_fork=0:history_size=7:log_path={log}"},
    ),
}


def build(variant: Variant, directory: Path) -> Path:
    """Compile the package below `directory`; returns where it can be imported from."""
    flags = {"CFLAGS": variant.flags, "LDFLAGS": variant.flags}
    command = [sys.executable, "setup.py", "--quiet", "build", f"--build-base={directory}"]
    command += [f"--build-lib={directory}/lib", f"--parallel={os.cpu_count()}"]
    subprocess.run(command, cwd=CHECKOUT, env=os.environ | flags, check=True)
    return directory / "lib"


def write_commands(directory: Path) -> Path:
    """The commands, as scripts that leave the surroundings to the interpreter.

    The installed ones (programs/command.c) start one without PYTHONPATH and LD_PRELOAD.
    """
    directory.mkdir(exist_ok=True)
    for verb in ("check", "mount", "mountd", "status", "umount", "where"):
        script = directory / f"unionfs-{verb}"
        code = "import sys; from unionfs.__main__ import installed; "
        code += f'sys.argv.insert(0, ""); installed("{verb}")'
        script.write_text(f"#!{sys.executable}\n{code}\n")
        script.chmod(0o755)
    (quick,) = directory.parent.glob("scripts-*/unionfs-quickmount")
    shutil.copy2(quick, directory)  # runs the unionfs-mount beside it
    return directory


def runtime(library: str) -> str:
    """The path of a sanitizer's library."""
    command = ["gcc", f"-print-file-name={library}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Build the variant, run the tests on it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/sanitize.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("variant", choices=VARIANTS)
    name, pytest_arguments = parser.parse_known_args()[0].variant, sys.argv[2:]
    variant = VARIANTS[name]
    directory = CHECKOUT / "build" / "sanitize" / name
    library = build(variant, directory)
    reports = Path(tempfile.mkdtemp(prefix=f"unionfs-{name}-"))
    reports.chmod(0o1777)
    try:
        log = str(reports / "report")
        environment = {key: text.format(log=log) for key, text in variant.environment.items()}
        # Nothing may come before the build in the path of any process: not its directory, and
        # (by the mode of importing) not that of the tests.
        environment |= {"PYTHONPATH": f"{library}:{CHECKOUT}", "PYTHONSAFEPATH": "1"}
        environment["UNIONFS_TEST_COMMANDS"] = str(write_commands(directory / "commands"))
        if variant.runtime:
            environment["LD_PRELOAD"] = runtime(variant.runtime)
        python = [*variant.command, sys.executable]
        check = "import sys, unionfs._tree as t; sys.exit(not t.__file__.startswith(sys.argv[1]))"
        surroundings = os.environ | environment
        subprocess.run([*python, "-c", check, library], env=surroundings, check=True)
        command = [*python, "-m", "pytest", "--import-mode=append"]
        command += pytest_arguments or variant.tests
        status = subprocess.run(command, cwd=CHECKOUT, env=surroundings).returncode
        found = [report for report in sorted(reports.iterdir()) if report.stat().st_size]
        for report in found:
            print(f"--- {report.name}\n{report.read_text(errors='replace')}", file=sys.stderr)
        print(f"{name}: {len(found)} processes reported something", file=sys.stderr)
        return status or bool(found)
    finally:
        shutil.rmtree(reports)


if __name__ == "__main__":
    sys.exit(main())
