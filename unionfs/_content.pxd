# cython: language_level=3
"""Data and attributes of one node, which comes pinned."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from unionfs._nodes cimport Handle, Node, Table
from unionfs._operations cimport Op, SetAttr
from unionfs._sys cimport Stat

cdef int content_open(Table *t, Op *op, Node *n, uint32_t flags, uint64_t *handle) noexcept nogil
cdef int content_setattr(Table *t, Op *op, Node *n, uint64_t handle, const SetAttr *wanted,
                         Stat *st) noexcept nogil
cdef int content_readlink(Table *t, Node *n, char *buffer, size_t size) noexcept nogil
# Into the buffer, or, where `pipe` is not -1, into that.
cdef int64_t content_read(Table *t, Node *n, uint64_t handle, char *buffer, int pipe, size_t size,
                          uint64_t offset, uint32_t flags) noexcept nogil
cdef int64_t content_write(Table *t, Op *op, Node *n, uint64_t handle, const char *data,
                           size_t size, uint64_t offset, uint32_t flags) noexcept nogil
cdef int content_fsync(Table *t, Op *op, Node *n, uint64_t handle, bint datasync) noexcept nogil
cdef int64_t content_lseek(Table *t, Node *n, uint64_t handle, int64_t offset,
                           int whence) noexcept nogil
cdef int content_fallocate(Table *t, Op *op, Node *n, uint64_t handle, int mode, uint64_t offset,
                           uint64_t length) noexcept nogil
cdef int64_t content_copy_range(Table *t, Op *op, Node *source, uint64_t source_handle,
                                uint64_t source_offset, Node *n, uint64_t handle,
                                uint64_t offset, uint64_t length) noexcept nogil
