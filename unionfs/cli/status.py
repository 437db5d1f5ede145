"""unionfs-status: what a mount has done, and what it holds."""

import json
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from unionfs import daemons
from unionfs.cli import printable, run
from unionfs.cli.attributes import read
from unionfs.daemons import Daemon
from unionfs.xattrs import STATUS

PROGRAM = "unionfs-status"


class Counter(NamedTuple):
    """One kind of request on one plane."""

    operation: str
    plane: str
    requests: int
    errors: int
    ns: int


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run(PROGRAM, command, argv)


def command(argv: Sequence[str]) -> int:
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Print the counters of a mounted union: per operation and plane, and what it "
        "holds in memory. Without MOUNTPOINT: list this user's unions, those in other mount "
        "namespaces too, and how to end what nobody can unmount.",
    )
    parser.add_argument("--json", action="store_true", help="print them as one JSON object")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?")
    arguments = parser.parse_args(argv)
    if arguments.mountpoint is None:
        found = daemons.daemons()
        if arguments.json:
            print(json.dumps([one._asdict() for one in found]))
        else:
            for line in render_list(found):
                print(printable(line))
        return 0
    status = ask(arguments.mountpoint)
    if arguments.json:
        print(json.dumps(status, separators=(",", ":")))
        return 0
    requests = cast(Mapping[str, Mapping[str, Mapping[str, int]]], status.pop("requests"))
    for line in render(status, counters(requests)):
        print(line)
    return 0


def ask(mountpoint: str) -> dict[str, Any]:
    """The counters of a mount.  Raises `PathUnusable` or `NotAMount`."""
    return cast(dict[str, Any], json.loads(read(mountpoint, STATUS)))


def render_list(found: Sequence[Daemon]) -> Iterable[str]:
    """A line for each daemon: its process, its mount point, and what is particular about it."""
    if not found:
        yield "no union of this user is mounted"
        return
    yield f"{'pid':>8}  mount point"
    for one in found:
        if one.mountpoint is None:
            yield f"{one.pid:8}  (unmounted; it still writes out, or a copy of the mount is left)"
        elif one.here:
            yield f"{one.pid:8}  {one.mountpoint}"
        elif one.alone:
            yield (
                f"{one.pid:8}  {one.mountpoint}  (in a mount namespace without other processes; "
                f"end it with: kill {one.pid})"
            )
        else:
            yield f"{one.pid:8}  {one.mountpoint}  (in another mount namespace)"


def counters(requests: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[Counter]:
    """The counters as a list, the most frequent operation first."""
    flat = [
        Counter(operation, plane, numbers["count"], numbers["errors"], numbers["ns"])
        for operation, planes in requests.items()
        for plane, numbers in planes.items()
    ]
    return sorted(flat, key=lambda counter: counter.requests, reverse=True)


def render(totals: Mapping[str, object], requests: Iterable[Counter]) -> Iterable[str]:
    """Lines of text: the totals, then a table of requests."""
    width = max(map(len, totals), default=0)
    for name, value in totals.items():
        yield f"{name.replace('_', ' '):{width}}  {value:>14}"
    yield ""
    yield f"{'operation':20} {'plane':6} {'requests':>12} {'errors':>10} {'mean us':>10}"
    for one in requests:
        mean = one.ns / one.requests / 1000
        yield f"{one.operation:20} {one.plane:6} {one.requests:12} {one.errors:10} {mean:10.1f}"
