# cython: language_level=3
"""Large sequential reads that leave no second copy of the data in the page cache."""
from libc.stdint cimport uint64_t

from unionfs._nodes cimport Node, Table

cdef enum:
    # Bytes. Who reads less at once is not one for whom the kernel reads ahead.
    STREAM_LEAST = 131072

# To be told of each request for so much, before it is served: drops from the branch's page cache
# what earlier ones of the same stream have read.
cdef void drop_behind(Table *t, Node *n, int fd, uint64_t offset) noexcept nogil
