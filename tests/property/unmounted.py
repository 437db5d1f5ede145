"""The union on directories without a mount: what the kernel does above a filesystem, in short.

Paths become nodes, and what the kernel refuses before it asks a filesystem is refused here. Links
are not followed: in these comparisons all symbolic links lead nowhere.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from unionfs._tree import ROOT, Tree

from . import libc, trees
from .operations import Outcome, Step
from .trees import Found, content, digest
from .unions import Checked, Layout, Program


class Unmounted(Checked):
    """unionfs' own tree, by its Python face."""

    # Scratch space and the links are in one directory here.
    passed_over = frozenset({"workdir-unknown"})

    def __init__(self, whiteout: str, rename_dirs: Sequence[str] = ("copy",)) -> None:
        """`rename_dirs`: how each generation renames directories, in turns."""
        self.whiteout = whiteout
        self._rename_dirs = rename_dirs
        self._program = TreeOperations()

    def mount(self, layout: Layout) -> None:
        paths = (*layout.lowers, layout.upper, layout.work)
        fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths]
        try:
            *lowers, upper, work = fds
            rename_dir = self._rename_dirs[len(lowers) % len(self._rename_dirs)]
            self._program.tree = Tree(
                lowers, upper, work, whiteout=self.whiteout, rename_dir=rename_dir
            )
        finally:
            for fd in fds:
                os.close(fd)

    def unmount(self) -> None:
        if self._program.tree:
            self._program.tree.close()
            self._program.tree = None

    def program(self, layout: Layout) -> Program:
        return self._program


