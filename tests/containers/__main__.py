"""python -m tests.containers: the same steps over every driver, in one table."""

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from testbed.bed import Bed, Failed
from tests.containers.engines import Driver, Engine, Who
from tests.containers.steps import STEPS, NotHere
from tests.mounted.trees import differences


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.containers",
        description=__doc__,
        epilog="The reference is kernel overlayfs; run it as root.",
    )
    parser.add_argument("--step", action="append", choices=list(STEPS), metavar="NAME")
    parser.add_argument("--who", choices=get_args(Who), action="append")
    parser.add_argument("--verbose", action="store_true", help="tell each difference in full")
    options = parser.parse_args()
    drivers: Sequence[Driver] = ("overlayfs", "unionfs", "fuse-overlayfs")
    columns = [(who, driver) for who in options.who or get_args(Who) for driver in drivers]
    table: dict[str, list[str]] = {}
    with Bed() as bed:
        engines = {column: Engine(bed, *column) for column in columns}
        for name in options.step or STEPS:
            seen: dict[object, object] = {}
            table[name] = []
            for column in columns:
                wanted = seen.get((column[0], "overlayfs"))
                verdict, seen[column] = judge(name, engines[column], wanted)
                table[name].append(verdict.splitlines()[0])
                if options.verbose and verdict not in ("as the kernel", "done"):
                    print(f"{name}, {' '.join(column)}: {verdict}", file=sys.stderr)
    print("| step | " + " | ".join(f"{who}, {driver}" for who, driver in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, verdicts in table.items():
        print(f"| {name} | " + " | ".join(verdicts) + " |")
    return 0


def judge(name: str, engine: Engine, wanted: object) -> tuple[str, object]:
    """One cell of the table, and what the step saw (None if it failed)."""
    try:
        found = STEPS[name](engine)
    except (AssertionError, KeyError) as error:
        return f"wrong\n{error}", None
    except NotHere as error:
        return f"not here\n{error}", None
    except Failed as error:
        return f"failed\n{error}", None
    if wanted is None:
        return "done", found
    if found == wanted:
        return "as the kernel", found
    if isinstance(found, dict) and isinstance(wanted, dict):
        return "\n".join(["differs", *differences(wanted, found)]), found
    return f"differs\n{wanted}\n{found}", found


if __name__ == "__main__":
    sys.exit(main())
