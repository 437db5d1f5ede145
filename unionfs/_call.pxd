# cython: language_level=3
"""What every handler needs: taking a request apart, and putting the common replies together."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from unionfs._channel cimport Call, Channel
from unionfs._sys cimport Stat
from unionfs._wire cimport EntryOut

cdef const char *take_string(Call *call, size_t *at, size_t *length) noexcept nogil
cdef const char *take_name(Call *call, size_t *at, size_t *length, int *error) noexcept nogil
cdef const char *take_xattr_name(Call *call, size_t *at) noexcept nogil
cdef int64_t done(int64_t result, int64_t reply) noexcept nogil
cdef void keep_attributes(const Channel *channel, uint64_t node, uint64_t *seconds,
                          uint32_t *nanoseconds) noexcept nogil
cdef void fill_entry(const Channel *channel, EntryOut *out, uint64_t node,
                     const Stat *st) noexcept nogil
cdef int64_t entry_reply(Call *call, int64_t result, uint64_t node,
                         const Stat *st) noexcept nogil
cdef int64_t attr_reply(Call *call, int64_t result, const Stat *st) noexcept nogil
