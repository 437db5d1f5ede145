"""unionfs-check: name, and repair, what is wrong with an upper."""

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from unionfs import daemons
from unionfs.branches import BranchStack
from unionfs.check import Finding, check, is_marked
from unionfs.cli import printable, run
from unionfs.errors import (
    InconsistenciesRemain,
    InconsistenciesRepaired,
    NotADirectory,
    PathUnusable,
    WorkdirUnusable,
    explained,
)
from unionfs.options import MountOptions
from unionfs.uppers import UpperLock
from unionfs.values import split_paths

PROGRAM = "unionfs-check"

_UNMARKED = "and no whiteout or mark either: this may never have been an upper"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run(PROGRAM, command, argv)


def command(argv: Sequence[str]) -> int:
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Check an upper that is not mounted, with its work directory. Prints a line "
        "for each finding: level, code, path, meaning, and what repairing does. Exit status 0: no "
        "error was found.",
        epilog="Exit statuses: unionfs-mount --help-status.",
    )
    parser.add_argument(
        "--lower",
        metavar="A[:B...]",
        help="the lowers, as they are mounted: more can be found, and counted anew",
    )
    parser.add_argument(
        "--workdir", metavar="W", help="the work directory, if it was given when mounting"
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="repair what can be without losing data or changing what the union shows",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as a JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of a clean upper")
    parser.add_argument("upper", metavar="UPPER")
    arguments = parser.parse_args(argv)
    lowers = () if arguments.lower is None else tuple(split_paths(arguments.lower))
    path, findings, marked = examine(arguments.upper, arguments.workdir, lowers, arguments.repair)
    if arguments.json:
        print(json.dumps({"upper": path, "findings": [as_object(one) for one in findings]}))
    else:
        for one in findings:
            print(printable(render(one, arguments.repair)))
        if not findings and not arguments.quiet:
            print("no findings" if marked else f"no findings, {_UNMARKED}")
    return judge(path, findings)


def examine(
    upper: str, workdir: str | None, lowers: tuple[str, ...], repair: bool
) -> tuple[str, list[Finding], bool]:
    """The upper's path without links, what is found, and whether it has a mark of any union.

    Raises the errors of errors.py.
    """
    with suppress(OSError):  # told below
        if (point := daemons.union_on(os.stat(upper).st_dev)) is not None:
            raise PathUnusable(
                path=upper,
                reason="it is on a mounted union, not an upper",
                advice=f"give the upper itself, which unionfs-where {point} names, unmounted",
            )
    # Opened as the topmost branch of a mount that cannot write: a check alone must work on a
    # read-only filesystem too. Nothing is mounted: `/` is a mount point that is never in the way.
    options = MountOptions("/", lowers, upper=upper, workdir=workdir, read_only=True)
    with BranchStack.open(options) as stack, _opened(workdir) as workdir_fd:
        stack.upper = stack.lowers.pop(0)
        path = stack.upper.path
        lock = UpperLock(stack, options, notice)
        try:
            marked = is_marked(stack.upper.fd)
            found = check(stack.upper.fd, workdir_fd, stack.lower_fds, repair=repair)
            return path, found, marked
        except OSError as error:
            raise PathUnusable(path=path, **explained(error)) from None
        finally:
            lock.release()


def notice(text: str) -> None:
    """Say why the command waits."""
    print(f"{PROGRAM}: {printable(text)}", file=sys.stderr, flush=True)


def judge(path: str, findings: Sequence[Finding]) -> int:
    """0 if there is no error.  Raises `InconsistenciesRemain` or `InconsistenciesRepaired`."""
    errors = [one for one in findings if one.level == "error"]
    remaining = [one for one in errors if not one.repaired]
    if remaining:
        raise InconsistenciesRemain(path=path, count=len(remaining))
    if errors:
        raise InconsistenciesRepaired(path=path, count=len(errors))
    return 0


def render(finding: Finding, repair: bool) -> str:
    """One line."""
    kind = finding.kind
    if finding.repaired:
        end = f"repaired: {kind.repair}"
    else:
        end = f"not repaired: {kind.repair}" if repair else f"--repair: {kind.repair}"
    detail = f" ({finding.detail})" if finding.detail else ""
    return f"{kind.level} {finding.code} {finding.path}: {kind.meaning}{detail}; {end}"


def as_object(finding: Finding) -> dict[str, object]:
    """What --json prints for each."""
    level, meaning, repair = finding.kind
    return {"level": level, **finding._asdict(), "meaning": meaning, "repair": repair}


@contextmanager
def _opened(workdir: str | None) -> Iterator[int | None]:
    if workdir is None:
        yield None
        return
    try:
        fd = os.open(workdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        raise NotADirectory(path=workdir) from None
    except OSError as error:
        raise WorkdirUnusable(path=workdir, reason=error.strerror) from None
    try:
        yield fd
    finally:
        os.close(fd)
