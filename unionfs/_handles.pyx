# cython: language_level=3
"""Open files, where OPEN is kept: the rights of the moment of opening.

The table's `Handle`s are numbered, and each carries a generation: a number that comes too late is
EBADF and never another file.
"""
from libc.errno cimport EBADF, ENOMEM
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from unionfs._nodes cimport COPYING, Handle, Node, Table
from unionfs._sys cimport mutex_lock, mutex_unlock, sys_close

cdef enum:
    FIRST_HANDLES = 64


cdef int handle_new(Table *t, Node *n, int fd, bint writable, uint64_t *handle) noexcept nogil:
    """A handle that owns fd from now on; -ENOMEM (fd is then still the caller's)."""
    cdef Handle *grown
    cdef Handle *h
    cdef uint32_t i, count
    mutex_lock(&t.lock)
    if t.handle_free == 0:
        count = 2 * t.handle_count if t.handle_count else FIRST_HANDLES
        grown = <Handle *>realloc(t.handles, count * sizeof(Handle))
        if grown == NULL:
            mutex_unlock(&t.lock)
            return -ENOMEM
        t.handles = grown
        for i in range(t.handle_count, count):
            memset(&grown[i], 0, sizeof(Handle))
            grown[i].generation = 1
            grown[i].next_free = t.handle_free
            t.handle_free = i + 1
        t.handle_count = count
    h = &t.handles[t.handle_free - 1]
    handle[0] = (<uint64_t>h.generation << 32) | t.handle_free
    t.handle_free = h.next_free
    h.node = n.id
    h.fd = fd
    h.branch = n.branch
    h.writable = writable
    n.pins += 1
    mutex_unlock(&t.lock)
    return 0


cdef Handle *handle_find_locked(Table *t, uint64_t handle) noexcept nogil:
    cdef uint32_t i = <uint32_t>handle
    if i == 0 or i > t.handle_count:
        return NULL
    if t.handles[i - 1].node == 0 or t.handles[i - 1].generation != handle >> 32:
        return NULL
    return &t.handles[i - 1]


cdef int handle_release(Table *t, uint64_t handle, uint64_t *node,
                        int32_t *backing) noexcept nogil:
    """Closes a handle; its node stays pinned for the caller. -EBADF.

    `backing` becomes what was the node's until this last handle went, or 0.
    """
    cdef Handle *h
    cdef Node *n
    cdef int fd
    backing[0] = 0
    mutex_lock(&t.lock)
    h = handle_find_locked(t, handle)
    if h == NULL:
        mutex_unlock(&t.lock)
        return -EBADF
    fd = h.fd
    if h.counted:
        n = t.nodes[h.node]
        n.opens -= 1
        if n.opens == 0:
            backing[0] = n.backing
            n.backing = 0
        h.counted = False
    node[0] = h.node
    h.node = 0
    h.generation += 1
    h.next_free = t.handle_free
    t.handle_free = <uint32_t>handle
    mutex_unlock(&t.lock)
    sys_close(fd)
    return 0


cdef void count_locked(Handle *h, Node *n) noexcept nogil:
    h.counted = True
    n.opens += 1


cdef int handle_backing(Table *t, uint64_t handle, int32_t *backing) noexcept nogil:
    """See tree_backing()."""
    cdef Handle *h
    cdef Node *n
    cdef int r = 0
    backing[0] = 0
    mutex_lock(&t.lock)
    h = handle_find_locked(t, handle)
    if h != NULL:
        n = t.nodes[h.node]
        # Of several names others would go on leading to this node when one has gone to another.
        if n.opens == 0 and h.branch == n.branch and n.state != COPYING and (
                n.branch == 0 or not n.linked and n.names != NULL and n.names.alias == NULL):
            r = h.fd
        else:
            backing[0] = n.backing
            count_locked(h, n)
    mutex_unlock(&t.lock)
    return r


cdef void handle_set_backing(Table *t, uint64_t handle, int32_t backing) noexcept nogil:
    """See tree_set_backing()."""
    cdef Handle *h
    cdef Node *n
    mutex_lock(&t.lock)
    h = handle_find_locked(t, handle)
    if h != NULL:
        n = t.nodes[h.node]
        n.backing = backing
        n.backed_lower = h.branch != 0
        count_locked(h, n)
    mutex_unlock(&t.lock)
