# cython: language_level=3
"""Hard links across copy-up: one record for each lower inode of several names that has changed."""
from libc.stdint cimport uint32_t, uint64_t

from unionfs._nodes cimport LINK_NAME, Table
from unionfs._sys cimport Stat

# 1 if the inode was copied up (*st is the copy's then), 0 if not; *count: its names, 0: no record.
cdef int links_find(Table *t, uint64_t ino, Stat *st, uint32_t *count) noexcept nogil
# Records how many names the file has in the union.
cdef int links_set_count(Table *t, uint64_t ino, uint32_t count) noexcept nogil
# The directory of the copies, made at the first need.
cdef int links_directory(Table *t) noexcept nogil
# The same without making it: -ENOENT.
cdef int links_open(Table *t) noexcept nogil
# Makes the copies' names and the counts durable.
cdef int links_sync(Table *t) noexcept nogil
# There is no copy: the last name is gone (and the count), or it has not come about.
cdef void links_drop(Table *t, uint64_t ino, bint keep_count) noexcept nogil
