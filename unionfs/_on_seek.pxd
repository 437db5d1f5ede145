# cython: language_level=3
from libc.stdint cimport int64_t

from unionfs._channel cimport Call

cdef int64_t on_lseek(Call *call) noexcept nogil
