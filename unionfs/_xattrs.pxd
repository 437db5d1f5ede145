# cython: language_level=3
"""Extended attributes between the union and its branches: private names, escape, copying."""
from libc.stdint cimport int64_t

from unionfs._nodes cimport Table

cdef enum:
    XATTR_NAME_SIZE = 256

cdef int xattr_to_disk(const char *shown, char *stored) noexcept nogil
cdef bint xattr_is_private(const char *stored) noexcept nogil
cdef int64_t xattr_show_list(char *names, int64_t size, bint trusted) noexcept nogil
cdef int xattr_copy_all(Table *t, int from_fd, int to_fd) noexcept nogil

cdef const char *xattr_origin(const Table *t) noexcept nogil
cdef const char *xattr_impure(const Table *t) noexcept nogil
cdef const char *xattr_plain(const Table *t) noexcept nogil
