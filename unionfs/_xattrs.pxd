# cython: language_level=3
"""Extended attributes between the union and its branches: private names, escape, copying."""
from libc.stdint cimport int64_t

from unionfs._nodes cimport Table

cdef enum:
    XATTR_NAME_SIZE = 256
    XATTR_LIMIT = 65536         # XATTR_SIZE_MAX and XATTR_LIST_MAX of <linux/limits.h>

cdef int xattr_to_disk(const char *shown, char *stored) noexcept nogil
cdef bint xattr_is_private(const char *stored) noexcept nogil
cdef bint xattr_is_acl(const char *name) noexcept nogil
cdef int64_t xattr_show_list(const Table *t, char *names, int64_t size,
                             bint trusted) noexcept nogil
cdef int xattr_copy_all(Table *t, int from_fd, int to_fd, bint acls) noexcept nogil

# Does the value of this attribute hold ids that differ between branches and mount? Then the two
# below translate it in place (it has room for CAPABILITY_SIZE more): the new length, or -errno.
cdef bint xattr_has_ids(const Table *t, const char *name) noexcept nogil
cdef int64_t xattr_show_ids(const Table *t, const char *name, char *value,
                            int64_t size) noexcept nogil
cdef int64_t xattr_store_ids(const Table *t, const char *name, char *value,
                             int64_t size) noexcept nogil

cdef const char *xattr_origin(const Table *t) noexcept nogil
cdef const char *xattr_impure(const Table *t) noexcept nogil
cdef const char *xattr_plain(const Table *t) noexcept nogil
# Has the file behind fd that attribute, whether it may be read or not?
cdef bint xattr_is_listed(int fd, const char *name) noexcept nogil
