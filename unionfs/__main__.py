"""`python -m unionfs VERB`: every command, also where its script is not on the path."""

import sys
from importlib import import_module

VERBS = ("check", "mount", "mountd", "status", "where")


def main() -> int:
    """Run the command named by the first argument; returns its exit status."""
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        print(f"usage: python -m unionfs {{{','.join(VERBS)}}} ...", file=sys.stderr)
        return 2
    verb = sys.argv.pop(1)
    status: int = import_module(f"unionfs.cli.{verb}").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
