# cython: language_level=3
"""Reading a directory."""
from libc.stdint cimport uint64_t

from unionfs._nodes cimport Node, Table
from unionfs._operations cimport Fill

cdef int read_directory(Table *t, Node *n, uint64_t offset, Fill fill, void *arg) noexcept nogil
