"""The commands, one module each; every module has a `main(argv)` that returns the exit status."""

import sys
from collections.abc import Callable, Sequence

from unionfs.errors import UnionfsError


def run(program: str, command: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Call `command` with the arguments, and turn our errors into one line and their status."""
    try:
        return command(sys.argv[1:] if argv is None else argv)
    except UnionfsError as error:
        print(f"{program}: {printable(str(error))}", file=sys.stderr)
        return error.exit_code


def printable(text: str) -> str:
    """`text` on one line, whatever bytes a path in it has."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
