# cython: language_level=3
"""Directories whose own mode keeps a daemon without privileges from changing them."""
from libc.stdint cimport uint32_t

from unionfs._marks cimport WORK_NAME
from unionfs._nodes cimport Node, Table
from unionfs._sys cimport Stat

cdef struct Opened:
    # A directory of the upper that has more permissions than it shows.
    uint32_t mode               # what it shows, and gets back
    char record[WORK_NAME]      # in the work directory, "": there is none

# Would the daemon be refused in a directory of its own with this mode?
cdef bint closed_to_owner(const Table *t, uint32_t mode) noexcept nogil
# Opens a known directory of the upper for changes in it and on it, for this thread alone, until
# `closed_again`. -EACCES where the mode is not what stands in the way.
cdef int closed_open(Table *t, Node *n, int fd, Opened *o) noexcept nogil
cdef void closed_again(Table *t, Node *n, int fd, Opened *o) noexcept nogil
# The same for one that is about to appear under a name in `parent`, and that nobody reaches yet:
# it gets its mode from `closed_finish`, after its name. *st is what it is to show.
cdef int closed_begin(Table *t, Node *parent, const char *name, int fd, const Stat *st,
                      Opened *o) noexcept nogil
cdef int closed_finish(Table *t, int fd, Opened *o) noexcept nogil
cdef void closed_forget(Table *t, Opened *o) noexcept nogil
