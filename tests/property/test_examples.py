"""Sequences that once failed, and those behind the bugs of other union filesystems.

What a failing run prints is pasted here under a name that says what went wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from .comparison import replay
from .operations import Step
from .trees import Dir, File, Node, Special, Symlink, Whiteout
from .unions import Kernel, Plain, Unionfs


@dataclass(frozen=True)
class Example:
    name: str
    lowers: Sequence[Dir]
    steps: Sequence[Step]


def branch(**children: Node) -> Dir:
    return Dir(children=children)


TEXT = File(tag="t", size=4097)
FULL = branch(a=TEXT, b=branch(a=TEXT, b=TEXT))

EXAMPLES = (
    Example(
        name="a directory removed and made again hides what was below it",
        lowers=[FULL],
        steps=[
            ("remove_tree", "b"),
            ("mkdir", "b", 0o755),
            ("lstat", "b/a"),
            ("listdir", "b"),
            ("rename", "b", "c", ""),
            ("mkdir", "b", 0o755),
        ],
    ),
    Example(
        name="a shorter text leaves nothing of the longer one",
        lowers=[FULL],
        steps=[("rewrite", "a", 7, "x"), ("content", "a"), ("truncate", "a", 4096)],
    ),
    Example(
        name="an early descriptor and an early mapping show what was written later",
        lowers=[FULL],
        steps=[
            ("open", 0, "a", "RDONLY", 0),
            ("map", 0),
            ("open", 1, "a", "RDWR", 0),
            ("pwrite", 1, 100, 7, "x"),
            ("pread", 0, 0, 4096),
            ("peek", 0, 0, 4096),
        ],
    ),
    Example(
        name="an unlinked file is read, written and given a name by its descriptor",
        lowers=[FULL],
        steps=[
            ("open", 0, "a", "RDWR", 0),
            ("unlink", "a"),
            ("fstat", 0),
            ("pwrite", 0, 4096, 7, "x"),
            ("pread", 0, 0, 10000),
            ("fchmod", 0, 0o600),
            ("open", 1, ".", "RDWR TMPFILE", 0o644),
            ("write", 1, 10000, "y"),
            ("flink", 1, "a"),
            ("copy_range", 0, 1, 1, 100, 4096),
        ],
    ),
    Example(
        name="renames over whiteouts, over opaque directories, exclusively and in exchange",
        lowers=[FULL, branch(c=branch(a=TEXT))],
        steps=[
            ("unlink", "a"),
            ("rename", "b/a", "a", "NOREPLACE"),
            ("rename", "b/b", "a", "NOREPLACE"),
            ("rename", "b/b", "a", "EXCHANGE"),
            ("remove_tree", "c"),
            ("mkdir", "c", 0o755),
            ("mkdir", "d", 0o700),
            ("rename", "d", "c", ""),
            ("mkdir", "d", 0o711),
            ("rename", "d", "c", "EXCHANGE"),
        ],
    ),
    Example(
        name="a name of the top branch is seen beside a whiteout of a lower one",
        lowers=[branch(a=TEXT), branch(a=Whiteout()), branch(a=branch(b=TEXT))],
        steps=[("unlink", "a"), ("lstat", "a"), ("mkdir", "a", 0o755), ("listdir", "a")],
    ),
    Example(
        name="an opaque directory between two others",
        lowers=[
            branch(a=branch(a=TEXT)),
            branch(a=Dir(children={"b": TEXT}, opaque=True)),
            branch(a=branch(c=TEXT)),
        ],
        steps=[("listdir", "a"), ("lstat", "a/c"), ("unlink", "a/b"), ("rmdir", "a")],
    ),
    Example(
        name="files that nobody may write are changed by root",
        lowers=[
            branch(a=File(mode=0o444, size=7), b=Dir(mode=0o555, children={"a": File(mode=0)}))
        ],
        steps=[
            ("append", "a", 7, "x"),
            ("rewrite", "b/a", 7, "x"),
            ("setxattr", "b/a", "user.a", b"1", 0, True),
            ("mkdir", "b/b", 0o555),
            ("rewrite", "b/b/a", 7, "x"),
        ],
    ),
    Example(
        name="attributes of a symbolic link itself",
        lowers=[branch(a=Symlink(target="b"), b=TEXT)],
        steps=[
            ("utimens", "a", 86400123456789, False),
            ("chown", "a", 1000, 1000, False),
            ("setxattr", "a", "user.a", b"1", 0, False),
            ("lstat", "b"),
            ("rename", "a", "c", ""),
        ],
    ),
    Example(
        name="set-id bits go with a write by somebody else and with a change of owner",
        lowers=[branch(a=File(mode=0o4777, uid=1000, size=7), b=File(mode=0o6755, size=7))],
        steps=[
            ("chown", "b", 1000, 0, True),
            ("become", 1000),
            ("append", "a", 7, "x"),
            ("truncate", "a", 1),
            ("chmod", "b", 0o2755),
            ("chmod", "a", 0o600),
        ],
    ),
    Example(
        name="a listing goes on while names come and go",
        lowers=[branch(a=TEXT, b=TEXT, c=TEXT), branch(c=TEXT, d=TEXT)],
        steps=[
            ("opendir", 0, "."),
            ("unlink", "a"),
            ("mkdir", "e", 0o755),
            ("rename", "b", "f", ""),
            ("readdir", 0),
            ("list_by_parts", "."),
        ],
    ),
    Example(
        name="a directory made over a whiteout in the middle stays empty when it is indexed",
        lowers=[branch(a=Whiteout()), branch(a=branch(a=Dir()))],
        steps=[
            ("mkdir", "a", 0o755),
            *[("lstat", "a/c")] * 8,  # enough of them, and the directory gets an index
            ("lstat", "a/a"),
            ("listdir", "a"),
        ],
    ),
    Example(
        name="what is left of a file cut short within its hole is a hole",
        lowers=[branch(a=File(size=4097, hole=8192))],
        steps=[("hold", 0, "a"), ("ftruncate", 0, 7), ("seek", 0, 1, 3)],
    ),
    Example(
        name="a hole that was read by a mapping is a hole still, or is stored by the reference",
        lowers=[branch(a=File(hole=8192))],
        steps=[("map_read", "a", 4096, 4097), ("hold", 0, "a"), ("seek", 0, 100, 3)],
    ),
    Example(
        name="the end of a hole, after a mapping was read",
        lowers=[branch(a=File(hole=8192))],
        steps=[("hold", 0, "a"), ("map_read", "a", 100, 7), ("seek", 0, 4095, 4)],
    ),
    Example(
        name="truncating to the size that a file has leaves its mtime",
        lowers=[branch(a=File())],
        steps=[
            ("truncate", "a", 4097),
            ("utimens", "a", 5000000000999999999, True),
            ("truncate", "a", 4097),
        ],
    ),
    Example(
        name="a lower file that is cut short has a new mtime, one that keeps its size has not",
        lowers=[branch(a=File(hole=8192), b=TEXT)],
        steps=[("truncate", "a", 7), ("truncate", "b", 4097)],
    ),
    Example(
        name="a removed fifo does not come back when its mode is changed",
        lowers=[branch(a=Special())],
        steps=[("open", 0, "a", "RDONLY", 0), ("unlink", "a"), ("fchmod", 0, 0o600)],
    ),
    Example(
        name="an empty file that is truncated, and one that is rewritten",
        lowers=[branch(a=File(), b=File())],
        steps=[("truncate", "a", 0), ("rewrite", "b", 0, "x"), ("lstat", "a"), ("lstat", "b")],
    ),
    Example(
        name="a directory of a lower is renamed over one that is not empty",
        lowers=[branch(a=Dir(), b=branch(a=TEXT))],
        steps=[("rename", "a", "b", "")],
    ),
    Example(
        name="an open file is changed whose directory was removed with it",
        lowers=[FULL],
        steps=[
            ("open", 0, "b/a", "RDONLY", 0),
            ("remove_tree", "b"),
            ("fchmod", 0, 0o600),
            ("fstat", 0),
        ],
    ),
    Example(
        name="special files are copied up with all they have",
        lowers=[
            branch(
                a=Special(mode=0o600, uid=1000),
                b=Special(mode=0o640, kind="char", device=259),
            )
        ],
        steps=[
            ("chmod", "a", 0o666),
            ("rename", "b", "c", ""),
            ("link", "a", "b"),
            ("utimens", "c", -5000000000, True),
        ],
    ),
)


each_format = pytest.mark.parametrize("whiteout", ["aufs", "overlay"])
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)


@each_format
@each_example
def test_as_kernel_overlayfs(arena: Path, example: Example, whiteout: str) -> None:
    replay(arena / "example", Kernel(), Unionfs(whiteout), example.lowers, example.steps)


@each_format
@each_example
def test_as_the_plain_tree(arena: Path, example: Example, whiteout: str) -> None:
    subject = Unionfs(whiteout, rename_dir="copy")
    replay(arena / "example", Plain(), subject, example.lowers, example.steps)
