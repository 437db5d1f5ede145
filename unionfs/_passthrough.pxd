# cython: language_level=3
"""FUSE passthrough (Linux 6.9): open files that the kernel reads and writes by itself."""
from libc.stdint cimport uint64_t

from unionfs._channel cimport Channel
from unionfs._wire cimport OpenOut

# Fill in the reply to OPEN or CREATE, for a handle just opened.
cdef void passthrough_open(Channel *channel, uint64_t handle, OpenOut *out) noexcept nogil
cdef int passthrough_release(Channel *channel, uint64_t handle) noexcept nogil
