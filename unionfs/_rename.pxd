# cython: language_level=3
"""Renaming, and what makes a directory ready for it. Nodes come pinned."""
from libc.stdint cimport uint32_t

from unionfs._nodes cimport Node, Table
from unionfs._operations cimport Op

cdef int change_rename(Table *t, Op *op, Node *from_dir, const char *name, size_t length,
                       Node *to_dir, const char *new_name, size_t new_length,
                       uint32_t flags) noexcept nogil
# All children are in the upper: nothing below the directory counts any more.
cdef int change_make_whole(Table *t, Node *n) noexcept nogil
