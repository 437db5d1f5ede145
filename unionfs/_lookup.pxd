# cython: language_level=3
"""Look-up of one name, and what a change needs to know before it begins."""
from libc.stdint cimport uint16_t, uint64_t

from unionfs._nodes cimport Node, Table
from unionfs._operations cimport Op
from unionfs._sys cimport Stat

# The node of a name, pinned, with its attributes.
cdef int child_find(Table *t, Node *parent, const char *name, size_t length, Node **out,
                    Stat *st) noexcept nogil
# The same without the attributes, for a change: a node that is known costs no system call.
cdef int child_get(Table *t, Node *parent, const char *name, size_t length,
                   Node **out) noexcept nogil
# 1 if a lower branch shows that name below the upper directory, 0 if not, -errno.
cdef int shown_below(Table *t, Node *parent, const char *name, size_t length) noexcept nogil
# Sees to it that a node is in the upper: 0, a Verdict, or -errno. `keep`: how many bytes of its
# data matter.
cdef int need_upper(Table *t, Op *op, Node *n, uint64_t keep) noexcept nogil
# 0 if a directory shows no name, -ENOTEMPTY, -errno.
# A directory that could not be looked into has got another mode.
cdef int dir_look_again(Table *t, Node *n) noexcept nogil
cdef int check_empty(Table *t, Node *n) noexcept nogil
cdef int check_name(const char *name, size_t length) noexcept nogil
