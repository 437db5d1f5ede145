# cython: language_level=3
"""Requests about names and attributes."""
from libc.stdint cimport int64_t

from unionfs._channel cimport Call

cdef int64_t on_lookup(Call *call) noexcept nogil
cdef int64_t on_forget(Call *call) noexcept nogil
cdef int64_t on_batch_forget(Call *call) noexcept nogil
cdef int64_t on_getattr(Call *call) noexcept nogil
cdef int64_t on_statx(Call *call) noexcept nogil
cdef int64_t on_setattr(Call *call) noexcept nogil
cdef int64_t on_readlink(Call *call) noexcept nogil
cdef int64_t on_statfs(Call *call) noexcept nogil
cdef int64_t on_mknod(Call *call) noexcept nogil
cdef int64_t on_mkdir(Call *call) noexcept nogil
cdef int64_t on_symlink(Call *call) noexcept nogil
cdef int64_t on_link(Call *call) noexcept nogil
cdef int64_t on_unlink(Call *call) noexcept nogil
cdef int64_t on_rmdir(Call *call) noexcept nogil
cdef int64_t on_rename(Call *call) noexcept nogil
cdef int64_t on_rename2(Call *call) noexcept nogil
