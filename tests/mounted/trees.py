"""What a directory tree holds, as values that compare and that a person can read."""

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


class Entry(NamedTuple):
    """One name: all that a copy that preserves everything would preserve."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int  #: 0 for directories, whose size is the filesystem's own business
    content: str  #: digest of a file, target of a symlink, numbers of a device
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[str, ...]  #: all names of the same file, when there is more than one
    mtime: int | None  #: nanoseconds


def _entry(path: str, status: os.stat_result, mtimes: bool) -> Entry:
    kind = stat.S_IFMT(status.st_mode)
    content = ""
    size = status.st_size
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    elif kind == stat.S_IFDIR:
        size = 0
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        content = f"{os.major(status.st_rdev)},{os.minor(status.st_rdev)}"
    xattrs = tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(os.listxattr(path, follow_symlinks=False))
    )
    return Entry(
        _KINDS[kind],
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        size,
        content,
        xattrs,
        (),
        status.st_mtime_ns if mtimes else None,
    )


def snapshot(
    root: Path, *, mtimes: bool = False, leave_out: Iterable[str] = ()
) -> dict[str, Entry]:
    """Everything below `root`, by relative path; "." is the root itself.

    `leave_out` names paths (with all below them) that differ from run to run.
    """
    unwanted = set(leave_out)
    entries: dict[str, Entry] = {}
    inodes: dict[int, list[str]] = {}

    def visit(path: str, relative: str) -> None:
        status = os.lstat(path)
        entries[relative] = _entry(path, status, mtimes)
        if stat.S_ISDIR(status.st_mode):
            for name in sorted(os.listdir(path)):
                below = name if relative == "." else f"{relative}/{name}"
                if below not in unwanted:
                    visit(f"{path}/{name}", below)
        elif status.st_nlink > 1:
            inodes.setdefault(status.st_ino, []).append(relative)

    visit(str(root), ".")
    for names in inodes.values():
        for name in names:
            entries[name] = entries[name]._replace(links=tuple(names))
    return entries


def differences(wanted: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """One line for each path on which two snapshots disagree; empty when they are equal."""
    lines = []
    for path in sorted(wanted.keys() | found.keys()):
        if path not in found:
            lines.append(f"missing: {path}")
        elif path not in wanted:
            lines.append(f"too much: {path}: {found[path]}")
        elif wanted[path] != found[path]:
            lines.append(f"differs: {path}: {wanted[path]} became {found[path]}")
    return lines


def assert_same(wanted: Mapping[str, object], found: Mapping[str, object], when: str = "") -> None:
    """Fail with the differing paths, one a line."""
    if lines := differences(wanted, found):
        pytest.fail(
            "\n".join([f"the trees differ {when}".rstrip() + ":", *lines[:40]]), pytrace=False
        )


def _is_opaque(directory: str) -> bool:
    for space in ("trusted.overlay", "user.overlay", "user.fuseoverlayfs"):
        try:
            if os.getxattr(directory, f"{space}.opaque") == b"y":
                return True
        except OSError:
            continue
    return False


def branch(root: Path) -> dict[str, str]:
    """What a branch holds, whiteouts and all: a line for each path.

    ``dir``, ``opaque dir`` (by xattr), ``file CONTENT``, ``link TARGET``, ``whiteout`` for a 0/0
    device, else the kind; names with ``.wh.`` appear as the files they are.
    """
    found: dict[str, str] = {}
    for base, directories, files in os.walk(root):
        for name in sorted(directories + files):
            path = os.path.join(base, name)
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                text = "opaque dir" if _is_opaque(path) else "dir"
            elif stat.S_ISREG(status.st_mode):
                text = "file " + Path(path).read_bytes()[:200].decode(errors="replace")
            elif stat.S_ISLNK(status.st_mode):
                text = "link " + os.readlink(path)
            elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                text = "whiteout"
            else:
                text = _KINDS[stat.S_IFMT(status.st_mode)]
            found[os.path.relpath(path, root)] = text.strip()
    return found


def build(root: Path, tree: Mapping[str, str | bytes | None]) -> None:
    """Make files (a text or bytes) and directories (None) below `root`, parents included."""
    for name, content in tree.items():
        path = root / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
