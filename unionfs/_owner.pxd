# cython: language_level=3
"""Giving a file of the upper its owner. Ids are those of the branches."""
from libc.stdint cimport uint32_t

from unionfs._nodes cimport Table

# The counterparts on disk of a caller's ids, for what he creates; -EOVERFLOW without one.
cdef int owner_of_new(const Table *t, uint32_t *uid, uint32_t *gid) noexcept nogil
# chown(2) of the file behind fd, which may be O_PATH; NO_ID leaves an id alone.
cdef int owner_give(const Table *t, int fd, uint32_t uid, uint32_t gid) noexcept nogil
