# cython: language_level=3
"""Removing names, and what renaming needs of it. Nodes come pinned."""
from unionfs._nodes cimport Node, Ref, Table
from unionfs._operations cimport Op

cdef struct Spot:
    # A name in an upper directory, where something is about to change.
    Node *parent
    const char *name
    size_t length
    Ref directory
    bint below              # a lower branch shows the name too
    bint marked             # we have put its .wh. whiteout down in this operation

cdef int change_unlink(Table *t, Op *op, Node *parent, const char *name,
                       size_t length) noexcept nogil
cdef int change_rmdir(Table *t, Op *op, Node *parent, const char *name,
                      size_t length) noexcept nogil

# The upper directory that a name is in, in the upper by then: 0, a Verdict, -errno.
cdef int spot_open(Table *t, Op *op, Spot *s, Node *parent, const char *name,
                   size_t length) noexcept nogil
cdef int spot_mark(Table *t, Spot *s) noexcept nogil
cdef void spot_unmark(Spot *s) noexcept nogil
cdef bint name_in_upper(Table *t, Spot *s) noexcept nogil
cdef int check_removable(Table *t, Node *n) noexcept nogil
cdef int empty_out(Table *t, Spot *s, Node *n) noexcept nogil
# The names of nodes change from `hold_names` on, to the end or to `keep_names`.
cdef int hold_names(Table *t, Op *op, Node *n, Node *other, Node *losing,
                    int *orphan_fd) noexcept nogil
cdef void keep_names(Table *t, Node *n, Node *other, int orphan_fd) noexcept nogil
cdef void uncount(Table *t, Node *n) noexcept nogil
