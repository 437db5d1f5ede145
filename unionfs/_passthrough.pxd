# cython: language_level=3
"""FUSE passthrough (Linux 6.9): open files that the kernel reads and writes by itself."""
from libc.stdint cimport uint32_t, uint64_t

from unionfs._channel cimport Channel
from unionfs._wire cimport OpenOut

# Fill in the reply to OPEN or CREATE, for a handle of `node` just opened with open(2)'s `flags`.
cdef void passthrough_open(Channel *channel, uint64_t node, uint64_t handle, uint32_t flags,
                           OpenOut *out) noexcept nogil
# False: a READ of these flags would fill the page cache of a file that is passed through.
cdef bint passthrough_may_read(const Channel *channel, uint64_t node,
                               uint32_t read_flags) noexcept nogil
cdef int passthrough_release(Channel *channel, uint64_t handle) noexcept nogil
