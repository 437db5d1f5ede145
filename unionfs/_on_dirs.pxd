# cython: language_level=3
"""Listing directories."""
from libc.stdint cimport int64_t

from unionfs._channel cimport Call

cdef int64_t on_readdir(Call *call) noexcept nogil
cdef int64_t on_readdirplus(Call *call) noexcept nogil
