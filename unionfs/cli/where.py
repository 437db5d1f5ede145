"""unionfs-where: which branch a path comes from."""

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import TypedDict, cast

from unionfs.cli import complain, run
from unionfs.cli.attributes import read
from unionfs.errors import UnionfsError
from unionfs.xattrs import WHERE

PROGRAM = "unionfs-where"


class Where(TypedDict, total=False):
    """A mount's answer."""

    branch: int  #: 0 is the upper, 1 the topmost lower
    path: str  #: in the branch
    branch_path: str  #: only where the asking user may know the host's paths


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run(PROGRAM, command, argv)


def command(argv: Sequence[str]) -> int:
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Print, for each path on a mounted union, the branch it comes from and its "
        "path there. A path that cannot be asked is an error, the others are printed. The "
        "branch's own path is told only to the user who mounted, outside of containers.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per path")
    parser.add_argument("paths", metavar="PATH", nargs="+")
    arguments = parser.parse_args(argv)
    # Paths are bytes: what is no UTF-8 goes out as it came in.
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    status = 0
    for path in arguments.paths:
        try:
            text = read(path, WHERE)
        except UnionfsError as error:
            complain(PROGRAM, error)
            status = status or error.exit_code
        else:
            print(text if arguments.json else render(cast(Where, json.loads(text))))
    return status


def ask(path: str) -> Where:
    """The mount's answer for a path.  Raises `PathUnusable` or `NotAMount`."""
    return cast(Where, json.loads(read(path, WHERE)))


def render(where: Where) -> str:
    """The branch, a tab, and the path: the host's where it was told, else the one in the branch."""
    branch = "upper" if where["branch"] == 0 else f"lower {where['branch']}"
    path = where["path"]
    if "branch_path" in where:
        path = os.path.join(where["branch_path"], path) if path else where["branch_path"]
    return f"{branch}\t{path or '.'}"
