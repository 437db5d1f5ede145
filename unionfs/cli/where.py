"""unionfs-where: which branch a path comes from."""

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from errno import ENOENT
from typing import TypedDict, cast

from unionfs.cli import complain, run
from unionfs.cli.attributes import read
from unionfs.errors import PathUnusable, UnionfsError, explained, shortened
from unionfs.xattrs import BRANCHES, WHERE

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
    parser.add_argument(
        "-a",
        "--all",
        action="store_true",
        help="print every branch that has the name, also one that is hidden or removed",
    )
    parser.add_argument("paths", metavar="PATH", nargs="+")
    arguments = parser.parse_args(argv)
    # Paths are bytes: what is no UTF-8 goes out as it came in.
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    status = 0
    for path in arguments.paths:
        try:
            found = everywhere(path) if arguments.all else [ask(path)]
        except UnionfsError as error:
            failure = removed(path) or error
            complain(PROGRAM, failure)
            status = status or failure.exit_code
        else:
            for where in found:
                print(json.dumps(where) if arguments.json else render(where))
    return status


def everywhere(path: str) -> list[Where]:
    """Every branch that has a path, topmost first, also where the union does not show it.

    Raises `PathUnusable` or `NotAMount`, also for whom the mount does not tell its branches.
    """
    from unionfs.places import branches_with

    directory, rest = os.path.abspath(path), ""
    while not os.path.lexists(directory):  # removed: its directory knows
        directory, name = os.path.split(directory)
        rest = os.path.join(name, rest) if rest else name
    inside = os.path.join(ask(directory)["path"], rest).rstrip("/")
    branches = cast(list[str], json.loads(read(directory, BRANCHES)))
    found = [
        Where(branch=number, path=inside, branch_path=branches[number])
        for number in branches_with(branches, inside)
    ]
    if not found:
        raise PathUnusable(path=path, **explained(OSError(ENOENT, "")))
    return found


def removed(path: str) -> PathUnusable | None:
    """The error for a path that the union does not show and a branch has; else None."""
    if os.path.lexists(path):
        return None
    try:
        below = everywhere(path)[0]
    except UnionfsError:
        return None
    branch, place = render(below).split("\t")
    return PathUnusable(
        path=path,
        reason=f"removed here; {branch} has it",
        advice=f"copy it from there to have it back: {shortened(place)}",
    )


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
