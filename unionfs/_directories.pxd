# cython: language_level=3
"""The record of a directory (`Dir` in _nodes.pxd), and descriptors of directories."""
from libc.stdint cimport uint16_t, uint32_t

from unionfs._nodes cimport Dir, Fd, Node, Ref, Table
from unionfs._sys cimport Stat

# Takes over the strings of `redirect`, which may be NULL.
cdef Dir *dir_new(const uint16_t *branch, char **redirect, uint16_t count) noexcept nogil
cdef int dir_index(const Dir *d, uint16_t branch) noexcept nogil
cdef int dir_ref(Table *t, Node *n, uint16_t branch, Ref *ref) noexcept nogil
# How often the directory's names have changed until now.
cdef uint32_t dir_changes(Table *t, Node *directory) noexcept nogil
# Something invisible has changed the ctime of an upper directory, which was as in *before.
cdef void dir_hide_ctime(Table *t, Node *n, int dirfd, const Stat *before) noexcept nogil
cdef int dir_add_upper_locked(Node *n) noexcept nogil
# Other branches hold the directory than was known; `with_` is freed.
cdef void dir_replace_locked(Table *t, Node *n, Dir *with_, Fd **doomed) noexcept nogil
cdef void dir_keep_upper_only_locked(Table *t, Node *n, Fd **doomed) noexcept nogil
