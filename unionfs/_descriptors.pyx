# cython: language_level=3
"""Descriptors that stay open for the next operation; the least recently used go first.

A descriptor stands in one slot of a node or a directory, and is closed when it has left the cache
and nobody uses it any more: the doomed are collected under the lock and closed without.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from unionfs._nodes cimport Fd, Node, Ref, Table
from unionfs._sys cimport mutex_lock, mutex_unlock, sys_close


cdef void fd_retire_locked(Table *t, Fd *fd, Fd **doomed) noexcept nogil:
    """Takes a descriptor out of the cache; it is closed now or by its last user."""
    fd.slot[0] = NULL
    fd.slot = NULL
    lru_remove(fd)
    t.fd_count -= 1
    if fd.users == 0:
        fd.older = doomed[0]
        doomed[0] = fd


cdef void fd_close_doomed(Table *t, Fd *doomed) noexcept nogil:
    cdef Fd *following
    while doomed != NULL:
        following = doomed.older
        sys_close(doomed.fd)
        free(doomed)
        doomed = following


cdef void fd_evict_locked(Table *t, uint32_t keep, Fd **doomed) noexcept nogil:
    cdef Fd *fd = t.newest.newer
    cdef Fd *newer
    while t.fd_count > keep and fd != &t.newest:
        newer = fd.newer
        if fd.users == 0:
            fd_retire_locked(t, fd, doomed)
        fd = newer


cdef void fd_shrink(Table *t, uint32_t keep) noexcept nogil:
    """Closes the descriptors that were not used for the longest time."""
    cdef Fd *doomed = NULL
    mutex_lock(&t.lock)
    fd_evict_locked(t, keep, &doomed)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)


cdef void fd_keep_locked(Table *t, Fd **slot, int fd, bint writable, Ref *ref,
                         Fd **doomed) noexcept nogil:
    """Puts a new descriptor into a slot of the cache and lends it out."""
    cdef Fd *kept = <Fd *>calloc(1, sizeof(Fd))
    if kept == NULL:
        ref.fd = fd
        ref.cached = NULL
        ref.own = True
        return
    if slot[0] != NULL:
        fd_retire_locked(t, slot[0], doomed)
    if t.fd_count >= t.fd_limit:
        fd_evict_locked(t, t.fd_limit - 1, doomed)
    kept.fd = fd
    kept.writable = writable
    kept.slot = slot
    slot[0] = kept
    lru_insert(t, kept)
    t.fd_count += 1
    fd_use_locked(t, kept, ref)


cdef void node_adopt_fd_locked(Table *t, Node *n, int fd, Fd **doomed) noexcept nogil:
    cdef Ref ref
    fd_keep_locked(t, &n.data, fd, True, &ref, doomed)
    if ref.cached != NULL:
        ref.cached.users -= 1
    else:
        sys_close(fd)


cdef void ref_drop(Table *t, Ref *ref) noexcept nogil:
    cdef Fd *fd = ref.cached
    cdef bint last = False
    if fd != NULL:
        mutex_lock(&t.lock)
        fd.users -= 1
        last = fd.users == 0 and fd.slot == NULL
        mutex_unlock(&t.lock)
        if last:
            sys_close(fd.fd)
            free(fd)
    elif ref.own:
        sys_close(ref.fd)
    ref.fd = -1
    ref.cached = NULL
    ref.own = False
