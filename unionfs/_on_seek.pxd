# cython: language_level=3
from libc.stdint cimport int64_t

from unionfs._channel cimport Call

cdef enum:
    TO_THE_END = 0

# On a thread that may wait. Returns when what the kernel has of the node's range has been written,
# and is dropped (`end` TO_THE_END or negative: to the end).
cdef void write_out(Call *call, int64_t start, int64_t end) noexcept nogil
cdef int64_t on_lseek(Call *call) noexcept nogil
