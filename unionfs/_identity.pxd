# cython: language_level=3
"""st_ino: what number a file shows, and how it keeps that number when it is copied up."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from unionfs._nodes cimport Node, Table
from unionfs._sys cimport Stat

# st_ino as the union shows it, of an inode in a branch.
cdef uint64_t show_ino(const Table *t, uint16_t branch, uint64_t ino) noexcept nogil
# The same for a name in a branch: an upper file that was copied up shows its origin's number.
cdef uint64_t find_ino(Table *t, Node *parent, int dirfd, const char *name, uint16_t branch,
                       uint64_t real) noexcept nogil
# May files of this upper directory have an origin?
cdef bint is_impure(Table *t, Node *directory, int dirfd) noexcept nogil
# Notes that they may.
cdef int mark_impure(Table *t, Node *directory, int dirfd) noexcept nogil
cdef enum:
    BIRTH = 40              # bytes for " SECONDS.NANOSECONDS"

# What in a record tells an inode from a later one of the same number (BIRTH bytes).
cdef void birth_text(const Stat *st, char *text) noexcept nogil
# The records of origins that are there already: -ENOENT.
cdef int origins_open(Table *t) noexcept nogil
# Notes on a copy the number it has to keep.
cdef int record_origin(Table *t, Node *n, int fd) noexcept nogil
# The same when a mode is about to be given to the copy with which the note could not be read.
cdef int keep_origin(Table *t, Node *n, int fd, uint32_t mode) noexcept nogil
# The copy behind fd has not come about.
cdef void unrecord_origin(Table *t, Node *n, int fd) noexcept nogil
# A name of the node's file, which fd keeps, is gone: with the last one the record goes.
cdef void forget_origin(Table *t, Node *n, int fd) noexcept nogil
