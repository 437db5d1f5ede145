# cython: language_level=3
"""The two extended attributes by which a mount tells about itself, as JSON."""
from libc.stdint cimport int64_t

from unionfs._channel cimport Call

cdef bint is_own_xattr(const char *name) noexcept nogil
cdef int64_t own_xattr(Call *call, const char *name) noexcept nogil
