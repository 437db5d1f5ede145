# cython: language_level=3
"""Requests about the content of files, and their extended attributes."""
from libc.stdint cimport int64_t

from unionfs._channel cimport Call

cdef int64_t on_open(Call *call) noexcept nogil
cdef int64_t on_create(Call *call) noexcept nogil
cdef int64_t on_tmpfile(Call *call) noexcept nogil
cdef int64_t on_release(Call *call) noexcept nogil
cdef int64_t on_read(Call *call) noexcept nogil
cdef int64_t on_write(Call *call) noexcept nogil
cdef int64_t on_fsync(Call *call) noexcept nogil
cdef int64_t on_fsyncdir(Call *call) noexcept nogil
cdef int64_t on_fallocate(Call *call) noexcept nogil
cdef int64_t on_copy_file_range(Call *call) noexcept nogil
cdef int64_t on_copy_file_range_64(Call *call) noexcept nogil
cdef int64_t on_getxattr(Call *call) noexcept nogil
cdef int64_t on_listxattr(Call *call) noexcept nogil
cdef int64_t on_setxattr(Call *call) noexcept nogil
cdef int64_t on_removexattr(Call *call) noexcept nogil