class TreeOperations:
    """The steps that need nothing but the tree; see `operations.Operations`.

    What an operation of the kernel's own would have to answer is `NotImplemented`.
    """

    tree: Tree | None = None

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        self._umask = os.umask(0)
        os.umask(self._umask)

    def perform(self, step: Step) -> Outcome:
        name, *arguments = step
        operation: Callable[..., Outcome] = getattr(self, name)
        try:
            return operation(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    @property
    def opened(self) -> list[int]:
        return sorted(self._files)

    def close_all(self) -> None:
        for slot in self.opened:
            self.close(slot)

    # look-up

    @property
    def _t(self) -> Tree:
        assert self.tree
        return self.tree

    @contextmanager
    def _node(self, path: str) -> Iterator[tuple[int, os.stat_result]]:
        """The node of a path and its attributes."""
        with self._parent(path) as (parent, name):
            node, status = self._child(parent, name)
            try:
                yield node, status
            finally:
                self._forget(node)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, bytes]]:
        """The directory that a path's last name is in, and that name."""
        *above, name = os.fsencode(path).split(b"/")
        node = ROOT
        held: list[int] = []
        try:
            for component in above:
                node, status = self._child(node, component)
                held.append(node)
                if stat.S_ISLNK(status.st_mode):
                    fail(errno.ENOENT)
                if not stat.S_ISDIR(status.st_mode):
                    fail(errno.ENOTDIR)
            yield node, name
        finally:
            for node in held:
                self._forget(node)

    def _child(self, parent: int, name: bytes) -> tuple[int, os.stat_result]:
        if name == b".":
            return ROOT, self._t.getattr(ROOT)
        return self._t.lookup(parent, name)

    def _forget(self, node: int) -> None:
        if node != ROOT:
            self._t.forget(node)

    def _absent(self, parent: int, name: bytes) -> None:
        try:
            node, _ = self._t.lookup(parent, name)
        except FileNotFoundError:
            return
        self._forget(node)
        fail(errno.EEXIST)

    def drop_caches(self) -> None:
        self._t.shrink(everything=True)

    # names

    def mkdir(self, path: str, mode: int) -> None:
        with self._parent(path) as (parent, name):
            self._absent(parent, name)
            # vfs_mkdir() passes on no set-id bits
            made = self._t.mkdir(parent, name, mode & 0o1777, umask=self._umask)
            self._forget(made[0])

    def mknod(self, path: str, kind: str, mode: int, device: int) -> None:
        with self._parent(path) as (parent, name):
            self._absent(parent, name)
            device = device if kind == "char" else 0
            made = self._t.mknod(parent, name, trees.KINDS[kind] | mode, device, umask=self._umask)
            self._forget(made[0])

    def symlink(self, target: str, path: str) -> None:
        with self._parent(path) as (parent, name):
            self._absent(parent, name)
            self._forget(self._t.symlink(parent, name, os.fsencode(target))[0])

    def link(self, source: str, path: str) -> None:
        with self._node(source) as (node, status), self._parent(path) as (parent, name):
            self._absent(parent, name)
            if stat.S_ISDIR(status.st_mode):
                fail(errno.EPERM)
            self._forget(self._t.link(node, parent, name)[0])

    def unlink(self, path: str) -> None:
        with self._parent(path) as (parent, name), self._node(path) as (_, status):
            if stat.S_ISDIR(status.st_mode):
                fail(errno.EISDIR)
            self._t.unlink(parent, name)

    def rmdir(self, path: str) -> None:
        if path == ".":
            fail(errno.EINVAL)
        with self._parent(path) as (parent, name), self._node(path) as (_, status):
            if not stat.S_ISDIR(status.st_mode):
                fail(errno.ENOTDIR)
            self._t.rmdir(parent, name)

    def remove_tree(self, path: str) -> None:
        with self._node(path) as (node, status):
            if not stat.S_ISDIR(status.st_mode):
                fail(errno.ENOTDIR)
            names = sorted(name for name, *_ in self._t.readdir(node))
        for name in map(os.fsdecode, names):
            if name in (".", ".."):
                continue
            child = f"{path}/{name}"
            with self._node(child) as (_, status):
                remove = self.remove_tree if stat.S_ISDIR(status.st_mode) else self.unlink
            remove(child)
        self.rmdir(path)

    def rename(self, source: str, path: str, flag: str) -> Outcome:
        """In the order in which Linux' do_renameat2() and vfs_rename() look at things."""
        if "." in (source, path):
            return NotImplemented
        with self._parent(source) as old, self._parent(path) as new:
            node, status = self._t.lookup(*old)
            victim, replaced = 0, None
            try:
                with suppress(FileNotFoundError):
                    victim, replaced = self._t.lookup(*new)
                self._check_rename(source, path, flag, status, replaced)
                if node != victim:
                    self._t.rename(*old, *new, libc.RENAME_FLAGS[flag])
            finally:
                self._forget(node)
                if victim:
                    self._forget(victim)
        return None

    def _check_rename(
        self,
        source: str,
        path: str,
        flag: str,
        status: os.stat_result,
        replaced: os.stat_result | None,
    ) -> None:
        if flag == "NOREPLACE" and replaced:
            fail(errno.EEXIST)
        if flag == "EXCHANGE" and not replaced:
            fail(errno.ENOENT)
        if path.startswith(f"{source}/"):
            fail(errno.EINVAL)
        if source.startswith(f"{path}/"):
            fail(errno.EINVAL if flag == "EXCHANGE" else errno.ENOTEMPTY)
        if replaced and flag != "EXCHANGE":
            if stat.S_ISDIR(status.st_mode) > stat.S_ISDIR(replaced.st_mode):
                fail(errno.ENOTDIR)
            if stat.S_ISDIR(status.st_mode) < stat.S_ISDIR(replaced.st_mode):
                fail(errno.EISDIR)

    def readlink(self, path: str) -> str:
        with self._node(path) as (node, status):
            if not stat.S_ISLNK(status.st_mode):
                fail(errno.EINVAL)
            return os.fsdecode(self._t.readlink(node))

    # attributes

    @contextmanager
    def _followed(self, path: str, follow: bool = True) -> Iterator[tuple[int, os.stat_result]]:
        with self._node(path) as (node, status):
            if follow and stat.S_ISLNK(status.st_mode):
                fail(errno.ENOENT)
            yield node, status

    def lstat(self, path: str) -> Outcome:
        with self._node(path) as (_, status):
            return trees.attributes(status)

    def stat(self, path: str) -> Outcome:
        with self._followed(path) as (_, status):
            return trees.attributes(status)

    def keep_inode(self, path: str) -> bool:
        with self._node(path) as (node, before):
            return self._t.setattr(node, uid=before.st_uid).st_ino == before.st_ino

    def chmod(self, path: str, mode: int) -> None:
        with self._followed(path) as (node, _):
            self._t.setattr(node, mode=mode)

    def chown(self, path: str, uid: int, gid: int, follow: bool) -> None:
        with self._followed(path, follow) as (node, status):
            self._chown(node, status, uid, gid)

    def _chown(self, node: int, status: os.stat_result, uid: int, gid: int) -> None:
        """As chown_common() and setattr_prepare(): set-id bits of what can be executed go."""
        before = mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISDIR(status.st_mode):
            mode &= ~stat.S_ISUID
            if mode & stat.S_IXGRP:
                mode &= ~stat.S_ISGID
        self._t.setattr(node, uid=uid, gid=gid, mode=mode if mode != before else None)

    def utimens(self, path: str, mtime: int, follow: bool) -> None:
        with self._followed(path, follow) as (node, _):
            self._t.setattr(node, atime_ns=mtime, mtime_ns=mtime)

    def setxattr(self, path: str, name: str, value: bytes, flags: int, follow: bool) -> None:
        with self._followed(path, follow) as (node, status):
            needs_content(status, errno.EPERM)
            self._t.setxattr(node, name, value, flags)

    def getxattr(self, path: str, name: str, follow: bool) -> str:
        with self._followed(path, follow) as (node, status):
            needs_content(status, errno.ENODATA)
            return digest(self._t.getxattr(node, name))

    def removexattr(self, path: str, name: str, follow: bool) -> None:
        with self._followed(path, follow) as (node, status):
            needs_content(status, errno.EPERM)
            self._t.removexattr(node, name)

    def listxattr(self, path: str) -> Outcome:
        with self._node(path) as (node, _):
            return sorted(name for name in self._t.listxattr(node) if name.startswith("user."))

    # content

    @contextmanager
    def _content(self, path: str, write: bool) -> Iterator[tuple[int, os.stat_result]]:
        """What open(2) gives; a file's size afterwards is that of the status."""
        with self._followed(path) as (node, status):
            if stat.S_ISDIR(status.st_mode) and write:
                fail(errno.EISDIR)
            if stat.S_ISSOCK(status.st_mode):
                fail(errno.ENXIO)
            yield node, status

    def truncate(self, path: str, size: int) -> Outcome:
        with self._followed(path) as (node, status):
            if stat.S_ISDIR(status.st_mode):
                fail(errno.EISDIR)
            if not stat.S_ISREG(status.st_mode):
                fail(errno.EINVAL)
            self._t.setattr(node, size=size)

    def rewrite(self, path: str, size: int, tag: str) -> Outcome:
        with self._parent(path) as (parent, name):
            try:
                node, _ = self._child(parent, name)
            except FileNotFoundError:
                mode = stat.S_IFREG | 0o666
                node, _ = self._t.mknod(parent, name, mode, umask=self._umask)
            self._forget(node)
        with self._content(path, write=True) as (node, status):
            if not stat.S_ISREG(status.st_mode):
                return NotImplemented
            self._t.setattr(node, size=0)
            self._t.write(node, content(tag, size))
            return None

    def append(self, path: str, size: int, tag: str) -> Outcome:
        with self._content(path, write=True) as (node, status):
            if not stat.S_ISREG(status.st_mode):
                return NotImplemented
            self._t.write(node, content(tag, size), status.st_size)
            return None

    def content(self, path: str) -> Outcome:
        with self._content(path, write=False) as (node, status):
            if stat.S_ISDIR(status.st_mode):
                fail(errno.EISDIR)
            if not stat.S_ISREG(status.st_mode):
                return NotImplemented
            return digest(self._t.read(node, 1 << 16))

    # files held open: only in the ways that need no knowledge of how they were opened

    def hold(self, slot: int, path: str) -> None:
        """Open a regular file for reading and writing."""
        self.close(slot)
        with self._parent(path) as (parent, name):
            node, status = self._child(parent, name)
            if stat.S_ISREG(status.st_mode):
                self._files[slot] = node
            else:
                self._forget(node)
                fail(errno.EINVAL)

    def close(self, slot: int) -> None:
        if slot in self._files:
            self._forget(self._files.pop(slot))

    def _held(self, slot: int) -> int:
        if slot not in self._files:
            fail(errno.EBADF)
        return self._files[slot]

    def pread(self, slot: int, offset: int, size: int) -> str:
        return digest(self._t.read(self._held(slot), size, offset))

    def pwrite(self, slot: int, offset: int, size: int, tag: str) -> int:
        return self._t.write(self._held(slot), content(tag, size), offset)

    def seek(self, slot: int, offset: int, whence: int) -> Outcome:
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            return NotImplemented  # a position is the open file's, not the tree's
        return self._t.lseek(self._held(slot), offset, whence)

    def ftruncate(self, slot: int, size: int) -> None:
        self._t.setattr(self._held(slot), size=size, by_fd=True)

    def fallocate(self, slot: int, mode: int, offset: int, size: int) -> None:
        if size == 0:
            fail(errno.EINVAL)
        self._t.fallocate(self._held(slot), mode, offset, size)

    def fsync(self, slot: int) -> None:
        self._t.fsync(self._held(slot))

    def fstat(self, slot: int) -> Outcome:
        return trees.attributes(self._t.getattr(self._held(slot)))

    def fchmod(self, slot: int, mode: int) -> None:
        self._t.setattr(self._held(slot), mode=mode)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        node = self._held(slot)
        self._chown(node, self._t.getattr(node), uid, gid)

    def futimens(self, slot: int, mtime: int) -> None:
        self._t.setattr(self._held(slot), atime_ns=mtime, mtime_ns=mtime)

    def fsetxattr(self, slot: int, name: str, value: bytes) -> None:
        self._t.setxattr(self._held(slot), name, value)

    def fgetxattr(self, slot: int, name: str) -> str:
        return digest(self._t.getxattr(self._held(slot), name))

    # listings

    def listdir(self, path: str) -> Outcome:
        with self._directory(path) as node:
            entries = self._t.readdir(node)
            wrong = []
            for name, inode, *_ in entries:
                if name not in (b".", b".."):
                    child, status = self._t.lookup(node, name)
                    self._forget(child)
                    if status.st_ino != inode:
                        wrong.append(os.fsdecode(name))
        return kinds(entries), sorted(wrong)

    def list_by_parts(self, path: str) -> Outcome:
        """One entry at a time: each from where the one before it says that it goes on."""
        entries = []
        with self._directory(path) as node:
            cookie = 0
            while rest := self._t.readdir(node, cookie):
                entries.append(rest[0])
                cookie = rest[0][3]
        return kinds(entries)

    @contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        with self._followed(path) as (node, status):
            if not stat.S_ISDIR(status.st_mode):
                fail(errno.ENOTDIR)
            yield node

    # all of it

    def scan(self) -> dict[str, Found]:
        first: dict[int, str] = {}
        return {path: self._found(path, first) for path in self._walk(".")}

    def inodes(self) -> dict[str, int]:
        return {path: self._status(path).st_ino for path in self._walk(".")}

    def _walk(self, path: str) -> Iterator[str]:
        yield path
        if stat.S_ISDIR(self._status(path).st_mode):
            with self._node(path) as (node, _):
                names = sorted(name for name, *_ in self._t.readdir(node))
            for name in names:
                if name not in (b".", b".."):
                    yield from self._walk(os.path.normpath(f"{path}/{os.fsdecode(name)}"))

    def _status(self, path: str) -> os.stat_result:
        with self._node(path) as (_, status):
            return status

    def _found(self, path: str, first: dict[int, str]) -> Found:
        with self._node(path) as (node, status):
            data = None
            if stat.S_ISREG(status.st_mode):
                data = digest(self._t.read(node, 1 << 20))
            elif stat.S_ISLNK(status.st_mode):
                data = os.fsdecode(self._t.readlink(node))
            xattrs = {
                name: digest(self._t.getxattr(node, name))
                for name in sorted(self._t.listxattr(node))
                if name.startswith("user.")
            }
            same = first.setdefault(status.st_ino, path)
            return Found(trees.attributes(status), xattrs, data, same if same != path else None)


def fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))


def needs_content(status: os.stat_result, code: int) -> None:
    """User attributes are for regular files and directories: the kernel says so to the others."""
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        fail(code)


def kinds(entries: list[tuple[bytes, int, int, int]]) -> Outcome:
    return sorted((os.fsdecode(name), stat.filemode(kind << 12)[0]) for name, _, kind, _ in entries)
