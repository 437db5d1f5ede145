# cython: language_level=3
"""Every operation of the union, by node id.

What happens is written in the modules below; here ids become pinned nodes. The order of the
modules is their order of knowledge: each cimports functions only from those before it.

    _sys  _idmap  _caller  _override  _descriptors  _nodes  _directories  _reach  _handles
    _owner  _xattrs  _marks  _state  _identity  _links  _listing  _guard  _copy  _redirect
    _lookup  _make  _remove  _rename  _backing  _dropbehind  _content  _values  _readdir
    _operations  _tree
"""
from libc.errno cimport EINVAL, ENAMETOOLONG, ENOENT, EPERM, EROFS, ESTALE
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from unionfs._backing cimport backing_part
from unionfs._content cimport (
    content_copy_range,
    content_fallocate,
    content_fsync,
    content_lseek,
    content_open,
    content_read,
    content_readlink,
    content_setattr,
    content_write,
)
from unionfs._copy cimport copy_up
from unionfs._descriptors cimport fd_shrink, ref_drop
from unionfs._guard cimport guard_change
from unionfs._handles cimport handle_backing, handle_new, handle_release, handle_set_backing
from unionfs._listing cimport listing_shrink
from unionfs._lookup cimport child_find
from unionfs._make cimport Make, change_make, change_tmpfile
from unionfs._nodes cimport (
    ROOT_ID,
    UPPER,
    Handle,
    Name,
    Node,
    Ref,
    Table,
    node_forget,
    node_pin,
    node_unpin,
)
from unionfs._reach cimport node_data_ref, node_stat
from unionfs._readdir cimport read_directory
from unionfs._remove cimport change_rmdir, change_unlink
from unionfs._rename cimport change_rename
from unionfs._sys cimport (
    S_IFCHR,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    Stat,
    StatFs,
    mutex_lock,
    mutex_unlock,
    sys_close,
    sys_dup,
    sys_fstatfs,
    sys_give_back,
)
from unionfs._values cimport value_get, value_list, value_remove, value_set


# --- nodes ---------------------------------------------------------------------------------

cdef int hand_out(Table *t, Node *n, uint64_t *node) noexcept nogil:
    """Turns the operation's pin on a node into a reference of the caller's."""
    node[0] = n.id
    mutex_lock(&t.lock)
    n.references += 1
    n.pins -= 1
    mutex_unlock(&t.lock)
    return 0


cdef int tree_lookup(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                     uint64_t *node, Stat *st) noexcept nogil:
    cdef Node *n = NULL
    cdef Node *p = node_pin(t, parent)
    cdef int r
    if p == NULL:
        return -ESTALE
    r = child_find(t, p, name, length, &n, st)
    node_unpin(t, p)
    return hand_out(t, n, node) if r == 0 else r


cdef int tree_forget(Table *t, Op *op, uint64_t node, uint64_t references) noexcept nogil:
    return node_forget(t, node, references, op.may_wait)


cdef int tree_pin(Table *t, uint64_t node) noexcept nogil:
    return 0 if node_pin(t, node) != NULL else -ESTALE


cdef void tree_unpin(Table *t, uint64_t node) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    if n == NULL:
        return
    mutex_lock(&t.lock)
    n.pins -= 1
    mutex_unlock(&t.lock)
    node_unpin(t, n)


# --- attributes ----------------------------------------------------------------------------

cdef int tree_getattr(Table *t, Op *op, uint64_t node, Stat *st) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int r
    if n == NULL:
        return -ESTALE
    r = node_stat(t, n, st)
    node_unpin(t, n)
    return r


cdef int tree_setattr(Table *t, Op *op, uint64_t node, uint64_t handle, const SetAttr *wanted,
                      Stat *st) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int r
    if n == NULL:
        return -ESTALE
    r = content_setattr(t, op, n, handle, wanted, st)
    node_unpin(t, n)
    return r


cdef int tree_readlink(Table *t, Op *op, uint64_t node, char *buffer, size_t size) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int r
    if n == NULL:
        return -ESTALE
    r = content_readlink(t, n, buffer, size)
    node_unpin(t, n)
    return r


cdef int tree_statfs(Table *t, Op *op, StatFs *st) noexcept nogil:
    """The filesystem that new files go to; of a read-only union, the topmost branch's."""
    return sys_fstatfs(t.branch[0 if t.branch[0].fd >= 0 else 1].fd, st)


# --- names ---------------------------------------------------------------------------------

