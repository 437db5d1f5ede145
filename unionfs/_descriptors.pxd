# cython: language_level=3
"""The cache of descriptors, and those in use by one operation (`Fd`, `Ref` in _nodes.pxd)."""
from libc.stdint cimport uint32_t

from unionfs._nodes cimport Fd, Node, Ref, Table

# Puts a new descriptor into a slot of the cache, in place of what is there, and lends it out.
cdef void fd_keep_locked(Table *t, Fd **slot, int fd, bint writable, Ref *ref,
                         Fd **doomed) noexcept nogil
cdef void fd_retire_locked(Table *t, Fd *fd, Fd **doomed) noexcept nogil
cdef void fd_close_doomed(Table *t, Fd *doomed) noexcept nogil
cdef void fd_shrink(Table *t, uint32_t keep) noexcept nogil
# Gives a new descriptor of a regular file's data to its node.
cdef void node_adopt_fd_locked(Table *t, Node *n, int fd, Fd **doomed) noexcept nogil
cdef void ref_drop(Table *t, Ref *ref) noexcept nogil


cdef inline void lru_insert(Table *t, Fd *fd) noexcept nogil:
    fd.newer = &t.newest
    fd.older = t.newest.older
    fd.older.newer = fd
    t.newest.older = fd


cdef inline void lru_remove(Fd *fd) noexcept nogil:
    fd.newer.older = fd.older
    fd.older.newer = fd.newer


cdef inline void fd_use_locked(Table *t, Fd *fd, Ref *ref) noexcept nogil:
    """Lends a descriptor of the cache out: the newest now."""
    fd.users += 1
    lru_remove(fd)
    lru_insert(t, fd)
    ref.fd = fd.fd
    ref.cached = fd
    ref.own = False


cdef inline void ref_borrow(Ref *ref, int fd) noexcept nogil:
    """A descriptor that outlives the operation: a branch's, or a pinned node's orphan."""
    ref.fd = fd
    ref.cached = NULL
    ref.own = False
