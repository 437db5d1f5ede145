# cython: language_level=3
"""Owner and mode of files; see the declarations."""
from libc.errno cimport EINVAL, EPERM
from libc.stdint cimport uint16_t, uint32_t

from unionfs._caller cimport caller_in_group
from unionfs._idmap cimport NO_ID, OVERFLOW_ID, IdMap, id_show_owner, id_store
from unionfs._nodes cimport Table
from unionfs._operations cimport Op
from unionfs._override cimport (
    Override,
    override_mode,
    override_show,
    override_trusts,
    override_write,
)
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    S_ISGID,
    S_ISUID,
    S_IXGRP,
    Stat,
    sys_chmodfd,
    sys_fchownat,
    sys_getxattr,
    sys_removexattr,
    sys_statx,
)
from unionfs._unmapped cimport unmapped_show


cdef int owner_stat(const Table *t, uint16_t branch, int fd, Stat *st) noexcept nogil:
    cdef int r = sys_statx(fd, b"", AT_EMPTY_PATH, st)
    if r == 0:
        override_show(&t.branch[branch].override, fd, st)
    return r


# --- ids -----------------------------------------------------------------------------------

cdef inline void store_new(const IdMap *map_, uint32_t daemon, uint32_t *id) noexcept nogil:
    id[0] = id_store(map_, id[0])
    if id[0] == NO_ID:
        # The kernel's idmapped mounts refuse this (inode_fsuidgid_has_mapping). But podman, which
        # has no id inside, makes /etc/mtab in a mapped container before it starts it.
        id[0] = daemon if map_.squash else OVERFLOW_ID


cdef void owner_of_new(const Table *t, uint32_t *uid, uint32_t *gid) noexcept nogil:
    store_new(&t.uids, t.uid, uid)
    store_new(&t.gids, t.gid, gid)


cdef bint owner_is_unknown(const Table *t, const Stat *st) noexcept nogil:
    return (st.stx_uid == NO_ID and not t.uids.squash) or (
        st.stx_gid == NO_ID and not t.gids.squash)


# --- the inode's ---------------------------------------------------------------------------

cdef int give_inode(const Table *t, int fd, uint32_t uid, uint32_t gid) noexcept nogil:
    cdef int r
    if t.uids.squash != t.gids.squash and uid != NO_ID and gid != NO_ID:
        # Only one of the two may be out of reach without anybody seeing it.
        r = give_inode(t, fd, uid, NO_ID)
        return r if r < 0 else give_inode(t, fd, NO_ID, gid)
    r = sys_fchownat(fd, b"", uid, gid)
    if r == -EPERM or r == -EINVAL:     # EINVAL: an id that this user namespace does not have
        if (uid == NO_ID or t.uids.squash) and (gid == NO_ID or t.gids.squash):
            return 0            # what is shown is another owner anyhow
        return -EPERM
    return r


cdef uint32_t owner_without_set_ids(uint32_t mode) noexcept nogil:
    mode &= ~S_ISUID
    if mode & S_IXGRP:
        mode &= ~S_ISGID
    return mode


cdef bint owner_loses_group(const Table *t, const Op *op, const Stat *st) noexcept nogil:
    """See the declaration. The kernel asks about the group that it sees (fs/attr.c,
    setattr_should_drop_sgid()), and FUSE does not tell what it found."""
    if (st.stx_mode & S_IFMT) == S_IFDIR or not st.stx_mode & S_ISGID or st.stx_mode & S_IXGRP:
        return False
    return not caller_in_group(op.uid, op.gid, op.pid, id_show_owner(&t.gids, st.stx_gid))


# --- the record's --------------------------------------------------------------------------

cdef uint32_t owner_stored_type(const Table *t, uint32_t type_) noexcept nogil:
    if t.branch[0].override.name != NULL and type_ in (S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK):
        return S_IFREG
    return type_


cdef uint32_t owner_first_mode(const Table *t, uint32_t mode) noexcept nogil:
    # Set-id bits come last: a chown would clear them.
    return override_mode(mode) if t.branch[0].override.name != NULL else mode & 0o1777


cdef int set_inode(const Table *t, int fd, const Stat *st) noexcept nogil:
    """For a file whose record could not be written, or would not count: what the daemon may do is
    done to the file itself."""
    cdef int r = give_inode(t, fd, st.stx_uid, st.stx_gid)
    if (st.stx_mode & S_IFMT) == S_IFLNK:
        # Who owns a link matters to nobody but programs that restore it with everything else.
        return 0 if r == -EPERM else r
    return r if r < 0 else sys_chmodfd(fd, st.stx_mode & 0o7777)


cdef int owner_record(const Table *t, int fd, const Stat *st) noexcept nogil:
    cdef const Override *o = &t.branch[0].override
    cdef uint32_t type_ = st.stx_mode & S_IFMT
    cdef Stat stored
    cdef int r
    if o.name == NULL:
        return 0
    r = sys_statx(fd, b"", AT_EMPTY_PATH, &stored)
    if r == 0:
        unmapped_show(o.unmapped, fd, b"", &stored)
    if r == 0 and not override_trusts(o, &stored):
        r = set_inode(t, fd, st)
        if r == 0 and sys_getxattr(fd, o.name, NULL, 0) >= 0:
            r = override_write(o, fd, st)   # which may have said otherwise
        return r
    if r == 0:
        r = override_write(o, fd, st)
    if r == -EPERM and type_ != S_IFREG and type_ != S_IFDIR:
        return set_inode(t, fd, st)
    if r < 0 or type_ == S_IFLNK:
        return r
    return sys_chmodfd(fd, override_mode(st.stx_mode))


cdef int give_record(const Table *t, int fd, uint32_t uid, uint32_t gid) noexcept nogil:
    """What else chown(2) does is to be done here too: set-id bits and capabilities go."""
    cdef Stat st
    cdef int r = owner_stat(t, 0, fd, &st)
    if r < 0:
        return r
    if uid != NO_ID:
        st.stx_uid = uid
    if gid != NO_ID:
        st.stx_gid = gid
    if (st.stx_mode & S_IFMT) != S_IFDIR:
        st.stx_mode = <uint16_t>owner_without_set_ids(st.stx_mode)
    r = owner_record(t, fd, &st)
    if r == 0 and sys_getxattr(fd, b"security.capability", NULL, 0) > 0:
        r = sys_removexattr(fd, b"security.capability")
    return r


cdef int owner_give(const Table *t, int fd, uint32_t uid, uint32_t gid) noexcept nogil:
    if t.branch[0].override.name != NULL:
        return give_record(t, fd, uid, gid)
    return give_inode(t, fd, uid, gid)


cdef int owner_chmod(const Table *t, int fd, uint32_t mode) noexcept nogil:
    cdef Stat st
    cdef int r
    if t.branch[0].override.name == NULL:
        return sys_chmodfd(fd, mode)
    r = owner_stat(t, 0, fd, &st)
    if r < 0:
        return r
    st.stx_mode = <uint16_t>((st.stx_mode & S_IFMT) | mode)
    return owner_record(t, fd, &st)
