"""python -m tests.fsx: exercise one file for as long as wanted."""

import argparse
import os
import random
import subprocess
import sys
import time

from tests.fsx.exerciser import Exerciser, Mismatch


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fsx", description=__doc__)
    parser.add_argument("directory", help="where the file is made; it is removed on success")
    parser.add_argument("--ops", type=int, default=1_000_000, help="operations in all")
    parser.add_argument("--seed", type=int, help="repeats a run; random without it")
    parser.add_argument("--size", type=int, default=1 << 18, help="limit of the file, bytes")
    parser.add_argument(
        "--file", help="a file in the directory, with content, in place of a new one"
    )
    parser.add_argument("--remount", metavar="COMMAND", help="a shell command that remounts")
    parser.add_argument(
        "--drop-caches", action="store_true", help="write to /proc/sys/vm/drop_caches (root)"
    )
    parser.add_argument(
        "--msync-before-seek",
        action="store_true",
        help="for FUSE, whose SEEK_DATA does not see pages that a mapping has changed",
    )
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed

    def remount() -> None:
        subprocess.run(options.remount, shell=True, check=True)

    def drop_caches() -> None:
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")

    initial = None
    path = os.path.join(options.directory, f"fsx-{seed}")
    if options.file:
        path = os.path.join(options.directory, options.file)
        with open(path, "rb") as file:
            initial = file.read()
    exerciser = Exerciser(
        path,
        seed,
        initial=initial,
        limit=options.size,
        seek_sees_mappings=not options.msync_before_seek,
        remount=remount if options.remount else None,
        drop_caches=drop_caches if options.drop_caches else None,
    )
    start = time.monotonic()
    try:
        exerciser.run(options.ops)
    except Mismatch as mismatch:
        print(mismatch, file=sys.stderr)
        return 1
    exerciser.close()
    if not options.file:
        os.unlink(path)
    seconds = time.monotonic() - start
    counts = ", ".join(f"{count} {name}" for name, count in exerciser.counts.most_common())
    print(f"seed {seed}: {options.ops} operations in {seconds:.1f} s, no difference ({counts})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
