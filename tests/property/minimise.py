"""Cutting a failing sequence down to what it needs.

Hypothesis could shrink the data that a sequence was drawn from, but gives up after 200 attempts
without progress, long before sequences of this size are small. A script is a plain list and its
lowers are plain trees: both can be cut directly.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace

from .operations import Step
from .trees import Dir, Node

Script = tuple[Sequence[Dir], Sequence[Step]]


def minimise(script: Script, fails: Callable[[Script], bool]) -> Script:
    """A script that still fails, and does not when anything is left out of it."""
    while smaller := next(filter(fails, _smaller(script)), None):
        script = smaller
    return script


def _smaller(script: Script) -> Iterator[Script]:
    lowers, steps = script
    for shorter in _shorter(steps):
        yield lowers, shorter
    if len(lowers) > 1:
        for i in range(len(lowers)):
            yield [*lowers[:i], *lowers[i + 1 :]], steps
    for i, lower in enumerate(lowers):
        for simpler in _simpler(lower):
            assert isinstance(simpler, Dir)
            yield [*lowers[:i], simpler, *lowers[i + 1 :]], steps


def _shorter(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """Without its second half, its first, any quarter, ... down to any single step."""
    size = len(steps)
    while size := size // 2 if size > 1 else 0:
        for start in reversed(range(0, len(steps), size)):
            yield [*steps[:start], *steps[start + size :]]
    if len(steps) == 1:
        yield []


def _simpler(node: Node) -> Iterator[Node]:
    """The node with one thing less: a child, or an attribute that is not the usual one."""
    if isinstance(node, Dir):
        for name in node.children:
            yield replace(node, children={k: v for k, v in node.children.items() if k != name})
        for name, child in node.children.items():
            for simpler in _simpler(child):
                yield replace(node, children={**node.children, name: simpler})
    usual = type(node)()
    for item in fields(node):
        value = getattr(usual, item.name)
        if item.name != "children" and getattr(node, item.name) != value:
            yield replace(node, **{item.name: value})
