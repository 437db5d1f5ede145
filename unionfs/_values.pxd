# cython: language_level=3
"""Extended attributes of one node, which comes pinned."""
from libc.stdint cimport int64_t

from unionfs._nodes cimport Node, Table
from unionfs._operations cimport Op

cdef int64_t value_get(Table *t, Node *n, const char *name, char *buffer,
                       size_t size) noexcept nogil
cdef int64_t value_list(Table *t, const Op *op, Node *n, char *buffer,
                        size_t size) noexcept nogil
cdef int value_set(Table *t, Op *op, Node *n, const char *name, const char *value,
                   size_t size, int flags, bint kill_sgid) noexcept nogil
cdef int value_remove(Table *t, Op *op, Node *n, const char *name) noexcept nogil
