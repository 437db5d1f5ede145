"""The content that is mounted: built once in a run, then only read.

All of it is deterministic, so that two runs at one scale compare the same files.
"""

from __future__ import annotations

import compileall
import os
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.scales import Scale

FILES_IN_DIRECTORY = 25
SIZES = (120, 700, 1800, 2600, 5200)
"""Sizes of small files in bytes, about 2 KiB on average as in a source tree."""

GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "bench",
    "GIT_AUTHOR_EMAIL": "bench@example.org",
    "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@example.org",
}
GIT = ("git", "-c", "gc.auto=0", "-c", "safe.directory=*")


@dataclass(frozen=True)
class Stack:
    """Lower branches and the paths in their union, relative to its root."""

    lowers: tuple[Path, ...]
    merged: Path
    """A plain directory with the content of the union; the lower itself if there is one only."""
    files: list[str]
    bytes: int

    @property
    def missing(self) -> list[str]:
        """As many names that no branch has, in the directories of the files."""
        return [f"{name}.missing" for name in self.files]


class Fixtures:
    """Builds on first use, below ``directory``."""

    def __init__(self, directory: Path, scale: Scale) -> None:
        self._directory = directory
        self._scale = scale
        self._built: dict[str, Stack] = {}

    def once(self, name: str, build: Callable[[Path], Stack]) -> Stack:
        """The stack ``name``, by ``build`` of a new directory if it does not exist yet."""
        if name not in self._built:
            place = self._directory / name
            place.mkdir(parents=True)
            self._built[name] = build(place)
            os.sync()
        return self._built[name]

    @property
    def tree(self) -> Stack:
        return self.once("tree", lambda place: _one_layer(place, self._scale.tree))

    @property
    def changed(self) -> Stack:
        return self.once("changed", lambda place: _one_layer(place, self._scale.changed))

    @property
    def small(self) -> Stack:
        """Hardly anything: what is written goes to the upper."""
        return self.once("small", lambda place: _one_layer(place, 10))

    @property
    def modules(self) -> Stack:
        return self.once("modules", lambda place: _modules(place, self._scale.modules))

    @property
    def sources(self) -> Stack:
        return self.once("sources", lambda place: _sources(place, self._scale.sources))

    @property
    def repository(self) -> Stack:
        return self.once("repository", lambda place: _repository(place, self._scale.changed))

    @property
    def data(self) -> Stack:
        return self.once("data", lambda place: _data(place, self._scale.data_mib))

    @cached_property
    def archive(self) -> Path:
        """The small files as an uncompressed tar; its members are below ``tree/``."""
        tree = self.changed.merged
        path = self._directory / "changed.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(tree, "tree")
        os.sync()
        return path

    def empty_files(self, count: int) -> Stack:
        return self.once(f"empty-{count}", lambda place: _one_layer(place, count, sizes=(0,)))

    def flat(self, count: int) -> Stack:
        """One directory ``flat`` with ``count`` empty files."""
        names = [f"flat/{number:06d}" for number in range(count)]
        return self.once(f"flat-{count}", lambda place: _write(place / "0", names, (0,)))

    def layers(self, count: int, in_directory: int) -> Stack:
        """The same files for any ``count``: every layer has all directories, each file is in one.

        So any look-up has to ask every layer, unless something remembers; and what remembers has
        to read ``count`` directories before it knows about ``in_directory`` files.
        """
        files = names(max(self._scale.changed, count), in_directory)
        name = f"layers-{count}-{in_directory}"
        return self.once(name, lambda place: _layers(place, count, files))


def names(count: int, in_directory: int = FILES_IN_DIRECTORY) -> list[str]:
    """``count`` file names, two directories deep."""
    step = in_directory
    return [
        f"d{number // step // 20:03d}/s{number // step % 20:02d}/f{number:07d}.txt"
        for number in range(count)
    ]


