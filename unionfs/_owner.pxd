# cython: language_level=3
"""Owner and mode of files: in their inode, or where the branch keeps them (_override.pxd).

Ids are those of the branches. A descriptor may be O_PATH.
"""
from libc.stdint cimport uint16_t, uint32_t

from unionfs._nodes cimport Table
from unionfs._operations cimport Op
from unionfs._sys cimport Stat

# statx(2) of the file behind a descriptor.
cdef int owner_stat(const Table *t, uint16_t branch, int fd, Stat *st) noexcept nogil

# The counterparts on disk of a caller's ids, for what he creates; the overflow id without one.
cdef void owner_of_new(const Table *t, uint32_t *uid, uint32_t *gid) noexcept nogil

# What a write, a truncation or a chown that clears set-id bits leaves of a mode, whoever did it.
cdef uint32_t owner_without_set_ids(uint32_t mode) noexcept nogil
# Whether such a change by this caller takes away the set-group-id bit of a file that its group may
# not execute as well: it does (since Linux 6.2) if the caller is neither in the group nor root.
cdef bint owner_loses_group(const Table *t, const Op *op, const Stat *st) noexcept nogil

# Is an owner or group to be kept that the daemon's user namespace has no id for?
cdef bint owner_is_unknown(const Table *t, const Stat *st) noexcept nogil

# The rest is about files of the upper.
# The type as which a file is stored.
cdef uint32_t owner_stored_type(const Table *t, uint32_t type_) noexcept nogil
# The permissions with which a file of that type and mode is to be created.
cdef uint32_t owner_first_mode(const Table *t, uint32_t mode) noexcept nogil
# chown(2), set-id bits included; NO_ID leaves an id alone.
cdef int owner_give(const Table *t, int fd, uint32_t uid, uint32_t gid) noexcept nogil
# chmod(2).
cdef int owner_chmod(const Table *t, int fd, uint32_t mode) noexcept nogil
# Where the upper keeps records: everything in *st in one, for a file that has just been created.
cdef int owner_record(const Table *t, int fd, const Stat *st) noexcept nogil
