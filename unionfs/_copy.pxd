# cython: language_level=3
"""Copy-up of one node."""
from libc.stdint cimport uint16_t, uint64_t

from unionfs._nodes cimport Node, Table

# Brings a node into the upper, where its parent must be: 0, -errno, WOULD_WAIT (without may_wait).
cdef int copy_up(Table *t, Node *n, uint64_t keep, bint may_wait) noexcept nogil
# A file of several names is in the upper: brings every name known here whose directory is there
# too. One that the daemon may not add to its directory stays in the branch it is in.
cdef int bring_names(Table *t, Node *n) noexcept nogil
# fsync(2) of a file of the upper, open as `fd`, for the first time in this mount: makes its name
# durable, too.
cdef int copy_sync(Table *t, Node *n, int fd) noexcept nogil
# Waits until no copy-up of the node is under way: 0 or WOULD_WAIT.
cdef int settle(Table *t, Node *n, bint may_wait) noexcept nogil
