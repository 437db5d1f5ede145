"""The commands, one module each; every module has a `main(argv)` that returns the exit status."""

import os
import sys
from collections.abc import Callable, Sequence
from errno import ENOSPC
from typing import Final

from unionfs.errors import PathUnusable, UnionfsError, UsageError, explained

#: What the shell shows for a command that SIGPIPE has ended.
CLOSED_PIPE: Final = 141


def run(program: str, command: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Call `command` with the arguments, and turn our errors into one line and their status.

    A reader of the output that goes away ends the command as it ends every other one.
    """
    open_missing_streams()
    try:
        try:
            return command(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # here, where its failure can be told
    except UnionfsError as error:
        complain(program, error)
        return error.exit_code
    except BrokenPipeError:
        _drop_output()
        return CLOSED_PIPE
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        _drop_output()
        failure = PathUnusable(path="standard output", **explained(error, ENOSPC="make room"))
        complain(program, failure)
        return failure.exit_code


def complain(program: str, error: UnionfsError) -> None:
    """One line on standard error."""
    hint = "; see --help" if isinstance(error, UsageError) else ""
    print(f"{program}: {printable(str(error))}{hint}", file=sys.stderr)


def _drop_output() -> None:
    """Have what is left in the buffer go nowhere: the interpreter would try again, and complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def open_missing_streams() -> None:
    """Give a caller's closed descriptors 0 to 2 to /dev/null.

    The next file opened, a branch for instance, would otherwise get the number and be taken for
    a stream: by the daemon, which redirects the three, and by every program that is called.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number is the one that is missing: those before it are open.
            stream = open(os.devnull, "r+" if fd else "r")  # noqa: SIM115
            setattr(sys, name, stream)


def printable(text: str) -> str:
    """`text` on one line, whatever bytes a path in it has."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
