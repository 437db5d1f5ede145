"""The commands, one module each; every module has a `main(argv)` that returns the exit status."""

import os
import sys
from collections.abc import Callable, Sequence

from unionfs.errors import UnionfsError, UsageError


def run(program: str, command: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Call `command` with the arguments, and turn our errors into one line and their status."""
    open_missing_streams()
    try:
        return command(sys.argv[1:] if argv is None else argv)
    except UnionfsError as error:
        hint = "; see --help" if isinstance(error, UsageError) else ""
        print(f"{program}: {printable(str(error))}{hint}", file=sys.stderr)
        return error.exit_code


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
