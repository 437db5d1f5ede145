"""Two unions of the same lowers, taken through the same steps."""

import os
import shutil
import stat
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from . import trees
from .operations import Outcome, Step
from .torn import CODES, tear
from .trees import DEPTH, NAMES, Dir, Found
from .unions import UNLINKED_DIRECTORY, Checked, Layout, Reference, Union


class Difference(AssertionError):
    """The two sides disagree: `where` names what tells: an operation, a check, "the end"."""

    def __init__(self, where: str, what: str, lowers: Sequence[Dir], steps: Sequence[Step]) -> None:
        super().__init__(f"{where}: {what}\n\nFor test_examples.py:\n{script(lowers, steps)}")
        self.where = where
        self.lowers = lowers
        self.steps = steps


class Side:
    """One union, mounted on directories of its own, and a program that uses it."""

    def __init__(self, union: Union, base: Path, stack: Sequence[Dir], lowers: Sequence[Path]):
        self.union = union
        # The mount point's parent holds nothing else: symbolic links may lead there.
        self.layout = Layout(lowers, base / "upper", base / "work", base / "merged" / "mount")
        self.layout.work.mkdir(parents=True)
        self.layout.mountpoint.parent.mkdir()
        root = Dir(mode=0o777)
        if union.whiteout == "none":
            trees.build(self.layout.mountpoint, trees.merged(stack, root), union.whiteout)
        else:
            trees.build(self.layout.upper, root, union.whiteout)
            self.layout.mountpoint.mkdir()
        self.program = union.program(self.layout)

    def mount(self) -> None:
        self.union.mount(self.layout)

    def unmount(self) -> None:
        self.program.close_all()
        self.union.unmount()

    def read(self, other: "Side") -> dict[str, Found]:
        """What this union shows of the branches that the other side has written."""
        self.unmount()
        self.union.mount(replace(other.layout, mountpoint=self.layout.mountpoint))
        found = self.program.scan()
        self.unmount()
        return found

    def next_generation(self) -> None:
        """The upper, unmounted, becomes the topmost lower below a fresh one that looks like it."""
        if self.union.whiteout == "none":
            return
        old = self.layout
        number = len(old.lowers)
        upper, work = (old.work.with_name(f"{name}{number}") for name in ("upper", "work"))
        work.mkdir()
        upper.mkdir()
        trees.copy_attributes(old.upper, upper)
        self.layout = replace(old, lowers=(old.upper, *old.lowers), upper=upper, work=work)


