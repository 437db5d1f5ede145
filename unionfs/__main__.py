"""`python -m unionfs VERB`: every command, also where its script is not on the path."""

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

VERBS = ("check", "mount", "mountd", "status", "umount", "where")


def main() -> int:
    """Run the command named by the first argument; returns its exit status."""
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        print(f"usage: python -m unionfs {{{','.join(VERBS)}}} ...", file=sys.stderr)
        return 2
    return _run(sys.argv.pop(1))


def installed(verb: str) -> NoReturn:
    """What programs/command.c runs: `sys.argv` has its path, and what it was called with.

    Does not take the interpreter down module by module, which would be a sixth of what the caller
    of unionfs-mount waits for: the daemon is another process, and nothing is left to be done here.
    """
    del sys.argv[0]
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(os.path.basename(sys.argv[0]))  # what ps shows
    status = _run(verb)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(status)  # the interpreter tries again, and complains
    os._exit(status)


def _run(verb: str) -> int:
    status: int = import_module(f"unionfs.cli.{verb}").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
