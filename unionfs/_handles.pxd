# cython: language_level=3
"""Open files, where OPEN is kept: the rights of the moment of opening."""
from libc.stdint cimport int32_t, uint64_t

from unionfs._nodes cimport Handle, Node, Table

cdef int handle_new(Table *t, Node *n, int fd, bint writable, uint64_t *handle) noexcept nogil
cdef Handle *handle_find_locked(Table *t, uint64_t handle) noexcept nogil
cdef int handle_release(Table *t, uint64_t handle, uint64_t *node, int32_t *backing) noexcept nogil
# Passthrough: see tree_backing() and tree_set_backing().
cdef int handle_backing(Table *t, uint64_t handle, int32_t *backing) noexcept nogil
cdef void handle_set_backing(Table *t, uint64_t handle, int32_t backing) noexcept nogil
