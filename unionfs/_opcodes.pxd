# cython: language_level=3
"""How each request of the protocol is answered."""
from libc.stdint cimport int64_t

from unionfs._channel cimport Call

ctypedef int64_t (*Handler)(Call *call) noexcept nogil

cdef enum How:
    UNKNOWN = 0
    NATIVE = 1      # on the thread that read it, wherever it need not wait
    POOLED = 2      # always on the pool: it may take long
    DECLINED = 3    # a deliberate ENOSYS: the kernel does it itself, and does not ask again
    UNANSWERED = 4  # the kernel expects no reply

cdef struct Route:
    How how
    Handler handler
    size_t least    # bytes the body has at least
    int other       # where in the body a second node id stands, NO_OTHER_NODE or NO_NODE

cdef const Route *route(unsigned opcode) noexcept nogil
