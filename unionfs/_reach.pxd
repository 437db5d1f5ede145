# cython: language_level=3
"""Where a pinned node's file is now: its attributes, its data, descriptors of it."""
from libc.stdint cimport int64_t, uint32_t

from unionfs._nodes cimport Node, Ref, Table
from unionfs._sys cimport Stat

cdef int node_place(Table *t, Node *n, Ref *directory, char *name, uint32_t *seq) noexcept nogil
cdef int node_stat(Table *t, Node *n, Stat *st) noexcept nogil
# Turns what the branch says of a node into what the union shows.
cdef void node_show(Table *t, const Node *n, Stat *st) noexcept nogil
cdef int node_path_ref(Table *t, Node *n, Ref *ref) noexcept nogil
# getxattr(2) of the node; only `security.capability` and ACLs are asked often, and mostly in vain.
cdef int64_t node_getxattr(Table *t, Node *n, const char *name, void *value,
                           size_t size) noexcept nogil
cdef int64_t node_listxattr(Table *t, Node *n, char *names, size_t size) noexcept nogil
cdef void node_set_xattr(Table *t, Node *n) noexcept nogil
# A private descriptor that keeps the file when its last name goes.
cdef int node_open_orphan(Table *t, Node *n) noexcept nogil
# The length of the mark by which kernel overlayfs says that a file's data is another's; negative:
# it has none.
cdef int64_t fd_metacopy(const Table *t, int fd) noexcept nogil
# In the place of a descriptor just opened of a lower's file, one of the file that has its data:
# where kernel overlayfs has made a metacopy another one, else the same. -errno: closed.
cdef int fd_with_data(Table *t, Node *n, int fd) noexcept nogil
cdef int node_data_ref(Table *t, Node *n, bint write, Ref *ref) noexcept nogil
# A private descriptor of the node's file, opened by name with these flags of open(2); *seq is the
# Node.seq for which it is right.
cdef int node_open(Table *t, Node *n, int flags, uint32_t *seq) noexcept nogil
