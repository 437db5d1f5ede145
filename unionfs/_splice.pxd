# cython: language_level=3
"""Replies that go from page cache to page cache without passing through memory of ours."""
from libc.stdint cimport int64_t, uint64_t

from unionfs._channel cimport Channel, Pipes

cdef enum:
    # Below this a copy is as quick as the four calls.
    SPLICE_LEAST = 32768

# Whether that many bytes of a file can go through them; makes them if need be.
cdef bint pipes_take(Pipes *pipes, size_t size) noexcept nogil
# Closes them, with what is in them.
cdef void pipes_close(Pipes *pipes) noexcept nogil
# Answers a request with the `size` bytes that are in `pipes.data`. After an error nothing has been
# answered, and the pipes are closed.
cdef int splice_reply(Channel *channel, Pipes *pipes, uint64_t unique, size_t size) noexcept nogil