cdef int make(Table *t, Op *op, uint64_t parent, const char *name, size_t length, Make *m,
              uint64_t *node, Stat *st) noexcept nogil:
    cdef Node *n = NULL
    cdef Node *p = node_pin(t, parent)
    cdef int r
    if p == NULL:
        return -ESTALE
    r = change_make(t, op, p, name, length, m, &n, st)
    node_unpin(t, p)
    return hand_out(t, n, node) if r == 0 else r


cdef int tree_mknod(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                    uint32_t mode, uint64_t rdev, uint64_t *node, Stat *st) noexcept nogil:
    cdef Make m
    m.mode = mode if mode & S_IFMT else mode | S_IFREG
    m.rdev = rdev
    m.source = NULL
    if m.mode & S_IFMT == S_IFDIR or m.mode & S_IFMT == S_IFLNK:
        return -EINVAL
    if m.mode & S_IFMT == S_IFCHR and rdev == 0:
        return -EPERM           # a whiteout, as kernel overlayfs says
    return make(t, op, parent, name, length, &m, node, st)


cdef int tree_mkdir(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                    uint32_t mode, uint64_t *node, Stat *st) noexcept nogil:
    cdef Make m
    m.mode = S_IFDIR | (mode & 0o7777)
    m.source = NULL
    return make(t, op, parent, name, length, &m, node, st)


cdef int tree_symlink(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                      const char *target, uint64_t *node, Stat *st) noexcept nogil:
    cdef Make m
    m.mode = S_IFLNK | 0o777
    m.target = target
    m.source = NULL
    return make(t, op, parent, name, length, &m, node, st)


cdef int tree_link(Table *t, Op *op, uint64_t source, uint64_t parent, const char *name,
                   size_t length, uint64_t *node, Stat *st) noexcept nogil:
    cdef Make m
    cdef int r
    m.source = node_pin(t, source)
    if m.source == NULL:
        return -ESTALE
    m.mode = m.source.type
    r = -EPERM if m.mode == S_IFDIR else guard_change(m.source)
    if r == 0:
        r = backing_part(t, op, m.source)
    if r == 0:
        r = make(t, op, parent, name, length, &m, node, st)
    node_unpin(t, m.source)
    return r


cdef int open_new(Table *t, uint64_t node, uint64_t *handle) noexcept nogil:
    """The handle of a file that was just created, whatever its mode would allow."""
    cdef Ref ref
    cdef Node *n
    cdef int r, fd
    handle[0] = 0
    if not t.keep_open:
        return 0
    n = node_pin(t, node)
    if n == NULL:
        return -ESTALE
    r = node_data_ref(t, n, True, &ref)
    if r == 0:
        fd = sys_dup(ref.fd)
        r = handle_new(t, n, fd, True, handle) if fd >= 0 else fd
        if r < 0 and fd >= 0:
            sys_close(fd)
        ref_drop(t, &ref)
    node_unpin(t, n)
    return r


cdef int tree_create(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                     uint32_t flags, uint32_t mode, uint64_t *node, uint64_t *handle,
                     Stat *st) noexcept nogil:
    cdef Make m
    cdef int r
    m.mode = S_IFREG | (mode & 0o7777)
    m.source = NULL
    r = make(t, op, parent, name, length, &m, node, st)
    if r == 0:
        r = open_new(t, node[0], handle)
        if r < 0:
            node_forget(t, node[0], 1, True)
    return r


cdef int tree_tmpfile(Table *t, Op *op, uint64_t parent, uint32_t flags, uint32_t mode,
                      uint64_t *node, uint64_t *handle, Stat *st) noexcept nogil:
    cdef Node *n = NULL
    cdef Node *p = node_pin(t, parent)
    cdef int r
    if p == NULL:
        return -ESTALE
    r = change_tmpfile(t, op, p, mode & 0o7777, &n, st)
    node_unpin(t, p)
    if r == 0:
        hand_out(t, n, node)
        r = open_new(t, node[0], handle)
        if r < 0:
            node_forget(t, node[0], 1, True)
    return r


cdef int tree_unlink(Table *t, Op *op, uint64_t parent, const char *name,
                     size_t length) noexcept nogil:
    cdef Node *p = node_pin(t, parent)
    cdef int r
    if p == NULL:
        return -ESTALE
    r = change_unlink(t, op, p, name, length)
    node_unpin(t, p)
    return r


cdef int tree_rmdir(Table *t, Op *op, uint64_t parent, const char *name,
                    size_t length) noexcept nogil:
    cdef Node *p = node_pin(t, parent)
    cdef int r
    if p == NULL:
        return -ESTALE
    r = change_rmdir(t, op, p, name, length)
    node_unpin(t, p)
    return r


