"""How long the tests of each directory take, and which tests are slow for what reason."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath

import pytest

#: A test that takes longer than this has a reason: ``@pytest.mark.slow(reason="...")``.
SLOW_SECONDS = 15


@dataclass
class Time:
    """One test, with what its fixtures took, and why it may take long."""

    seconds: float = 0.0
    reason: str = ""


class Times:
    """A pytest plugin that collects them."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file  #: where they are stored at the end, for a table of several runs
        self.tests: dict[str, Time] = {}

    def add(self, stored: dict[str, dict[str, str | float]]) -> None:
        """Add what another run has stored."""
        for test, values in stored.items():
            self.tests[test] = Time(float(values["seconds"]), str(values["reason"]))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            reasons = [mark.kwargs.get("reason", "") for mark in item.iter_markers("slow")]
            self.tests[item.nodeid] = Time(reason=next(filter(None, reasons), ""))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests[report.nodeid].seconds += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.file is not None:
            stored = {test: asdict(time) for test, time in self.tests.items()}
            self.file.write_text(json.dumps(stored))
        elif len(directories(self)) > 1 and any(time.seconds for time in self.tests.values()):
            terminalreporter.section("seconds")
            for line in table(self):
                terminalreporter.line(line)


def directories(times: Times) -> dict[str, list[float]]:
    """The seconds of the tests of each directory."""
    found: dict[str, list[float]] = {}
    for test, time in times.tests.items():
        directory = str(PurePath(test.partition("::")[0]).parent)
        found.setdefault(directory, []).append(time.seconds)
    return found


def table(times: Times) -> Iterator[str]:
    """The lines of a table: each directory, then each slow test with its reason."""
    rows = sorted(directories(times).items(), key=lambda row: -sum(row[1]))
    for directory, seconds in rows:
        yield f"{sum(seconds):7.1f}  {directory}, {len(seconds)} tests"
    yield f"{sum(sum(seconds) for _, seconds in rows):7.1f}  together"
    slow = [item for item in times.tests.items() if item[1].seconds > SLOW_SECONDS]
    for test, time in sorted(slow, key=lambda item: -item[1].seconds):
        yield f"{time.seconds:7.1f}  {test}: {time.reason or 'slow without a reason'}"
