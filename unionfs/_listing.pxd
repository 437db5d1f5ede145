# cython: language_level=3
"""The merged index of a directory: every visible name, its branch, its stable offset."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from unionfs._nodes cimport Dir, Entry, Listing, Node, Table

# The listing of a directory, built if need be, with one user; NULL and *error on failure.
cdef Listing *listing_get(Table *t, Node *n, int *error) noexcept nogil
cdef Entry *listing_find_locked(Listing *l, const char *text, size_t length) noexcept nogil
# A name is in the upper now (created, copied up, renamed to). `below`: a lower shows it too.
cdef void listing_put_locked(Table *t, Node *directory, const char *text, size_t length,
                             uint64_t ino, uint32_t dtype, uint16_t branch,
                             bint below) noexcept nogil
# A name has gone; `whiteout`: the upper holds a whiteout of it now.
cdef void listing_remove_locked(Table *t, Node *directory, const char *text, size_t length,
                                bint whiteout) noexcept nogil
# Nothing below the directory counts any more.
cdef void listing_forget_below_locked(Dir *d) noexcept nogil
# Drops the listings that nobody has read for a minute, or all that nobody reads this instant.
cdef void listing_shrink(Table *t, bint everything) noexcept nogil
