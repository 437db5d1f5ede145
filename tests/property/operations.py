"""Single steps of a comparison, performed on a mount.

A step is a tuple, the operation's name and its arguments: `("mkdir", "a/b", 0o755)`. Steps are
plain literals so that a failing sequence can be pasted into `test_examples`.
"""

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import libc, trees
from .trees import Found, content, digest

Step = tuple[Any, ...]
#: What a step gave: the name of an errno, or the operation's own result.
Outcome = Any


class Operations:
    """One mount, and what a program holds in it: descriptors, mappings, its identity.

    Descriptors are named by small numbers; opening one again closes it first.
    """

    def __init__(
        self,
        root: Path,
        *,
        phantoms: bool = False,
        stale_mappings: bool = False,
        keeps_time: bool = False,
        spares_unlinked: bool = False,
    ) -> None:
        """Where a reference is known to differ from unionfs, by the row in docs/differences.md:

        `phantoms`: listings show names that do not exist (stray-whiteouts);
        `stale_mappings`: a mapping made before copy-up keeps the old content
        (mapping-after-copy-up);
        `keeps_time`: truncating an empty file to nothing leaves its mtime (truncate-empty);
        `spares_unlinked`: attributes of an open file without a name cannot be changed
        (unlinked-index), so both sides leave them alone.
        """
        self.root = root
        self._phantoms = phantoms
        self._stale_mappings = stale_mappings
        self._keeps_time = keeps_time
        self._spares_unlinked = spares_unlinked
        self._files: dict[int, int] = {}
        self._maps: dict[int, mmap.mmap] = {}
        self._listings: dict[int, _Listing] = {}
        self._uid = 0

    def perform(self, step: Step) -> Outcome:
        """The result of a step, or the name of the errno that it gave."""
        name, *arguments = step
        for listing in self._listings.values():
            listing.touch(step)
        operation: Callable[..., Outcome] = getattr(self, name)
        with _acting_as(self._uid):
            try:
                return operation(*arguments)
            except OSError as error:
                if error.errno is None:
                    raise
                return errno.errorcode[error.errno]

    def scan(self) -> dict[str, Found]:
        return trees.scan(self.root, self._phantoms)

    def inodes(self) -> dict[str, int]:
        return trees.inodes(self.root, self._phantoms)

    def close_all(self) -> None:
        for mapping in self._maps.values():
            mapping.close()
        for fd in self._files.values():
            os.close(fd)
        for listing in self._listings.values():
            os.close(listing.fd)
        self._maps, self._files, self._listings = {}, {}, {}

    @property
    def opened(self) -> list[int]:
        """The descriptors that are open."""
        return sorted(self._files)

    def _fd(self, slot: int) -> int:
        if slot not in self._files:
            raise OSError(errno.EBADF, "not open")
        return self._files[slot]

    def _changing(self, slot: int) -> int:
        """A descriptor whose attributes may be changed.

        Kernel overlayfs gives a special file its name back when its attributes are changed after
        its name has gone: unlinked-special in docs/differences.md.
        """
        fd = self._fd(slot)
        gone = os.readlink(f"/proc/self/fd/{fd}").endswith(" (deleted)")
        if gone and (self._spares_unlinked or not stat.S_ISREG(os.fstat(fd).st_mode)):
            raise OSError(errno.ENOENT, "without a name")
        return fd

    def become(self, uid: int) -> None:
        """Who performs the steps from now on."""
        self._uid = uid

    def drop_caches(self) -> None:
        """Let the kernel forget every name and inode that nobody uses."""
        with _acting_as(0):
            Path("/proc/sys/vm/drop_caches").write_text("2")

    # names

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.root / path, mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(f"{self.root}/{path}")  # not the root: a Path forgets the "."

    def unlink(self, path: str) -> None:
        os.unlink(self.root / path)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self.root / path)

    def readlink(self, path: str) -> str:
        return os.readlink(self.root / path)

    def link(self, source: str, path: str) -> None:
        os.link(self.root / source, self.root / path)

    def mknod(self, path: str, kind: str, mode: int, device: int) -> None:
        os.mknod(self.root / path, trees.KINDS[kind] | mode, device if kind == "char" else 0)

    def rename(self, source: str, path: str, flag: str) -> None:
        old, new = f"{self.root}/{source}", f"{self.root}/{path}"
        libc.rename(old, new, libc.RENAME_FLAGS[flag])

    def remove_tree(self, path: str) -> None:
        """`rm -r`, in the order of names: it stops at the same place on every side."""
        for name in trees.names_in(self._itself(path), self._phantoms):
            child = f"{path}/{name}"
            if stat.S_ISDIR((self.root / child).lstat().st_mode):
                self.remove_tree(child)
            else:
                self.unlink(child)
        self.rmdir(path)

    def _itself(self, path: str) -> Path:
        """A path whose last name is not a symbolic link, which could lead out of the mount."""
        if (self.root / path).is_symlink():
            raise OSError(errno.ENOTDIR, "a symbolic link")
        return self.root / path

    # attributes

    def stat(self, path: str) -> Outcome:
        return trees.attributes((self.root / path).stat())

    def lstat(self, path: str) -> Outcome:
        return trees.attributes((self.root / path).lstat())

    def keep_inode(self, path: str) -> bool:
        """Whether a file that is copied up now is still the same one."""
        before = (self.root / path).lstat()
        os.chown(self.root / path, before.st_uid, before.st_gid, follow_symlinks=False)
        return (self.root / path).lstat().st_ino == before.st_ino

    def access(self, path: str, mode: int) -> bool:
        return os.access(self.root / path, mode, effective_ids=True)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.root / path, mode)

    def chown(self, path: str, uid: int, gid: int, follow: bool) -> None:
        os.chown(self.root / path, uid, gid, follow_symlinks=follow)

    def utimens(self, path: str, mtime: int, follow: bool) -> None:
        os.utime(self.root / path, ns=(mtime, mtime), follow_symlinks=follow)

    def setxattr(self, path: str, name: str, value: bytes, flags: int, follow: bool) -> None:
        os.setxattr(self.root / path, name, value, flags, follow_symlinks=follow)

    def getxattr(self, path: str, name: str, follow: bool) -> str:
        return digest(os.getxattr(self.root / path, name, follow_symlinks=follow))

    def listxattr(self, path: str) -> Outcome:
        return sorted(trees.xattrs(self.root / path))

    def removexattr(self, path: str, name: str, follow: bool) -> None:
        os.removexattr(self.root / path, name, follow_symlinks=follow)

    # content, by name

    def truncate(self, path: str, size: int) -> None:
        self._truncate(self.root / path, size)

    def _truncate(self, file: Path | int, size: int) -> None:
        before = os.stat(file).st_size
        os.truncate(file, size)
        if self._keeps_time and before == size == 0:
            with _acting_as(0):
                os.utime(file)

    def rewrite(self, path: str, size: int, tag: str) -> None:
        """What a shell's `>` does."""
        with self._opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
            _write(fd, content(tag, size))

    def append(self, path: str, size: int, tag: str) -> None:
        with self._opened(path, os.O_WRONLY | os.O_APPEND) as fd:
            _write(fd, content(tag, size))

    def content(self, path: str) -> str:
        with self._opened(path, os.O_RDONLY) as fd:
            return digest(os.pread(fd, 1 << 16, 0))

    def map_read(self, path: str, offset: int, size: int) -> str:
        with self._opened(path, os.O_RDONLY) as fd, _mapped(fd, mmap.PROT_READ) as mapping:
            return _peek(mapping, offset, size)

    def map_write(self, path: str, offset: int, size: int, tag: str) -> None:
        writable = mmap.PROT_READ | mmap.PROT_WRITE
        with self._opened(path, os.O_RDWR) as fd, _mapped(fd, writable) as mapping:
            _poke(mapping, offset, content(tag, size))

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        # O_NONBLOCK: a fifo among the names must not stop the comparison
        fd = os.open(self.root / path, flags | os.O_NONBLOCK, 0o666)
        try:
            yield fd
        finally:
            os.close(fd)

    # content, by descriptor

    def open(self, slot: int, path: str, flags: str, mode: int) -> None:
        self.close(slot)
        bits = os.O_NONBLOCK
        for flag in flags.split():
            bits |= getattr(os, f"O_{flag}")
        self._files[slot] = os.open(self.root / path, bits, mode)

    def hold(self, slot: int, path: str) -> None:
        """Open a regular file for reading and writing."""
        self.close(slot)
        if not stat.S_ISREG((self.root / path).lstat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        self._files[slot] = os.open(self.root / path, os.O_RDWR)

    def close(self, slot: int) -> None:
        self.unmap(slot)
        if slot in self._files:
            os.close(self._files.pop(slot))

    def read(self, slot: int, size: int) -> str:
        return digest(os.read(self._fd(slot), size))

    def write(self, slot: int, size: int, tag: str) -> int:
        return _write(self._fd(slot), content(tag, size))

    def pread(self, slot: int, offset: int, size: int) -> str:
        return digest(os.pread(self._fd(slot), size, offset))

    def pwrite(self, slot: int, offset: int, size: int, tag: str) -> int:
        return os.pwrite(self._fd(slot), content(tag, size), offset)

    def seek(self, slot: int, offset: int, whence: int) -> int:
        """lseek(2); the offsets of a directory are the filesystem's own business."""
        if stat.S_ISDIR(os.fstat(self._fd(slot)).st_mode):
            raise OSError(errno.EISDIR, "a directory")
        return os.lseek(self._fd(slot), offset, whence)

    def holes_allow(self, slot: int, offset: int, whence: int, outcome: Outcome) -> bool:
        """Whether the content allows this answer to SEEK_DATA or SEEK_HOLE.

        Where zeros are stored as data differs: tmpfs stores what a mapping has read of a hole.
        """
        fd = self._fd(slot)
        content = os.pread(fd, os.fstat(fd).st_size, 0)
        if whence == os.SEEK_DATA:
            end = len(content) if outcome == "ENXIO" else outcome
            return isinstance(end, int) and offset <= end and not any(content[offset:end])
        return isinstance(outcome, int) and offset <= outcome and not any(content[outcome:][:1])

    def ftruncate(self, slot: int, size: int) -> None:
        self._truncate(self._fd(slot), size)

    def fallocate(self, slot: int, mode: int, offset: int, size: int) -> None:
        libc.fallocate(self._fd(slot), mode, offset, size)

    def copy_range(self, source: int, offset: int, slot: int, position: int, size: int) -> int:
        return os.copy_file_range(self._fd(source), self._fd(slot), size, offset, position)

    def fsync(self, slot: int) -> None:
        os.fsync(self._fd(slot))

    def fstat(self, slot: int) -> Outcome:
        return trees.attributes(os.fstat(self._fd(slot)))

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._changing(slot), mode)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self._changing(slot), uid, gid)

    def futimens(self, slot: int, mtime: int) -> None:
        os.utime(self._changing(slot), ns=(mtime, mtime))

    def fsetxattr(self, slot: int, name: str, value: bytes) -> None:
        os.setxattr(self._fd(slot), name, value)

    def fgetxattr(self, slot: int, name: str) -> str:
        return digest(os.getxattr(self._fd(slot), name))

    def flink(self, slot: int, path: str) -> None:
        """Give a name to an open file, also to one that has none (O_TMPFILE)."""
        # A directory descriptor makes Python use linkat(2), and so follow the magic link.
        os.link(f"/proc/self/fd/{self._fd(slot)}", self.root / path, src_dir_fd=0)

    def map(self, slot: int) -> None:
        """Keep a mapping of the file behind a descriptor."""
        self.unmap(slot)
        fd = self._fd(slot)
        try:
            self._maps[slot] = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        except ValueError:  # an empty file
            raise OSError(errno.EINVAL, "nothing to map") from None

    def unmap(self, slot: int) -> None:
        if slot in self._maps:
            self._maps.pop(slot).close()

    def peek(self, slot: int, offset: int, size: int) -> str:
        """What a kept mapping shows of the file as it is now."""
        fd = self._fd(slot)
        if slot not in self._maps:
            return "not mapped"
        size = max(0, min(size, os.fstat(fd).st_size - offset))
        if self._stale_mappings:
            return digest(os.pread(fd, size, offset))
        return _peek(self._maps[slot], offset, size)

    # listings

    def listdir(self, path: str) -> Outcome:
        """The names with the types they are listed with, and which inode numbers are wrong."""
        with self._directory(path) as fd:
            entries = self._existing(path, libc.getdents(fd, 1 << 15))
        # A link may lead above the mount point, which is listed as the directory that it covers.
        wrong = [
            entry.name
            for entry in entries
            if entry.name in (".", *trees.NAMES)
            and entry.inode != os.lstat(f"{self.root}/{path}/{entry.name}").st_ino
        ]
        return _kinds(entries), sorted(wrong)

    def list_by_parts(self, path: str) -> Outcome:
        """Read in the smallest pieces, each after seeking to where the last one ended."""
        entries: list[libc.Entry] = []
        with self._directory(path) as fd:
            while part := libc.getdents(fd, 64):
                entries += part
                os.lseek(fd, 0, os.SEEK_SET)
                os.lseek(fd, part[-1].cookie, os.SEEK_SET)
        return _kinds(self._existing(path, entries))

    @contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        fd = os.open(self.root / path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def _existing(self, path: str, entries: list[libc.Entry]) -> list[libc.Entry]:
        if not self._phantoms:
            return entries
        return [entry for entry in entries if not trees.is_phantom(self._path(path, entry.name))]

    def _path(self, directory: str, name: str) -> Path:
        return self.root / directory / name

    def opendir(self, slot: int, path: str) -> None:
        """Begin a listing that later steps go on with."""
        if slot in self._listings:
            os.close(self._listings.pop(slot).fd)
        self._listings[slot] = _Listing(self.root / path)

    def readdir(self, slot: int) -> Outcome:
        """The rest of that listing; says which names it lost or gave twice."""
        if slot not in self._listings:
            return "not open"
        listing = self._listings.pop(slot)
        try:
            return listing.rest()
        finally:
            os.close(listing.fd)


class _Listing:
    """A directory that is read while it changes.

    POSIX leaves open whether names that come or go meanwhile are seen; all others are seen once.
    """

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._touched: set[str] = set()
        try:
            self._present = set(os.listdir(path))
            self._seen = [entry.name for entry in libc.getdents(self.fd, 96)]
        except OSError:
            os.close(self.fd)
            raise

    def touch(self, step: Step) -> None:
        """A step is about to be performed that may take names away or bring them."""
        for argument in step:
            if isinstance(argument, str):
                self._touched.update(argument.split("/"))
        if step[0] == "remove_tree":
            self._touched |= self._present

    def rest(self) -> Outcome:
        while part := libc.getdents(self.fd, 4096):
            self._seen += [entry.name for entry in part]
        twice = {name for name in self._seen if self._seen.count(name) > 1}
        lost = self._present - set(self._seen)
        return sorted(lost - self._touched), sorted(twice - self._touched)


def _kinds(entries: list[libc.Entry]) -> list[tuple[str, str]]:
    return sorted((entry.name, stat.filemode(entry.kind << 12)[0]) for entry in entries)


@contextmanager
def _acting_as(uid: int) -> Iterator[None]:
    before = os.geteuid()
    _become(uid)
    try:
        yield
    finally:
        _become(before)


def _become(uid: int) -> None:
    """Change the effective user, and to the group of the same number."""
    if uid != os.geteuid():
        os.seteuid(0)
        os.setegid(uid)
        os.seteuid(uid)


def _write(fd: int, data: bytes) -> int:
    """write(2) but to a fifo: when that changes its mtime is left to the filesystem."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        raise OSError(errno.EPIPE, "a fifo")
    return os.write(fd, data)


@contextmanager
def _mapped(fd: int, protection: int) -> Iterator[mmap.mmap]:
    try:
        mapping = mmap.mmap(fd, 0, prot=protection)
    except ValueError:  # Python's own refusal of an empty file
        raise OSError(errno.EINVAL, "nothing to map") from None
    with mapping:
        yield mapping


# The kernel reads and writes the mapping for us: beyond the end of the file that is EFAULT, where
# touching the memory would be SIGBUS; and no fault is served while this process holds the GIL.


def _peek(mapping: mmap.mmap, offset: int, size: int) -> str:
    with _scratch() as fd, memoryview(mapping) as view:
        os.pwrite(fd, view[offset : offset + size], 0)
        return digest(os.pread(fd, size, 0))


def _poke(mapping: mmap.mmap, offset: int, data: bytes) -> None:
    with _scratch() as fd, memoryview(mapping) as view:
        os.pwrite(fd, data, 0)
        os.preadv(fd, [view[offset : offset + len(data)]], 0)


@contextmanager
def _scratch() -> Iterator[int]:
    fd = os.memfd_create("mapping")
    try:
        yield fd
    finally:
        os.close(fd)