cdef int tree_rename(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                     uint64_t new_parent, const char *new_name, size_t new_length,
                     uint32_t flags) noexcept nogil:
    cdef Node *p = node_pin(t, parent)
    cdef Node *q = node_pin(t, new_parent)
    cdef int r = -ESTALE
    if p != NULL and q != NULL:
        r = change_rename(t, op, p, name, length, q, new_name, new_length, flags)
    node_unpin(t, p)
    node_unpin(t, q)
    return r


# --- data ----------------------------------------------------------------------------------

cdef int tree_open(Table *t, Op *op, uint64_t node, uint32_t flags,
                   uint64_t *handle) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int r
    handle[0] = 0
    if n == NULL:
        return -ESTALE
    r = content_open(t, op, n, flags, handle)
    node_unpin(t, n)
    return r


cdef int tree_backing(Table *t, uint64_t handle, int32_t *backing) noexcept nogil:
    return handle_backing(t, handle, backing)


cdef void tree_set_backing(Table *t, uint64_t handle, int32_t backing) noexcept nogil:
    handle_set_backing(t, handle, backing)


cdef bint tree_begin_unseen(Table *t, uint64_t node) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef bint first
    if n == NULL:
        return False
    mutex_lock(&t.lock)
    first = not n.unseen
    n.unseen = True
    mutex_unlock(&t.lock)
    node_unpin(t, n)
    return first


cdef bint tree_passed(Table *t, uint64_t node) noexcept nogil:
    cdef bint passed
    mutex_lock(&t.lock)
    passed = node < t.nodes_size and t.nodes[node] != NULL and t.nodes[node].backing != 0
    mutex_unlock(&t.lock)
    return passed


cdef bint tree_unseen(Table *t, uint64_t node) noexcept nogil:
    cdef bint unseen
    mutex_lock(&t.lock)
    unseen = node < t.nodes_size and t.nodes[node] != NULL and t.nodes[node].unseen
    mutex_unlock(&t.lock)
    return unseen


cdef bint tree_take_stores(Table *t, const Op *op, uint64_t node) noexcept nogil:
    cdef bint stores = False
    cdef Node *n
    mutex_lock(&t.lock)
    if node < t.nodes_size and t.nodes[node] != NULL:
        n = t.nodes[node]
        stores = n.cached and n.mappable
        if op.may_wait:
            n.cached = False
    mutex_unlock(&t.lock)
    return stores


cdef int tree_release(Table *t, uint64_t handle, int32_t *backing) noexcept nogil:
    cdef uint64_t node = 0
    cdef int r = 0
    backing[0] = 0
    if handle:
        r = handle_release(t, handle, &node, backing)
        if r == 0:
            tree_unpin(t, node)
    return r


cdef int64_t tree_read(Table *t, Op *op, uint64_t node, uint64_t handle, char *buffer,
                       size_t size, uint64_t offset, uint32_t flags) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int64_t r
    if n == NULL:
        return -ESTALE
    r = content_read(t, n, handle, buffer, -1, size, offset, flags)
    node_unpin(t, n)
    return r


cdef int64_t tree_splice(Table *t, Op *op, uint64_t node, uint64_t handle, int pipe, size_t size,
                         uint64_t offset, uint32_t flags) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int64_t r
    if n == NULL:
        return -ESTALE
    r = content_read(t, n, handle, NULL, pipe, size, offset, flags)
    node_unpin(t, n)
    return r


cdef int64_t tree_write(Table *t, Op *op, uint64_t node, uint64_t handle, const char *data,
                        size_t size, uint64_t offset, uint32_t flags) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int64_t r
    if n == NULL:
        return -ESTALE
    r = content_write(t, op, n, handle, data, size, offset, flags)
    node_unpin(t, n)
    return r


cdef int tree_fsync(Table *t, Op *op, uint64_t node, uint64_t handle,
                    bint datasync) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int r
    if n == NULL:
        return -ESTALE
    r = content_fsync(t, op, n, handle, datasync)
    node_unpin(t, n)
    return r


cdef int tree_fsyncdir(Table *t, Op *op, uint64_t node, bint datasync) noexcept nogil:
    return tree_fsync(t, op, node, 0, datasync)


cdef int64_t tree_lseek(Table *t, Op *op, uint64_t node, uint64_t handle, int64_t offset,
                        int whence) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int64_t r
    if n == NULL:
        return -ESTALE
    r = content_lseek(t, n, handle, offset, whence)
    node_unpin(t, n)
    return r


cdef int tree_fallocate(Table *t, Op *op, uint64_t node, uint64_t handle, int mode,
                        uint64_t offset, uint64_t length) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int r
    if n == NULL:
        return -ESTALE
    r = content_fallocate(t, op, n, handle, mode, offset, length)
    node_unpin(t, n)
    return r


