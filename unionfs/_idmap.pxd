# cython: language_level=3
"""Ids of users and groups between the branches and the mount.

A range says that the ids from `disk` on, as branches hold them, are shown on the mount as those
from `shown` on. An empty map leaves every id alone; in any other an id without a range has no
counterpart, as on the kernel's idmapped mounts (Documentation/filesystems/idmappings.rst).
"""
from libc.stdint cimport int64_t, uint32_t

cdef enum:
    # (uid_t)-1: the kernel takes it for an id that it does not know. Nobody owns the file then, and
    # stat(2) shows the overflow id to everyone.
    NO_ID = 0xFFFFFFFF
    # What is written for a caller without a counterpart on disk: DEFAULT_OVERFLOWUID of
    # <linux/highuid.h>, as fuse-overlayfs does.
    OVERFLOW_ID = 65534
    # struct vfs_ns_cap_data of <linux/capability.h>: a capability with the id of its root user.
    CAPABILITY_SIZE = 24

cdef struct IdRange:
    uint32_t disk
    uint32_t shown
    uint32_t count

cdef struct IdMap:
    IdRange *ranges         # NULL: every id stays as it is
    uint32_t count
    bint squash             # every file is shown as owned by `squash_to`
    uint32_t squash_to

# The shown counterpart of an id on disk, or NO_ID; `squash` is not looked at.
cdef uint32_t id_show(const IdMap *map_, uint32_t id) noexcept nogil
# The counterpart on disk of an id on the mount, or NO_ID.
cdef uint32_t id_store(const IdMap *map_, uint32_t id) noexcept nogil
# The owner a file is shown with.
cdef uint32_t id_show_owner(const IdMap *map_, uint32_t id) noexcept nogil

# Values of attributes that hold ids, changed in place; the new length, or -errno.
cdef int64_t acl_show(const IdMap *uids, const IdMap *gids, char *value,
                      int64_t size) noexcept nogil
cdef int64_t acl_store(const IdMap *uids, const IdMap *gids, char *value,
                       int64_t size) noexcept nogil
# Of an ACL as a user namespace reads it: does it name an id that the namespace has not?
cdef bint acl_names_unknown(const char *value, int64_t size) noexcept nogil
# Leaves out the entries about such ids, for a file that cannot have them. -EOVERFLOW if one of them
# denies what is left gives.
cdef int64_t acl_forget(char *value, int64_t size) noexcept nogil
# These may grow or shrink; the value has room for CAPABILITY_SIZE.
cdef int64_t capability_show(const IdMap *uids, char *value, int64_t size) noexcept nogil
cdef int64_t capability_store(const IdMap *uids, char *value, int64_t size) noexcept nogil
