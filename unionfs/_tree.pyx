# cython: language_level=3
"""The Python face of the union on directories. See _tree.pyi.

Where the fast path would send a request to the slow path first, `Tree` prepares by itself.
"""
import os
from typing import NamedTuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EIO, ENOENT, ESTALE
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strdup

from unionfs._directories cimport dir_new
from unionfs._identity cimport BIRTH, birth_text, origins_open, show_ino
from unionfs._idmap cimport IdMap, IdRange
from unionfs._links cimport links_open
from unionfs._marks cimport mark_is_opaque, work_inherit_nothing
from unionfs._nodes cimport (
    FORMAT_AUFS,
    FORMAT_OVERLAY,
    LOWER,
    NAME_LIMIT,
    RENAME_DIR_COPY,
    RENAME_DIR_EXDEV,
    RENAME_DIR_REDIRECT,
    ROOT_ID,
    UPPER,
    Node,
    Table,
    node_new_locked,
    node_pin,
    node_unpin,
    table_free,
    table_new,
)
from unionfs._operations cimport (
    NEEDS_PREPARE,
    PREPARE_WHOLE,
    SET_ATIME,
    SET_BY_FD,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_SIZE,
    SET_UID,
    WRITE_LATE,
    WHOLE_SIZE,
    Op,
    SetAttr,
    TreeStats,
    tree_copy_up,
    tree_fallocate,
    tree_forget,
    tree_fsync,
    tree_getattr,
    tree_getxattr,
    tree_link,
    tree_listxattr,
    tree_lookup,
    tree_lseek,
    tree_mkdir,
    tree_mknod,
    tree_pin,
    tree_read,
    tree_readdir,
    tree_readlink,
    tree_removexattr,
    tree_rename,
    tree_rmdir,
    tree_setattr,
    tree_setxattr,
    tree_shrink,
    tree_stats,
    tree_symlink,
    tree_unlink,
    tree_unpin,
    tree_where,
    tree_write,
)
from unionfs._override cimport override_of
from unionfs._reach cimport node_stat
from unionfs._redirect cimport redirect_data
from unionfs._rename cimport change_make_whole
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    S_IFDIR,
    S_IFLNK,
    Stat,
    mutex_lock,
    mutex_unlock,
    sys_dup,
    sys_makedev,
    sys_statx,
    sys_umask,
)
from unionfs._unmapped cimport unmapped_new

ROOT = ROOT_ID
WHOLE = <uint64_t>WHOLE_SIZE
RENAME_DIR = {
    "copy": RENAME_DIR_COPY, "redirect": RENAME_DIR_REDIRECT, "exdev": RENAME_DIR_EXDEV}

cdef enum:
    HARD_LINK = 1               # for Tree._made, beside the types of <sys/stat.h>


class NodeInfo(NamedTuple):
    """What a node is at this moment."""

    parent: int
    name: bytes
    mode: int
    branch: int
    size: int
    nlink: int
    merged: bool


cdef object stat_result(const Stat *st):
    """os.stat_result, as os.lstat() on the mount would give it (st_dev is 0)."""
    ns = {}
    for name, sec, nsec in (("st_atime", st.stx_atime.tv_sec, st.stx_atime.tv_nsec),
                            ("st_mtime", st.stx_mtime.tv_sec, st.stx_mtime.tv_nsec),
                            ("st_ctime", st.stx_ctime.tv_sec, st.stx_ctime.tv_nsec)):
        ns[name] = sec + nsec * 1e-9
        ns[name + "_ns"] = sec * 1000000000 + nsec
    ns["st_blksize"] = st.stx_blksize
    ns["st_blocks"] = st.stx_blocks
    ns["st_rdev"] = sys_makedev(st.stx_rdev_major, st.stx_rdev_minor)
    return os.stat_result(
        (st.stx_mode, st.stx_ino, 0, st.stx_nlink, st.stx_uid, st.stx_gid, st.stx_size,
         st.stx_atime.tv_sec, st.stx_mtime.tv_sec, st.stx_ctime.tv_sec), ns)


def birth(int directory, bytes name):
    cdef char text[BIRTH]
    cdef Stat st
    check(sys_statx(directory, name, 0, &st))
    birth_text(&st, text)
    return text[1:].decode()


cdef int collect(void *arg, const char *name, size_t length, uint64_t ino, uint32_t dtype,
                 uint64_t cookie) noexcept with gil:
    (<list>arg).append((name[:length], ino, dtype, cookie))
    return 0


