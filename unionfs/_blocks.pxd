# cython: language_level=3
"""Copies of data from one file to another."""
from libc.stdint cimport uint64_t

# Copies [0, length) of a file into an empty one, hole for hole where it may be sparse: 0 or -errno.
cdef int blocks_copy(int from_fd, int to_fd, uint64_t length, bint sparse) noexcept nogil
