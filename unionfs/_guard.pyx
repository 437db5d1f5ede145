# cython: language_level=3
"""Immutable and append-only files of lowers (chattr(1)): what VFS refuses, for FUSE does not ask.

In the upper the branch's filesystem refuses by itself. In a lower nothing is written, and a copy
would be a file without the flag: so the union refuses what the flag does, by the rules of
may_delete() and may_create() (fs/namei.c) and notify_change() (fs/attr.c). No file that has one of
the flags is copied up, so that appending to an append-only file is refused as well. A directory is,
because something below it changes; its flag goes on counting, for the copy shows the st_ino of the
lower directory, and is known by that (_lookup.pyx).
"""
from libc.errno cimport EPERM
from libc.stdint cimport uint8_t, uint32_t

from unionfs._nodes cimport Node
from unionfs._operations cimport (
    SET_ATIME,
    SET_ATIME_NOW,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_NOW,
    SET_UID,
    SetAttr,
)
from unionfs._sys cimport STATX_ATTR_APPEND, STATX_ATTR_IMMUTABLE, Stat

cdef enum:
    IMMUTABLE = 1
    APPEND = 2


cdef uint8_t guard_of(const Stat *st) noexcept nogil:
    cdef uint8_t guard = 0
    if st.stx_attributes & STATX_ATTR_IMMUTABLE:
        guard |= IMMUTABLE
    if st.stx_attributes & STATX_ATTR_APPEND:
        guard |= APPEND
    return guard


cdef int guard_change(const Node *n) noexcept nogil:
    return -EPERM if n.guard else 0


cdef int guard_attributes(const Node *n, const SetAttr *wanted) noexcept nogil:
    """The times of an append-only directory may be set to now, not to anything else."""
    cdef uint32_t set_ = wanted.valid & (SET_MODE | SET_UID | SET_GID)
    if wanted.valid & SET_ATIME and not wanted.valid & SET_ATIME_NOW:
        set_ |= SET_ATIME
    if wanted.valid & SET_MTIME and not wanted.valid & SET_MTIME_NOW:
        set_ |= SET_MTIME
    return -EPERM if n.guard & IMMUTABLE or n.guard and set_ else 0


cdef int guard_adding(const Node *directory) noexcept nogil:
    return -EPERM if directory.guard & IMMUTABLE else 0


cdef int guard_removing(const Node *directory, const Node *n) noexcept nogil:
    return -EPERM if directory.guard or n.guard else 0