cdef int64_t tree_copy_file_range(Table *t, Op *op, uint64_t node_in, uint64_t handle_in,
                                  uint64_t offset_in, uint64_t node_out, uint64_t handle_out,
                                  uint64_t offset_out, uint64_t length,
                                  uint32_t flags) noexcept nogil:
    cdef Node *source = node_pin(t, node_in)
    cdef Node *n = node_pin(t, node_out)
    cdef int64_t r = -ESTALE
    if flags:
        r = -EINVAL
    elif source != NULL and n != NULL:
        r = content_copy_range(t, op, source, handle_in, offset_in, n, handle_out, offset_out,
                               length)
    node_unpin(t, source)
    node_unpin(t, n)
    return r


# --- extended attributes -------------------------------------------------------------------

cdef int64_t tree_getxattr(Table *t, Op *op, uint64_t node, const char *name, char *buffer,
                           size_t size) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int64_t r
    if n == NULL:
        return -ESTALE
    r = value_get(t, n, name, buffer, size)
    node_unpin(t, n)
    return r


cdef int64_t tree_listxattr(Table *t, Op *op, uint64_t node, char *buffer,
                            size_t size) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int64_t r
    if n == NULL:
        return -ESTALE
    r = value_list(t, op, n, buffer, size)
    node_unpin(t, n)
    return r


cdef int tree_setxattr(Table *t, Op *op, uint64_t node, const char *name, const char *value,
                       size_t size, int flags, bint kill_sgid) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int r
    if n == NULL:
        return -ESTALE
    r = value_set(t, op, n, name, value, size, flags, kill_sgid)
    node_unpin(t, n)
    return r


cdef int tree_removexattr(Table *t, Op *op, uint64_t node, const char *name) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int r
    if n == NULL:
        return -ESTALE
    r = value_remove(t, op, n, name)
    node_unpin(t, n)
    return r


# --- the rest ------------------------------------------------------------------------------

cdef int tree_readdir(Table *t, Op *op, uint64_t node, uint64_t offset, Fill fill,
                      void *arg) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int r
    if n == NULL:
        return -ESTALE
    r = read_directory(t, n, offset, fill, arg)
    node_unpin(t, n)
    return r


cdef int tree_copy_up(Table *t, Op *op, uint64_t node, uint64_t keep) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int r
    if n == NULL:
        return -ESTALE
    r = 0 if t.writable or n.state == UPPER else -EROFS
    if r == 0 and n.dir == NULL:
        r = guard_change(n)
    if r == 0:
        r = copy_up(t, n, keep, op.may_wait)
    node_unpin(t, n)
    return r


cdef int64_t where_locked(Node *n, char *buffer, size_t size) noexcept nogil:
    """The path of a node, written from its end."""
    cdef size_t at = size
    cdef Name *name = n.names
    if name == NULL:
        return 0 if n.id == ROOT_ID else -ENOENT
    while name != NULL:
        if at < <size_t>name.length + 1:
            return -ENAMETOOLONG
        at -= name.length
        memcpy(buffer + at, name.text, name.length)
        name = name.parent.names
        if name != NULL:
            at -= 1
            buffer[at] = b"/"
    memmove(buffer, buffer + at, size - at)
    return <int64_t>(size - at)


cdef int64_t tree_where(Table *t, uint64_t node, int *branch, char *buffer,
                        size_t size) noexcept nogil:
    cdef Node *n = node_pin(t, node)
    cdef int64_t r
    if n == NULL:
        return -ESTALE
    mutex_lock(&t.lock)
    branch[0] = n.branch
    r = where_locked(n, buffer, size)
    mutex_unlock(&t.lock)
    node_unpin(t, n)
    return r


cdef void tree_stats(Table *t, TreeStats *out) noexcept nogil:
    mutex_lock(&t.lock)
    out.nodes = t.node_count
    out.names = t.name_count
    out.fds = t.fd_count
    out.pinned_fds = t.orphans
    out.listings = t.listings
    out.listing_entries = t.listing_entries
    out.copy_ups = t.copy_ups
    out.copy_up_bytes = t.copy_up_bytes
    # A name has 16 bytes on the average; an entry its hash slots and its text.
    out.memory = (
        t.node_count * sizeof(Node) + t.name_count * (sizeof(Name) + 16)
        + (t.name_slots + t.key_slots + 2 * t.nodes_size) * sizeof(void *)
        + t.listing_entries * 64 + t.handle_count * sizeof(Handle))
    mutex_unlock(&t.lock)


cdef void tree_shrink(Table *t, bint everything) noexcept nogil:
    listing_shrink(t, everything)
    fd_shrink(t, 0)
    sys_give_back()
