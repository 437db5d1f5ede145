# cython: language_level=3
"""Creating names. Nodes come pinned."""
from libc.stdint cimport uint32_t, uint64_t

from unionfs._nodes cimport Node, Ref, Table
from unionfs._operations cimport Op
from unionfs._sys cimport Stat

cdef struct Make:
    # What is to be created.
    uint32_t mode           # type and permissions, as the application asked for them
    uint64_t rdev
    const char *target      # of a symbolic link
    Node *source            # of a hard link
    uint32_t uid            # its owner on disk; filled in by what creates it
    uint32_t gid

# Creates a name; the node is returned pinned.
cdef int change_make(Table *t, Op *op, Node *parent, const char *name, size_t length,
                     Make *make, Node **out, Stat *st) noexcept nogil
cdef int change_tmpfile(Table *t, Op *op, Node *parent, uint32_t mode, Node **out,
                        Stat *st) noexcept nogil
# The upper directory in which a name changes, brought up if need be: 0, a Verdict, -errno.
cdef int open_parent(Table *t, Op *op, Node *parent, Ref *ref) noexcept nogil
cdef int check_new_name(const Table *t, const char *name, size_t length) noexcept nogil
