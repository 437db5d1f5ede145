"""The tree that a case finds: described once, built in one directory or over several branches."""

import os
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest


class Node:
    """An entry of a tree."""


@dataclass(frozen=True)
class _Inode(Node):
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    #: Seconds since the epoch, of mtime and atime both.
    time: int | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class File(_Inode):
    content: bytes = b""
    #: Size when it is more than the content: the rest is a hole.
    size: int | None = None


@dataclass(frozen=True)
class Dir(_Inode):
    children: "Tree" = field(default_factory=dict)


@dataclass(frozen=True)
class Symlink(_Inode):
    target: str = ""


@dataclass(frozen=True)
class Hardlink(Node):
    """Another name of a file named earlier, by its path from the top of the tree."""

    to: str


@dataclass(frozen=True)
class Special(_Inode):
    """A FIFO, a socket or a device; `type` is one of stat.S_IF*."""

    type: int = stat.S_IFIFO
    device: int = 0


Tree = Mapping[str, Node]


def given(tree: Tree) -> pytest.MarkDecorator:
    """Mark a case: the tree is in its directory, as the place sees fit, before it is mounted."""
    return pytest.mark.given(tree)


def build(branches: Sequence[str], tree: Tree) -> None:
    """Build the tree: its directories in every branch, everything else in one of them in turn.

    All names of one inode land in the same branch.
    """
    owner: dict[str, int] = {}
    for path, node in _walk(tree):
        if isinstance(node, Dir):
            for branch in branches:
                os.mkdir(os.path.join(branch, path))
            continue
        if isinstance(node, Hardlink):
            owner[path] = owner[node.to]
            branch = branches[owner[path]]
            os.link(os.path.join(branch, node.to), os.path.join(branch, path))
            continue
        assert isinstance(node, File | Symlink | Special)
        owner[path] = len(owner) % len(branches)
        target = os.path.join(branches[owner[path]], path)
        _create(target, node)
        _dress(target, node)
    # Last and from the bottom up: what is created inside changes the times of a directory.
    for path, node in reversed(list(_walk(tree))):
        if isinstance(node, Dir):
            for branch in branches:
                _dress(os.path.join(branch, path), node)


def _walk(tree: Tree, above: str = "") -> Iterator[tuple[str, Node]]:
    for name, node in tree.items():
        path = os.path.join(above, name)
        yield path, node
        if isinstance(node, Dir):
            yield from _walk(node.children, path)


def _create(path: str, node: File | Symlink | Special) -> None:
    if isinstance(node, Symlink):
        os.symlink(node.target, path)
    elif isinstance(node, Special):
        if node.type == stat.S_IFSOCK:
            # mknod makes a socket as well, but bind is what programs do.
            with socket.socket(socket.AF_UNIX) as bound:
                directory = os.open(os.path.dirname(path), os.O_PATH)
                bound.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
                os.close(directory)
        else:
            os.mknod(path, node.type | 0o600, node.device)
    else:
        with open(path, "xb") as file:
            file.write(node.content)
            if node.size is not None:
                file.truncate(node.size)


def _dress(path: str, node: _Inode) -> None:
    """Set the attributes; the owner first, for chown clears set-id bits."""
    if node.uid is not None or node.gid is not None:
        os.chown(
            path,
            -1 if node.uid is None else node.uid,
            -1 if node.gid is None else node.gid,
            follow_symlinks=False,
        )
    for name, value in node.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    if not isinstance(node, Symlink):
        default = 0o755 if isinstance(node, Dir) else 0o644
        os.chmod(path, default if node.mode is None else node.mode)
    if node.time is not None:
        os.utime(path, (node.time, node.time), follow_symlinks=False)
