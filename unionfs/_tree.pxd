# cython: language_level=3
"""The Python face of the union: the class that owns its table."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from unionfs._nodes cimport Table
from unionfs._operations cimport Op

cdef class Tree:
    # The Python face, and the owner of the table. See _tree.pyi.
    cdef Table *table
    cdef _add_branch(self, int i, int fd)
    cdef _add_root(self)
    cdef Table *_open(self) except NULL
    cdef int _again(self, int64_t verdict, Op *op) except -1
    cdef _made(self, int kind, parent, bytes name, uint32_t mode, uint64_t rdev, bytes target,
               uint64_t source, uid, gid, umask)