cdef int fill_id_map(IdMap *map_, ranges, squash_to) except -1:
    if squash_to is not None:
        map_.squash = True
        map_.squash_to = squash_to
    if ranges:
        map_.ranges = <IdRange *>calloc(len(ranges), sizeof(IdRange))
        if map_.ranges == NULL:
            raise MemoryError
        for disk, shown, count in ranges:
            map_.ranges[map_.count] = IdRange(disk, shown, count)
            map_.count += 1
    return 0


cdef class Tree:
    """See _tree.pyi."""

    def __cinit__(self, lowers, upper=None, work=None, *, whiteout="aufs", rename_dir="copy",
                  durable=True, trusted=True, keep_open=False, noatime=False, inline_limit=0,
                  fd_limit=256, state=None, uid_map=(), gid_map=(), squash_uid=None,
                  squash_gid=None, acls=True, static_nlink=False,
                  unmapped=None, work_path=None):
        cdef Table *t
        cdef int i, r
        if whiteout not in ("aufs", "overlay"):
            raise ValueError(f"whiteout={whiteout!r}: 'aufs' or 'overlay'")
        if rename_dir not in RENAME_DIR:
            raise ValueError(f"rename_dir={rename_dir!r}: one of {', '.join(RENAME_DIR)}")
        if (upper is None) != (work is None):
            raise ValueError("an upper and its work directory come together")
        t = table_new(<uint16_t>(len(lowers) + 1))
        if t == NULL:
            raise MemoryError
        self.table = t
        t.format = FORMAT_OVERLAY if whiteout == "overlay" else FORMAT_AUFS
        t.rename_dir = RENAME_DIR[rename_dir]
        t.writable = upper is not None
        t.volatile_ = not durable
        t.trusted = trusted
        t.keep_open = keep_open
        t.find_data = redirect_data
        t.noatime = noatime
        t.inline_limit = inline_limit
        t.fd_limit = fd_limit
        t.uid = os.geteuid()
        t.gid = os.getegid()
        fill_id_map(&t.uids, uid_map, squash_uid)
        fill_id_map(&t.gids, gid_map, squash_gid)
        if unmapped is not None:
            if unmapped.maps is None:
                t.unmapped = unmapped_new(unmapped.uid, unmapped.gid, NULL, NULL)
            else:
                t.unmapped = unmapped_new(
                    unmapped.uid, unmapped.gid, unmapped.maps[0], unmapped.maps[1])
            if t.unmapped == NULL:
                raise MemoryError
            t.unmapped.overrides = unmapped.overrides
            t.unmapped.believed = unmapped.believed
        t.acls = acls
        t.static_nlink = static_nlink
        t.maps_ids = (t.uids.count > 0 or t.gids.count > 0 or t.uids.squash
                      or t.gids.squash)
        if upper is not None:
            self._add_branch(0, upper)
            t.work_fd = sys_dup(work)
            if t.work_fd < 0:
                raise OSError(-t.work_fd, os.strerror(-t.work_fd))
            check(work_inherit_nothing(t.work_fd))
            if work_path is not None:
                t.work_path = strdup(work_path)
            t.state_fd = sys_dup(work if state is None else state)
            check(t.state_fd)
            for r in (links_open(t), origins_open(t)):
                if r != -ENOENT:
                    check(r)
        for i, fd in enumerate(lowers, 1):
            self._add_branch(i, fd)
        self._add_root()

    def __dealloc__(self):
        if self.table != NULL:
            table_free(self.table)
            self.table = NULL

    def close(self):
        if self.table != NULL:
            table_free(self.table)
            self.table = NULL

    cdef _add_branch(self, int i, int fd):
        cdef Stat st
        cdef Table *t = self.table
        cdef uint32_t fs = 0
        cdef int other, r
        t.branch[i].fd = sys_dup(fd)
        r = t.branch[i].fd
        if r >= 0:
            r = sys_statx(fd, b"", AT_EMPTY_PATH, &st)
        check(r)
        t.branch[i].override = override_of(fd, t.uid, t.unmapped)
        if t.branch[i].override.name != NULL and (i == 0 or i == 1 and not t.writable):
            t.acls = False      # they would have to change the mode, which is elsewhere
        t.branch[i].dev = sys_makedev(st.stx_dev_major, st.stx_dev_minor)
        for other in range(i):
            if t.branch[other].fd < 0:
                continue
            if t.branch[other].dev == t.branch[i].dev:
                t.branch[i].fs = t.branch[other].fs
                return
            fs = max(fs, t.branch[other].fs + 1)
        t.branch[i].fs = fs

    cdef _add_root(self):
        cdef Table *t = self.table
        cdef Stat st
        cdef Node *root
        cdef int i
        cdef uint16_t first = 0 if t.writable else 1
        cdef uint16_t count = 0
        cdef uint16_t *branches = <uint16_t *>malloc(t.branches * sizeof(uint16_t))
        if branches == NULL:
            raise MemoryError
        if first == t.branches:
            free(branches)
            raise ValueError("a union needs a branch")
        for i in range(first, t.branches):
            branches[count] = <uint16_t>i
            count += 1
            if mark_is_opaque(t, t.branch[i].fd, False) == 1:
                break
        root = node_new_locked(t)
        if root != NULL:
            root.dir = dir_new(branches, NULL, count)
        free(branches)
        if root == NULL or root.dir == NULL:
            raise MemoryError
        root.type = S_IFDIR
        root.branch = first
        root.state = UPPER if t.writable else LOWER
        check(sys_statx(t.branch[first].fd, b"", AT_EMPTY_PATH, &st))
        root.ino = show_ino(t, first, st.stx_ino)

    cdef Table *_open(self) except NULL:
        if self.table == NULL:
            raise ValueError("the tree is closed")
        return self.table

    cdef int _again(self, int64_t verdict, Op *op) except -1:
        """After a verdict: prepares what is missing, as the slow path does; 1 means try again."""
        if verdict != NEEDS_PREPARE:
            return 0
        op.prepared += 1
        if op.prepared > 8:
            raise OSError(EIO, os.strerror(EIO))
        from unionfs import copyup

        if op.prepare_kind == PREPARE_WHOLE:
            copyup.make_whole(self, op.prepare_node)
        else:
            copyup.bring_up(self, op.prepare_node, op.prepare_keep)
        return 1

    def lookup(self, parent, bytes name):
        cdef Table *t = self._open()
        cdef uint64_t node = 0, p = parent
        cdef Stat st
        cdef const char *text = name
        cdef size_t length = len(name)
        cdef int r
        with nogil:
            r = tree_lookup(t, NULL, p, text, length, &node, &st)
        check(r)
        return node, stat_result(&st)

    def forget(self, node, references=1):
        cdef Op op = operation(0, 0, 0)
        tree_forget(self._open(), &op, node, references)

    def getattr(self, node):
        cdef Stat st
        check(tree_getattr(self._open(), NULL, node, &st))
        return stat_result(&st)

    def setattr(self, node, *, mode=None, uid=None, gid=None, size=None, by_fd=False,
                atime_ns=None, mtime_ns=None):
        cdef Table *t = self._open()
        cdef Op op = operation(0, 0, 0)
        cdef SetAttr wanted
        cdef Stat st
        cdef int r = 0
        memset(&wanted, 0, sizeof(wanted))
        if mode is not None:
            wanted.valid |= SET_MODE
            wanted.mode = mode
        if uid is not None:
            wanted.valid |= SET_UID
            wanted.uid = uid
        if gid is not None:
            wanted.valid |= SET_GID
            wanted.gid = gid
        if size is not None:
            wanted.valid |= SET_SIZE | (SET_BY_FD if by_fd else 0)
            wanted.size = size
        if atime_ns is not None:
            wanted.valid |= SET_ATIME
            wanted.atime.tv_sec, wanted.atime.tv_nsec = divmod(atime_ns, 1000000000)
        if mtime_ns is not None:
            wanted.valid |= SET_MTIME
            wanted.mtime.tv_sec, wanted.mtime.tv_nsec = divmod(mtime_ns, 1000000000)
        while True:
            r = tree_setattr(t, &op, node, 0, &wanted, &st)
            if not self._again(r, &op):
                break
        check(r)
        return stat_result(&st)

    def readlink(self, node):
        cdef char buffer[4096]
        cdef int r = check(tree_readlink(self._open(), NULL, node, buffer, sizeof(buffer)))
        return buffer[:r]

    cdef _made(self, int kind, parent, bytes name, uint32_t mode, uint64_t rdev, bytes target,
               uint64_t source, uid, gid, umask):
        cdef Table *t = self._open()
        cdef Op op = operation(uid, gid, umask)
        cdef uint64_t node = 0, p = parent
        cdef Stat st
        cdef size_t length = len(name)
        cdef int r
        # The serving threads have a umask of 0 of their own; a caller in Python has the process'.
        cdef unsigned before = sys_umask(0)
        try:
            while True:
                if kind == S_IFDIR:
                    r = tree_mkdir(t, &op, p, name, length, mode, &node, &st)
                elif kind == S_IFLNK:
                    r = tree_symlink(t, &op, p, name, length, target, &node, &st)
                elif kind == HARD_LINK:
                    r = tree_link(t, &op, source, p, name, length, &node, &st)
                else:
                    r = tree_mknod(t, &op, p, name, length, mode, rdev, &node, &st)
                if not self._again(r, &op):
                    break
        finally:
            sys_umask(before)
        check(r)
        return node, stat_result(&st)

    def mknod(self, parent, bytes name, mode, rdev=0, *, uid=0, gid=0, umask=0):
        return self._made(0, parent, name, mode, rdev, None, 0, uid, gid, umask)

    def mkdir(self, parent, bytes name, mode=0o777, *, uid=0, gid=0, umask=0):
        return self._made(S_IFDIR, parent, name, mode, 0, None, 0, uid, gid, umask)

    def symlink(self, parent, bytes name, bytes target, *, uid=0, gid=0):
        return self._made(S_IFLNK, parent, name, 0, 0, target, 0, uid, gid, 0)

    def link(self, source, parent, bytes name):
        return self._made(HARD_LINK, parent, name, 0, 0, None, source, 0, 0, 0)

    def unlink(self, parent, bytes name):
        cdef Table *t = self._open()
        cdef Op op = operation(0, 0, 0)
        cdef int r
        while True:
            r = tree_unlink(t, &op, parent, name, len(name))
            if not self._again(r, &op):
                break
        check(r)

    def rmdir(self, parent, bytes name):
        cdef Table *t = self._open()
        cdef Op op = operation(0, 0, 0)
        cdef int r
        while True:
            r = tree_rmdir(t, &op, parent, name, len(name))
            if not self._again(r, &op):
                break
        check(r)

    def rename(self, parent, bytes name, new_parent, bytes new_name, flags=0):
        cdef Table *t = self._open()
        cdef Op op = operation(0, 0, 0)
        cdef int r
        # What has to be prepared must outlive the first try, as it does when the kernel holds it.
        # The directories first: the number of one that is gone can come back in a look-up.
        check(tree_pin(t, parent))
        try:
            check(tree_pin(t, new_parent))
            try:
                held = [*self._found(parent, name), *self._found(new_parent, new_name)]
                while True:
                    r = tree_rename(t, &op, parent, name, len(name), new_parent, new_name,
                                    len(new_name), flags)
                    if not self._again(r, &op):
                        break
                for node in held:
                    self.forget(node)
            finally:
                tree_unpin(t, new_parent)
        finally:
            tree_unpin(t, parent)
        check(r)

    def _found(self, parent, bytes name):
        """The node of a name, with a reference, or nothing."""
        try:
            return [self.lookup(parent, name)[0]]
        except OSError:
            return []           # the operation itself says why

    def read(self, node, size, offset=0):
        cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
        cdef int64_t r = check(tree_read(self._open(), NULL, node, 0, PyBytes_AS_STRING(data),
                                         size, offset, 0))
        return data[:r]

    def write(self, node, bytes data, offset=0, *, late=False):
        cdef Table *t = self._open()
        cdef Op op = operation(0, 0, 0)
        cdef int64_t r
        while True:
            r = tree_write(t, &op, node, 0, data, len(data), offset, WRITE_LATE if late else 0)
            if not self._again(r, &op):
                break
        return check(r)

    def fsync(self, node, datasync=False):
        cdef Op op = operation(0, 0, 0)
        check(tree_fsync(self._open(), &op, node, 0, datasync))

    def lseek(self, node, offset, whence):
        return check(tree_lseek(self._open(), NULL, node, 0, offset, whence))

    def fallocate(self, node, mode, offset, length):
        cdef Table *t = self._open()
        cdef Op op = operation(0, 0, 0)
        cdef int r
        while True:
            r = tree_fallocate(t, &op, node, 0, mode, offset, length)
            if not self._again(r, &op):
                break
        check(r)

    def getxattr(self, node, name):
        cdef bytes value = PyBytes_FromStringAndSize(NULL, 65536)
        cdef int64_t r = check(tree_getxattr(self._open(), NULL, node, os.fsencode(name),
                                             PyBytes_AS_STRING(value), 65536))
        return value[:r]

    def setxattr(self, node, name, bytes value, flags=0):
        cdef Table *t = self._open()
        cdef Op op = operation(0, 0, 0)
        cdef bytes encoded = os.fsencode(name)
        cdef int r
        while True:
            r = tree_setxattr(t, &op, node, encoded, value, len(value), flags, False)
            if not self._again(r, &op):
                break
        check(r)

    def listxattr(self, node):
        cdef bytes names = PyBytes_FromStringAndSize(NULL, 65536)
        cdef int64_t r = check(tree_listxattr(self._open(), NULL, node,
                                              PyBytes_AS_STRING(names), 65536))
        return [os.fsdecode(name) for name in names[:r].split(b"\0")[:-1]]

    def removexattr(self, node, name):
        cdef Table *t = self._open()
        cdef Op op = operation(0, 0, 0)
        cdef bytes encoded = os.fsencode(name)
        cdef int r
        while True:
            r = tree_removexattr(t, &op, node, encoded)
            if not self._again(r, &op):
                break
        check(r)

    def readdir(self, node, offset=0):
        cdef Table *t = self._open()
        cdef uint64_t n = node, o = offset
        cdef int r
        cdef list entries = []
        cdef void *arg = <void *>entries
        with nogil:
            r = tree_readdir(t, NULL, n, o, collect, arg)
        check(r)
        return entries

    def info(self, node):
        cdef Table *t = self._open()
        cdef char name[NAME_LIMIT + 1]
        cdef size_t length = 0
        cdef uint64_t parent = 0
        cdef uint32_t type_
        cdef uint16_t branch
        cdef bint merged
        cdef Stat st
        cdef Node *n = node_pin(t, node)
        cdef int r
        if n == NULL:
            raise OSError(ESTALE, os.strerror(ESTALE))
        with nogil:
            r = node_stat(t, n, &st)
            # Only copied under the lock: making an object can let another thread have the GIL,
            # who then waits for the lock with it.
            mutex_lock(&t.lock)
            if n.names != NULL:
                parent = n.names.parent.id
                length = n.names.length
                memcpy(name, n.names.text, length)
            type_ = n.type
            branch = n.branch
            merged = n.dir != NULL and (n.dir.count > 1 or n.branch != 0)
            mutex_unlock(&t.lock)
            node_unpin(t, n)
        check(r)
        return NodeInfo(
            parent, name[:length], type_, branch, st.stx_size, st.stx_nlink, merged)

    def copy_up(self, node, keep=WHOLE):
        cdef Table *t = self._open()
        cdef Op op = operation(0, 0, 0)
        cdef uint64_t n = node, wanted = keep
        cdef int r
        with nogil:
            r = tree_copy_up(t, &op, n, wanted)
        check(r)

    def make_whole(self, node):
        cdef Table *t = self._open()
        cdef Node *n = node_pin(t, node)
        cdef int r
        if n == NULL:
            raise OSError(ESTALE, os.strerror(ESTALE))
        with nogil:
            r = change_make_whole(t, n)
            node_unpin(t, n)
        check(r)

    def where(self, node):
        cdef char buffer[65536]
        cdef int branch = 0
        cdef int64_t r = check(tree_where(self._open(), node, &branch, buffer, sizeof(buffer)))
        return branch, buffer[:r]

    def stats(self):
        cdef TreeStats stats
        tree_stats(self._open(), &stats)
        return stats

    def shrink(self, *, everything=False):
        cdef Table *t = self._open()
        cdef bint all_ = everything
        with nogil:
            tree_shrink(t, all_)


cdef Op operation(uint32_t uid, uint32_t gid, uint32_t umask):
    """A caller in Python, who may wait."""
    cdef Op op
    memset(&op, 0, sizeof(op))
    op.uid = uid
    op.gid = gid
    op.umask = umask
    op.may_wait = True
    return op


cdef int64_t check(int64_t r) except -1:
    """Raises OSError for -errno."""
    if r < 0:
        raise OSError(-r, os.strerror(<int>-r))
    return r
