# cython: language_level=3
"""An elastic pool of threads for requests that may take long. The layout is `_channel.Pool`."""
from unionfs._channel cimport Channel, Pool, Request

cdef void pool_init(Pool *pool) noexcept nogil
cdef void pool_submit(Channel *channel, Request *request, char *reply) noexcept nogil
cdef void pool_drain(Pool *pool) noexcept nogil
