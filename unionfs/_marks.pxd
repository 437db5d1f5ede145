# cython: language_level=3
"""Whiteouts and opaque directories on disk: read in every format, written in the chosen one."""
from libc.stdint cimport uint32_t

from unionfs._nodes cimport Format, Table
from unionfs._sys cimport Stat

cdef enum:
    MARK_PREFIX = 4         # length of ".wh."
    WORK_NAME = 24          # bytes for a name in the work directory

cdef bint mark_reserved(const char *name, size_t length) noexcept nogil
cdef bint mark_is_whiteout(const Stat *st) noexcept nogil
# A file of an application's whose name begins with .wh. (format overlay): recognised, and declared.
cdef bint mark_is_plain(const Table *t, int dirfd, const char *name) noexcept nogil
cdef int mark_set_plain(const Table *t, int fd) noexcept nogil
# The attributes of a name in a directory; -ENOENT, too, where it says something about another name.
cdef int mark_find(const Table *t, int dirfd, const char *name, size_t length,
                   Stat *st) noexcept nogil
cdef int mark_beside(const Table *t, int dirfd, const char *name, size_t length) noexcept nogil
# `bare`: it is known to have no attributes.
cdef int mark_is_opaque(const Table *t, int dirfd, bint bare) noexcept nogil
cdef Format mark_format(const Table *t, size_t length) noexcept nogil
cdef int mark_put(Table *t, int dirfd, const char *name, size_t length) noexcept nogil
cdef int mark_remove(int dirfd, const char *name, size_t length) noexcept nogil
cdef int mark_set_opaque(Table *t, int dirfd) noexcept nogil
cdef int mark_hide_below(Table *t, int dirfd) noexcept nogil
cdef int mark_make_device(Table *t, char *work_name) noexcept nogil
cdef int mark_clear_directory(Table *t, int dirfd, bint keep_opaque) noexcept nogil
cdef void work_new_name(Table *t, char *name) noexcept nogil
cdef int work_inherit_nothing(int work_fd) noexcept nogil
