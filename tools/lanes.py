"""Runs the checks and all tests in two lanes side by side, and says what took how long.

    python tools/lanes.py                     # both lanes
    python tools/lanes.py PYTEST-ARGUMENT...  # the checks, then one pytest

Containers, mounts and killed daemons mostly wait, the other tests mostly compute: side by side
they take little longer than the slower of the two.  Each lane is a pytest of its own with
directories of its own, and each prints to a log of its own (build/lanes), shown one after the
other.  The exit status is 1 if a command of any lane failed.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.times import Times, table  # noqa: E402

LOGS = ROOT / "build/lanes"

#: The directories of the lane that waits; the other lane takes whatever else there is.  Tests that
#: change what a whole machine has one of (the module's offer of io_uring, the control groups), and
#: those that look at a daemon from outside meanwhile, have to be in one lane.
WAITING = ("tests/containers", "tests/crash", "tests/mounted", "tests/stress")

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy", "--strict", "-p", "unionfs"),
    ("cython-lint", "unionfs"),
    (sys.executable, "tools/check_c.py"),
)

Command = Sequence[str]


def lanes() -> dict[str, list[Command]]:
    """The commands of each lane, in the order in which the lanes are shown."""

    def pytest(name: str, *arguments: str) -> Command:
        # Two runs would write over each other's record of what failed last.
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        if sys.stdout.isatty():
            command.append("--color=yes")
        return [*command, f"--times={LOGS / name}.json", *arguments]

    left = [f"--ignore={directory}" for directory in WAITING]
    return {
        "computes": [*CHECKS, pytest("computes", *left)],
        "waits": [pytest("waits", *WAITING)],
    }


class Lane(threading.Thread):
    """Commands that run one after the other; each runs whether or not those before it failed."""

    def __init__(self, name: str, commands: Sequence[Command], log: Path) -> None:
        super().__init__(name=name)
        self.commands = commands
        self.log = log
        self.log.write_bytes(b"")
        self.failed: list[Command] = []
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        began = time.monotonic()
        with self.log.open("ab") as log:
            for command in self.commands:
                with self._lock:
                    if self._stopped:
                        break
                    log.write(f"== {' '.join(_short(command))}\n".encode())
                    log.flush()
                    # In a process group of its own: an interrupt typed at the terminal reaches it
                    # by `interrupt` alone, and not twice.
                    self._process = subprocess.Popen(
                        command,
                        cwd=ROOT,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        process_group=0,
                    )
                if self._process.wait() != 0:
                    self.failed.append(command)
        self.seconds = time.monotonic() - began

    def interrupt(self) -> None:
        """End it as Ctrl-C would: pytest cleans up behind itself."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.send_signal(signal.SIGINT)

    def show(self) -> None:
        """Print what it prints until it ends."""
        with self.log.open("rb") as log:
            while True:
                last = not self.is_alive()
                while some := log.read(1 << 16):
                    sys.stdout.buffer.write(some)
                sys.stdout.buffer.flush()
                if last:
                    return
                self.join(0.2)


def _short(command: Command) -> Iterator[str]:
    """A command without the paths of this checkout."""
    for word in command:
        yield "python" if word == sys.executable else word.replace(f"{ROOT}/", "")


def run(commands: Mapping[str, Sequence[Command]], logs: Path) -> list[Lane]:
    """Run the lanes side by side and show them one after the other; SIGINT and SIGTERM end both."""
    logs.mkdir(parents=True, exist_ok=True)
    running = [Lane(name, some, logs / f"{name}.log") for name, some in commands.items()]
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        for lane in running:
            lane.interrupt()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    for lane in running:
        lane.start()
    for lane in running:
        lane.show()
    for number, handler in before.items():
        signal.signal(number, handler)
    if interrupted:
        raise SystemExit(128 + signal.SIGINT)
    return running


def run_here(commands: Sequence[Command]) -> list[Command]:
    """Run commands one after the other at this terminal; return those that failed."""
    # Ctrl-C is for them: pytest says how far it came, and cleans up.
    signal.signal(signal.SIGINT, lambda *_: None)
    failed = []
    for command in commands:
        print(f"== {' '.join(_short(command))}", flush=True)
        if subprocess.call(command, cwd=ROOT) != 0:
            failed.append(command)
    return failed


def main() -> int:
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if sys.argv[1:]:
        # A search takes longer than any test may, see pyproject.toml.
        unwatched = ["-o", "faulthandler_timeout=0"] if "--long" in sys.argv else []
        pytest = (sys.executable, "-m", "pytest", *unwatched, *sys.argv[1:])
        failed = run_here([*CHECKS, pytest])
    else:
        failed = run_lanes()
    for command in failed:
        print(f"failed: {' '.join(_short(command))}")
    if not failed:
        print("all checks and tests passed")
    return 1 if failed else 0


def run_lanes() -> list[Command]:
    """Run both lanes, print what took how long, and return the commands that failed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    for old in LOGS.glob("*.json"):
        old.unlink()
    ended = run(lanes(), LOGS)
    times = Times()
    for file in LOGS.glob("*.json"):
        times.add(json.loads(file.read_text()))
    print("\n== seconds")
    print("\n".join(table(times)))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = ", ".join(f"{lane.name} {lane.seconds:.0f} s" for lane in ended)
    print(f"lanes: {spent}; processor time {used.ru_utime + used.ru_stime:.0f} s")
    return [command for lane in ended for command in lane.failed]


if __name__ == "__main__":
    sys.exit(main())