class Comparison:
    """A reference and a subject in lock step; `steps` is the script so far."""

    def __init__(
        self, base: Path, reference: Reference, subject: Union, lowers: Sequence[Dir]
    ) -> None:
        base.mkdir()
        self._base = base
        self._reference = reference
        self._lowers = list(lowers)
        self.steps: list[Step] = []
        self._built: dict[str, list[Path]] = {}
        self._pristine: dict[Path, dict[str, Found]] = {}
        self._torn = False
        self._sides: list[Side] = []
        for name, union in (("reference", reference), ("subject", subject)):
            self._sides.append(Side(union, base / name, lowers, self._lowers_of(union)))
        try:
            for side in self._sides:
                side.mount()
        except BaseException:
            self.close()
            raise

    def _lowers_of(self, union: Union) -> list[Path]:
        """Branches never change, so two sides that read one format share them."""
        if union.whiteout == "none":
            return []
        if union.whiteout not in self._built:
            paths = [self._base / f"{union.whiteout}{i}" for i in range(len(self._lowers))]
            for path, tree in zip(paths, self._lowers, strict=True):
                trees.build(path, tree, union.whiteout)
            self._built[union.whiteout] = paths
            self._pristine |= {path: trees.scan(path) for path in paths}
        return self._built[union.whiteout]

    def choices(self) -> dict[str, Sequence[Any]]:
        """What `steps.resolve` chooses from, as the reference has it now.

        The subject is not asked, and its caches stay as the steps have made them.
        """
        reference = self._sides[0]
        root = reference.layout.mountpoint
        paths: dict[str, list[Any]] = {
            kind: [] for kind in ("existing", "directory", "regular", "fresh")
        }
        for path in trees.walk(root, phantoms=True):
            name = str(path.relative_to(root))
            mode = path.lstat().st_mode
            if path != root:
                paths["existing"].append(name)
            if stat.S_ISREG(mode):
                paths["regular"].append(name)
            if stat.S_ISDIR(mode):
                paths["directory"].append(name)
                if name.count("/") < DEPTH - 1:
                    new = [path / child for child in NAMES if not os.path.lexists(path / child)]
                    paths["fresh"] += [str(child.relative_to(root)) for child in new]
        choices = {kind: found or NAMES for kind, found in paths.items()}
        return {**choices, "opened": reference.program.opened}

    @property
    def holds_files(self) -> bool:
        return bool(self._sides[0].program.opened)

    def perform(self, step: Step) -> None:
        """Take both sides one step further; raises `Difference` if they do not do the same."""
        self.steps.append(step)
        if step == ("layer",):
            self._next_generation()
            return
        if step in (("remount",), ("crash",)):
            self._remount(crash=step == ("crash",))
            return
        expected, given = (side.program.perform(step) for side in self._sides)
        if expected == given or given is NotImplemented:
            return
        reason = self._reference.explains(step, expected, given)
        if reason == UNLINKED_DIRECTORY:
            for side in self._sides:  # the file is not the same any more
                side.program.perform(("close", step[1]))
        elif not (reason or self._holes_allow(step, given)):
            self._differ(step[0], f"{step}\nreference: {expected}\n  subject: {given}")

    def _holes_allow(self, step: Step, given: Outcome) -> bool:
        if step[0] != "seek" or step[3] not in (os.SEEK_DATA, os.SEEK_HOLE):
            return False
        return self._sides[0].program.holes_allow(*step[1:], given)

    def finish(self) -> None:
        """Compare the trees: now, remounted, and each upper mounted by the other side."""
        reference, subject = self._sides
        tree = self._compare_trees("at the end")
        inodes = subject.program.inodes()
        self._remount()
        self._compare_trees("after remounting")
        if changed := inodes.items() ^ subject.program.inodes().items():
            self._differ("the end", f"inode numbers before and after remounting: {sorted(changed)}")
        subject.unmount()
        self._check()
        reference.unmount()
        self._compare_readers(tree)
        for path, lower in self._pristine.items():
            self._compare(lower, trees.scan(path), f"lower {path.name} before and after")

    def _compare_readers(self, tree: dict[str, Found]) -> None:
        """What each side shows of what the other one has written; nothing is mounted."""
        reference, subject = self._sides
        if self._reference.portable and subject.union.whiteout == reference.union.whiteout:
            given = reference.read(subject)
            self._compare(tree, given, "the subject and the reference on the subject's upper")
        if self._reference.portable:
            given = subject.read(reference)
            self._compare(tree, given, "the reference and the subject on the reference's upper")

    def _next_generation(self) -> None:
        tree = self._compare_trees("at the end of a generation")
        for side in self._sides:
            side.unmount()
        self._check()
        self._compare_readers(tree)
        for side in self._sides:
            side.next_generation()
            side.mount()
        self._compare_trees("in the next generation")

    def _remount(self, crash: bool = False) -> None:
        for side in self._sides:
            side.unmount()
        self._check()
        subject = self._sides[1]
        if crash and subject.union.whiteout == "aufs":
            tear(subject.layout.upper)
            self._torn = True
        for side in self._sides:
            side.mount()

    def _check(self) -> None:
        """The upper that the subject has written, while it is not mounted."""
        subject = self._sides[1]
        if not isinstance(subject.union, Checked):
            return
        findings = subject.union.findings(subject.layout)
        if findings := [one for one in findings if not (self._torn and one.code in CODES)]:
            lines = (f"{one.level} {one.code} {one.path} {one.detail}" for one in findings)
            self._differ("unionfs-check", "; ".join(lines))

    def close(self) -> None:
        with ExitStack() as cleanup:
            cleanup.callback(shutil.rmtree, self._base)
            for side in self._sides:
                cleanup.callback(side.unmount)

    def _compare_trees(self, when: str) -> dict[str, Found]:
        expected, given = (side.program.scan() for side in self._sides)
        self._compare(expected, given, f"the trees {when}")
        return expected

    def _compare(self, expected: dict[str, Found], given: dict[str, Found], what: str) -> None:
        lines = []
        for path in sorted(expected.keys() | given.keys()):
            if expected.get(path) != given.get(path):
                lines.append(f"{path}: {expected.get(path)}\n{' ' * len(path)}  {given.get(path)}")
        if lines:
            self._differ("the end", "\n".join([f"{what} differ", *lines]))

    def _differ(self, where: str, what: str) -> NoReturn:
        raise Difference(where, what, self._lowers, self.steps)


def replay(
    base: Path, reference: Reference, subject: Union, lowers: Sequence[Dir], steps: Sequence[Step]
) -> None:
    """A whole sequence: raises `Difference` at the first step that differs, or at the end."""
    with closing(Comparison(base, reference, subject, lowers)) as comparison:
        for step in steps:
            comparison.perform(step)
        comparison.finish()


def script(lowers: Sequence[Dir], steps: Sequence[Step]) -> str:
    """An example as Python, for `test_examples`."""
    items = [f"lowers={lowers!r},", "steps=["] + [f"    {step!r}," for step in steps] + ["],"]
    return f"Example(\n    name=...,\n{textwrap.indent(chr(10).join(items), '    ')}\n)"