def _write(root: Path, files: list[str], sizes: Iterable[int]) -> Stack:
    sizes = tuple(sizes)
    chance = random.Random(0)
    text = chance.randbytes(max(sizes)).hex()
    made: set[str] = set()
    total = 0
    for number, name in enumerate(files):
        above = os.path.dirname(name)
        if above not in made:
            (root / above).mkdir(parents=True, exist_ok=True)
            made.add(above)
        size = sizes[number % len(sizes)]
        start = chance.randrange(size + 1)
        content = f"{name}\n{text[start:]}"[:size]  # no two alike: git stores each
        total += (root / name).write_text(content)
    return Stack((root,), root, files, total)


def _one_layer(place: Path, count: int, sizes: Iterable[int] = SIZES) -> Stack:
    return _write(place / "0", names(count), sizes)


def _layers(place: Path, count: int, files: list[str]) -> Stack:
    directories = sorted({os.path.dirname(name) for name in files})
    lowers = tuple(place / str(number) for number in range(count))
    total = 0
    for number, lower in enumerate(lowers):
        for directory in directories:
            (lower / directory).mkdir(parents=True)
        total += _write(lower, files[number::count], SIZES).bytes
    merged = place / "merged" if count > 1 else lowers[0]
    if count > 1:
        for lower in lowers:
            subprocess.run(["cp", "-a", f"{lower}/.", str(merged)], check=True)
    return Stack(lowers, merged, files, total)


def _modules(place: Path, count: int) -> Stack:
    """Packages of ten modules with byte code, as an installed environment has."""
    body = "\n".join(f"def function_{n}(a, b={n}):\n    return a + b\n" for n in range(20))
    files = [f"package{number // 10:03d}/module{number % 10}.py" for number in range(count)]
    root = place / "0"
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"NAME = {name!r}\n{body}")
        (root / name).with_name("__init__.py").touch()
    compileall.compile_dir(root, quiet=1)
    return Stack((root,), root, files, 0)


def _sources(place: Path, count: int) -> Stack:
    """C files that include thirty headers each through a path of five directories."""
    root = place / "0"
    headers = [f"header{number}.h" for number in range(30)]
    for number, header in enumerate(headers):
        directory = root / f"include{number % 5}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / header).write_text(
            f"#pragma once\nstatic inline int h{number}(void) {{ return {number}; }}\n"
        )
    included = "".join(f'#include "{header}"\n' for header in headers)
    files = [f"source{number}.c" for number in range(count)]
    for number, name in enumerate(files):
        (root / name).write_text(
            f"#include <stdio.h>\n{included}int f{number}(void) {{ return h0(); }}\n"
        )
    objects = " ".join(name.replace(".c", ".o") for name in files)
    search = " ".join(f"-Iinclude{number}" for number in range(5))
    (root / "Makefile").write_text(f"CFLAGS = {search}\nall.a: {objects}\n\tar cr $@ $^\n")
    return Stack((root,), root, files, 0)


def _repository(place: Path, count: int) -> Stack:
    """A committed tree with a branch ``other`` that changes, adds and removes every tenth file."""
    stack = _one_layer(place, count)
    root = stack.merged

    def git(*arguments: str) -> None:
        environment = {**os.environ, **GIT_ENVIRONMENT}
        subprocess.run([*GIT, *arguments], cwd=root, env=environment, check=True)

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    git("checkout", "-q", "-b", "other")
    for name in stack.files[::10]:
        (root / name).write_text("changed\n")
        (root / f"{name}.new").write_text("new\n")
    for name in stack.files[5::10]:
        (root / name).unlink()
    git("add", "-A")
    git("commit", "-q", "-m", "second")
    git("checkout", "-q", "main")
    return stack


def _data(place: Path, mebibytes: int) -> Stack:
    root = place / "0"
    root.mkdir()
    block = random.Random(0).randbytes(1 << 20)
    with open(root / "data", "wb") as data:
        for _ in range(mebibytes):
            data.write(block)
    return Stack((root,), root, ["data"], mebibytes << 20)
