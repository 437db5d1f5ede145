# cython: language_level=3
"""An elastic pool of threads for requests that may take long. The layout is `_channel.Pool`."""
from unionfs._channel cimport Channel, Pool, Request

cdef void pool_init(Pool *pool) noexcept nogil
cdef void pool_submit(Channel *channel, Request *request, char *reply) noexcept nogil
# Around what waits for the kernel: this thread does not count until it is back, so that the kernel,
# whose requests may need the pool, never waits for the pool in turn. False on a thread that is
# not the pool's: one that serves must not wait so.
cdef bint pool_leave(Channel *channel) noexcept nogil
cdef void pool_enter(Channel *channel) noexcept nogil
cdef void pool_drain(Pool *pool) noexcept nogil
