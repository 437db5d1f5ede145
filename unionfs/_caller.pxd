# cython: language_level=3
"""What is known of the thread that asks, beyond the ids in its request."""
from libc.stdint cimport uint32_t

# /proc/PID/status as text, which the caller frees; NULL where it cannot be read.
cdef char *caller_status(uint32_t pid) noexcept nogil

# Whether the thread `pid`, which acts as user `uid` and group `gid`, is in a group or is root with
# CAP_FSETID: in_group_or_capable() of the kernel. Ids are those of the daemon's user namespace.
cdef bint caller_in_group(uint32_t uid, uint32_t gid, uint32_t pid, uint32_t group) noexcept nogil
