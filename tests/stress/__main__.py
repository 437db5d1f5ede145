"""python -m tests.stress: load a directory for as long as wanted."""

import argparse
import os
import random
import sys

from tests.posix import trees
from tests.stress import tree
from tests.stress.run import may_drop_caches, stress


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("directory", help="empty, or with the tree that --prepare made")
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="repeats the choices, though not their timing")
    parser.add_argument(
        "--prepare", action="store_true", help="only make the tree (in what becomes a lower)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the tree in the end")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 20) if options.seed is None else options.seed
    if not os.listdir(options.directory):
        trees.build([options.directory], tree.initial(options.processes))
    if options.prepare:
        return 0
    dropping = may_drop_caches()
    if not dropping:
        print("caches are not dropped: that needs root", file=sys.stderr)
    try:
        counts = stress(
            options.directory, options.processes, options.seconds, seed, dropping=dropping
        )
    except (AssertionError, OSError) as error:
        print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if not options.keep:
        tree.remove(options.directory)
    print(f"seed {seed}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
