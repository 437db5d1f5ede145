# cython: language_level=3
"""Requests that wait until the slow path has prepared something. The layout is `_channel.Relay`."""
from libc.stdint cimport uint64_t

from unionfs._channel cimport Channel, Relay, Request
from unionfs._operations cimport Op

# Keeps a request until what the operation needs (`Op.prepare_*`) is prepared; -errno: not kept.
cdef int park(Request *request, const Op *op) noexcept nogil
cdef bint interrupt(Channel *channel, uint64_t unique) noexcept nogil
cdef void parking_leave(Channel *channel) noexcept nogil

cdef class Parking:
    # The Python face, and the owner of the relay. See _parking.pyi.
    cdef Relay *relay
