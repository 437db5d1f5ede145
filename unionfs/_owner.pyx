# cython: language_level=3
"""Giving a file of the upper its owner; see the declarations."""
from libc.errno cimport EINVAL, EOVERFLOW, EPERM
from libc.stdint cimport uint32_t

from unionfs._idmap cimport NO_ID, IdMap, id_store
from unionfs._nodes cimport Table
from unionfs._sys cimport sys_fchownat


cdef inline int store_new(const IdMap *map_, uint32_t daemon, uint32_t *id) noexcept nogil:
    id[0] = id_store(map_, id[0])
    if id[0] == NO_ID:
        if not map_.squash:
            return -EOVERFLOW   # as on the kernel's idmapped mounts (inode_fsuidgid_has_mapping)
        id[0] = daemon
    return 0


cdef int owner_of_new(const Table *t, uint32_t *uid, uint32_t *gid) noexcept nogil:
    cdef int r = store_new(&t.uids, t.uid, uid)
    return r if r < 0 else store_new(&t.gids, t.gid, gid)


cdef int owner_give(const Table *t, int fd, uint32_t uid, uint32_t gid) noexcept nogil:
    cdef int r
    if t.uids.squash == t.gids.squash or uid == NO_ID or gid == NO_ID:
        r = sys_fchownat(fd, b"", uid, gid)
    else:
        # Only one of the two may be out of reach without anybody seeing it.
        r = owner_give(t, fd, uid, NO_ID)
        return r if r < 0 else owner_give(t, fd, NO_ID, gid)
    if r == -EPERM or r == -EINVAL:     # EINVAL: an id that this user namespace does not have
        if (uid == NO_ID or t.uids.squash) and (gid == NO_ID or t.gids.squash):
            return 0            # what is shown is another owner anyhow
        return -EPERM
    return r
