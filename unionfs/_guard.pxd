# cython: language_level=3
"""Immutable and append-only files of lowers (chattr(1)). 0 or -EPERM."""
from libc.stdint cimport uint8_t

from unionfs._nodes cimport Node
from unionfs._operations cimport SetAttr
from unionfs._sys cimport Stat

# What is written to Node.guard of a file with these attributes.
cdef uint8_t guard_of(const Stat *st) noexcept nogil
# May the content of a file, its extended attributes or its names be changed?
cdef int guard_change(const Node *n) noexcept nogil
cdef int guard_attributes(const Node *n, const SetAttr *wanted) noexcept nogil
# May a name be added to a directory?
cdef int guard_adding(const Node *directory) noexcept nogil
# May the name of a node be taken out of a directory?
cdef int guard_removing(const Node *directory, const Node *n) noexcept nogil
