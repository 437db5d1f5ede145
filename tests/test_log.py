"""The daemon's log: where its records go, and what cannot stop it."""

import pytest

import unionfs
from tests.conftest import Directories
from unionfs import daemon, log
from unionfs.errors import StartFailed

pytestmark = pytest.mark.timeout(60)


def test_a_log_that_cannot_be_written(branches: Directories) -> None:
    with pytest.raises(StartFailed, match="log_file"):
        unionfs.mount(
            [branches.lower],
            branches.upper,
            branches.mountpoint,
            log_file=branches.base / "missing/log",
        ).start()


def test_the_log_belongs_to_the_daemon(branches: Directories) -> None:
    """A record goes to the file, and not to handlers of the program that mounted."""
    path = branches.base / "log"

    def body(report: daemon.Report, leash: int | None) -> int:
        log.use(str(path), log.syslog)
        log.error("from the daemon")
        report.ready()
        return 0

    daemon.Daemon(body, [], leash=False, what="here").end()
    assert path.read_text().endswith(" ERROR from the daemon\n")


def test_a_log_that_is_full() -> None:
    """It must not end the thread that reports something."""

    def body(report: daemon.Report, leash: int | None) -> int:
        log.use("/dev/full", log.syslog)
        log.error("nobody reads this")
        report.ready()
        return 0

    daemon.Daemon(body, [], leash=False, what="here").end()


def test_an_exception_is_logged_with_its_traceback(branches: Directories) -> None:
    path = branches.base / "log"

    def body(report: daemon.Report, leash: int | None) -> int:
        log.use(str(path), log.syslog)
        try:
            raise LookupError("a reason")
        except LookupError:
            log.exception("something failed")
        report.ready()
        return 0

    daemon.Daemon(body, [], leash=False, what="here").end()
    text = path.read_text()
    assert " ERROR something failed\nTraceback" in text
    assert text.endswith("LookupError: a reason\n")
