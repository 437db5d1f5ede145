"""Where what goes wrong is told: the logger "unionfs", or a daemon's own log.

A program that serves a mount itself hears of it by the module logging. A daemon has nobody else
who would use that module, which with all that it imports is a fifth of the time a mount takes to
start, and 0.7 MB of private memory of every daemon: so a daemon writes its log without it.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from unionfs.errors import StartFailed

#: Takes "ERROR" or "WARNING", and a text that may have many lines.
Sink = Callable[[str, str], None]

_sink: Sink | None = None


def error(text: str) -> None:
    """Something failed that should not have."""
    _record("ERROR", text)


def info(text: str) -> None:
    """Something the caller may want to know; a daemon's own log does without."""
    if _sink is None:
        _record("INFO", text)


def warning(text: str) -> None:
    """Something is not as it should be, and nothing has failed for it yet."""
    _record("WARNING", text)


def exception(text: str) -> None:
    """The same as `error`, with the traceback of the exception that is being handled."""
    try:
        from traceback import format_exc

        trace = format_exc().rstrip()
    except Exception:
        # The files of the interpreter can be out of reach by now, behind a mount for instance.
        trace = repr(sys.exc_info()[1])
    _record("ERROR", f"{text}\n{trace}")


def _record(level: str, text: str) -> None:
    if _sink is None:
        import logging

        logging.getLogger("unionfs").log(getattr(logging, level), "%s", text)
    else:
        # Who reports never fails for it: the rule of the module logging.
        with suppress(OSError):
            _sink(level, text)


def use(path: str | None, otherwise: Callable[[], Sink]) -> None:
    """From now on write the log of a daemon, to a file if there is a `path`.

    Raises `StartFailed` if the file cannot be written.
    """
    global _sink
    try:
        _sink = otherwise() if path is None else file(path)
    except OSError as failure:
        raise StartFailed(path=path, reason=f"log_file: {failure.strerror}") from None


def file(path: str) -> Sink:
    """A file that is appended to; each record begins with the time and the level."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(level: str, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level} {text}\n"
        os.write(fd, line.encode(errors="surrogateescape"))

    return write


def stderr() -> Sink:
    """The log of a mount in the foreground."""

    def write(_: str, text: str) -> None:
        os.write(2, f"{text}\n".encode(errors="surrogateescape"))

    return write


def syslog() -> Sink:
    """The log of a daemon; where the system has none, nobody reads it."""
    # Now: when there is something to report, the interpreter's files may be out of reach.
    import syslog

    syslog.openlog("unionfs-mount", syslog.LOG_PID, syslog.LOG_DAEMON)
    levels = {"ERROR": syslog.LOG_ERR, "WARNING": syslog.LOG_WARNING}

    def write(level: str, text: str) -> None:
        for line in text.encode(errors="backslashreplace").decode().splitlines():
            syslog.syslog(levels[level], line)

    return write
