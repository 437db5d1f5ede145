# cython: language_level=3
"""FUSE over io_uring: requests and replies without a system call each."""
from unionfs._channel cimport Channel

# Start a thread for each of the kernel's queues, up to where it may register; 0, or -errno with
# nothing left of them.
cdef int uring_prepare(Channel *channel) noexcept nogil
# Have them register: the reply to INIT has been sent.
cdef void uring_start(Channel *channel) noexcept nogil
# End them; returns when they have ended.
cdef void uring_stop(Channel *channel) noexcept nogil
# Give their memory back: nobody replies any more.
cdef void uring_free(Channel *channel) noexcept nogil
