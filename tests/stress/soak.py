"""A long life: creating, renaming, deleting and looking up, while the daemon is watched.

    python -m tests.stress.soak DIRECTORY --plot soak.svg

mounts a union on branches below DIRECTORY (in a tmpfs it is quickest), does a million cycles of
creating, renaming and deleting on it, has the daemon look up ten million names (half of them for
the cycles), and fails when its private memory, its descriptors or its nodes grow. The mount has
``timeout=0``, so that the kernel asks for every name, every time.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from testbed.memory import private_memory
from tests.mounted.harness import Union, status
from tests.stress.run import may_drop_caches

DIRECTORIES = 32
FILES = 64  #: in each directory of each lower
LOWERS = 2
#: Of so many rounds one begins with the kernel's caches dropped.
DROP_EVERY = 10

#: What may come and go without being growth: the daemon keeps up to 256 descriptors for use
#: again, and the kernel as many nodes as it likes of the names there are.
MEMORY_SLACK = 512 << 10
DESCRIPTOR_SLACK = 256
NODE_SLACK = LOWERS * DIRECTORIES * FILES


class Sample(NamedTuple):
    """The daemon at the end of a round."""

    cycles: int  #: files created, renamed and deleted so far
    lookups: int  #: as the daemon counts them
    memory: int  #: private, bytes
    descriptors: int
    nodes: int


def build(lowers: Sequence[Path]) -> None:
    """The same directories in every lower, and files of each lower's own."""
    for number, lower in enumerate(lowers):
        for i in range(DIRECTORIES):
            directory = lower / f"d{i}"
            directory.mkdir()
            for j in range(FILES):
                (directory / f"lower{number}-{j}").write_text("lower")


class Work:
    """What is done to a union that was built by `build`."""

    def __init__(self, top: Path) -> None:
        self._directories: list[int] = []
        for i in range(DIRECTORIES):
            self._directories.append(os.open(top / f"d{i}", os.O_RDONLY | os.O_DIRECTORY))
        self._names = [f"lower{number}-{j}" for number in range(LOWERS) for j in range(FILES)]
        self._missing = [f"missing-{j}" for j in range(FILES)]

    def close(self) -> None:
        for fd in self._directories:
            os.close(fd)

    def look_up(self, count: int) -> None:
        """About so many look-ups, a third of them of names that are not there."""
        done = 0
        while True:
            for fd in self._directories:
                for names, there in ((self._names, True), (self._missing, False)):
                    for name in names:
                        assert os.access(name, os.F_OK, dir_fd=fd) == there, name
                        done += 1
                        if done == count:
                            return

    def cycle(self, number: int) -> None:
        """Create, rename and delete: a file, and now and then something else beside it."""
        here = self._directories[number % DIRECTORIES]
        there = self._directories[number * 7 % DIRECTORIES]
        new, moved = f"new-{number}", f"moved-{number}"
        kinds: tuple[Callable[[], None], ...] = (
            lambda: self._replace(here, self._names[number // 8 % len(self._names)]),
            lambda: self._directory(here, f"{new}-directory"),
            lambda: self._link(here, new),
            lambda: self._symlink(here, f"{new}-link"),
        )
        fd = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=here)
        os.write(fd, b"content")
        os.close(fd)
        if number % 8 < len(kinds):
            kinds[number % 8]()
        os.rename(new, moved, src_dir_fd=here, dst_dir_fd=there)
        os.unlink(moved, dir_fd=there)

    def _replace(self, directory: int, name: str) -> None:
        """The lower's file the first time, over a whiteout then; the upper's own later on."""
        os.unlink(name, dir_fd=directory)
        os.mknod(name, dir_fd=directory)

    def _directory(self, directory: int, name: str) -> None:
        os.mkdir(name, dir_fd=directory)
        os.mknod(f"{name}/inside", dir_fd=directory)
        os.rename(name, f"{name}2", src_dir_fd=directory, dst_dir_fd=directory)
        os.unlink(f"{name}2/inside", dir_fd=directory)
        os.rmdir(f"{name}2", dir_fd=directory)

    def _link(self, directory: int, name: str) -> None:
        os.link(name, f"{name}-twin", src_dir_fd=directory, dst_dir_fd=directory)
        os.unlink(f"{name}-twin", dir_fd=directory)

    def _symlink(self, directory: int, name: str) -> None:
        os.symlink("target", name, dir_fd=directory)
        os.unlink(name, dir_fd=directory)


def watch(union: Union, cycles: int) -> Sample:
    said = status(union.mountpoint)
    return Sample(
        cycles=cycles,
        lookups=sum(plane["count"] for plane in said["requests"]["LOOKUP"].values()),
        memory=private_memory(union.pid),
        descriptors=len(os.listdir(f"/proc/{union.pid}/fd")),
        nodes=said["nodes"],
    )


def soak(place: Path, cycles: int, lookups: int, rounds: int) -> Iterator[Sample]:
    """Mount below `place` and work in `rounds` equal rounds; one sample after each."""
    union = Union(place, lowers=LOWERS, timeout=0)
    build(union.lowers)
    with ExitStack() as cleanup:
        cleanup.enter_context(union)
        work = Work(union.mountpoint)
        cleanup.callback(work.close)
        done = 0
        for number in range(rounds):
            if number % DROP_EVERY == 0 and may_drop_caches():
                Path("/proc/sys/vm/drop_caches").write_text("2")
            for _ in range(cycles // rounds):
                work.cycle(done)
                done += 1
            work.look_up(lookups // rounds)
            yield watch(union, done)


def growth(samples: Sequence[Sample]) -> list[str]:
    """What has grown from the middle third of a life to its last third; nothing, if all is well.

    Others on the machine may drop the kernel's caches too: of nodes there may be fewer or more at
    any time, but never more than the union has names and the caches have lately had.
    """
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    limits = {"memory": MEMORY_SLACK, "descriptors": DESCRIPTOR_SLACK, "nodes": NODE_SLACK}
    found = []
    for name, slack in limits.items():
        before, after = (max(getattr(one, name) for one in part) for part in (middle, last))
        if after > before + slack:
            found.append(f"{name}: at most {before} in the middle, {after} at the end")
    return found


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Three curves over the look-ups. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "unionfs", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(3, 1, sharex=True, figsize=(7, 5), layout="constrained")
    at = [sample.lookups / 1e6 for sample in samples]
    curves = {
        "private memory, MiB": [sample.memory / (1 << 20) for sample in samples],
        "descriptors": [sample.descriptors for sample in samples],
        "nodes": [sample.nodes for sample in samples],
    }
    for panel, (label, values) in zip(panels, curves.items(), strict=True):
        panel.plot(at, values, linewidth=1)
        panel.set_ylim(bottom=0)
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("look-ups, millions")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stress.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", help="where the branches are made, and removed in the end")
    parser.add_argument("--cycles", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=5_000_000, help="beside the cycles'")
    parser.add_argument("--rounds", type=int, default=200, help="one sample each")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the samples (matplotlib)")
    options = parser.parse_args()
    samples = []
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="soak-") as place:
        for sample in soak(Path(place), options.cycles, options.lookups, options.rounds):
            samples.append(sample)
            text = ", ".join(f"{value} {name}" for name, value in sample._asdict().items())
            print(text, flush=True)
    if options.plot:
        plot(samples, options.plot)
    for line in growth(samples):
        print(line, file=sys.stderr)
    return 1 if growth(samples) else 0


if __name__ == "__main__":
    sys.exit(main())
