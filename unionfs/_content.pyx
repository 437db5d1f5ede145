# cython: language_level=3
"""Data and attributes of one node.

I/O goes by node, not by what was opened when: after a copy-up every old descriptor and mapping sees
the copy. Only where OPEN is kept a handle holds a descriptor of its own, with the rights of the
moment of opening, and even that gives way once its file has been copied up.
"""
from libc.errno cimport EBADF, EINVAL, EISDIR, EPERM, ESTALE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from unionfs._backing cimport backing_part
from unionfs._copy cimport copy_sync
from unionfs._descriptors cimport ref_drop
from unionfs._directories cimport dir_ref
from unionfs._dropbehind cimport STREAM_LEAST, drop_behind
from unionfs._guard cimport guard_attributes, guard_change
from unionfs._handles cimport handle_find_locked, handle_new
from unionfs._identity cimport keep_origin
from unionfs._idmap cimport CAPABILITY_SIZE, NO_ID, id_store
from unionfs._lookup cimport dir_look_again, need_upper
from unionfs._nodes cimport Handle, Node, Ref, Table
from unionfs._operations cimport (
    SET_ATIME,
    SET_ATIME_NOW,
    SET_BY_FD,
    SET_GID,
    SET_KILL_SUIDGID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_NOW,
    SET_SIZE,
    SET_UID,
    WHOLE_SIZE,
    WOULD_WAIT,
    WRITE_APPEND,
    WRITE_KILL_SUIDGID,
    WRITE_LATE,
    WRITE_MAPPABLE,
    Op,
    SetAttr,
)
from unionfs._owner cimport (
    owner_chmod,
    owner_give,
    owner_loses_group,
    owner_stat,
    owner_without_set_ids,
)
from unionfs._reach cimport node_data_ref, node_open, node_path_ref, node_stat
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    O_ACCMODE,
    O_APPEND,
    O_NOATIME,
    O_NONBLOCK,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
    SEEK_END,
    S_IFDIR,
    S_IFLNK,
    S_IFREG,
    S_ISGID,
    S_ISUID,
    UTIME_NOW,
    UTIME_OMIT,
    Stat,
    TimeSpec,
    mutex_lock,
    mutex_unlock,
    rwlock_rdlock,
    rwlock_unlock,
    rwlock_wrlock,
    sys_chmodfd,
    sys_close,
    sys_copy_file_range,
    sys_dup,
    sys_fallocate,
    sys_fchownat,
    sys_fdatasync,
    sys_fsync,
    sys_ftruncate,
    sys_getxattr,
    sys_lseek,
    sys_pread,
    sys_pwrite,
    sys_readlinkat,
    sys_reopen,
    sys_set_flags,
    sys_setxattr,
    sys_splice,
    sys_statx,
    sys_sync_directory,
    sys_truncate,
    sys_utimens,
)

cdef enum:
    PAGE_LEAST = 4096           # bytes of the smallest page: fewer never make a page whole
    COPY_AT_ONCE = 524288       # bytes that copy_file_range(2) copies on a thread that may not wait

cdef struct Privileges:
    int64_t length          # of the capability; not above 0: there is none
    uint32_t mode           # 0: nothing of it is at stake
    char capability[CAPABILITY_SIZE]


# --- opening --------------------------------------------------------------------------------

cdef int data_ref(Table *t, Node *n, uint64_t handle, bint write, Ref *ref) noexcept nogil:
    """The descriptor for I/O: the handle's while it is of the right file, else the node's."""
    cdef Handle *h = NULL
    ref.fd = -1
    if n.type != S_IFREG:
        return -EISDIR if n.type == S_IFDIR else -EINVAL
    if handle:
        mutex_lock(&t.lock)
        h = handle_find_locked(t, handle)
        if h != NULL and h.node == n.id and h.branch == n.branch and (h.writable or not write):
            # The kernel sends RELEASE only after the last request that names the handle.
            ref.fd = h.fd
            ref.cached = NULL
            ref.own = False
        mutex_unlock(&t.lock)
        if h == NULL:
            return -EBADF
        if ref.fd >= 0:
            return 0
    return node_data_ref(t, n, write, ref)


cdef int content_open(Table *t, Op *op, Node *n, uint32_t flags, uint64_t *handle) noexcept nogil:
    """open(2) of a known node, with the rights of this moment."""
    cdef bint write = (flags & O_ACCMODE) != O_RDONLY
    cdef Ref ref
    cdef uint32_t seq = 0
    cdef int r = 0, fd
    if n.type != S_IFREG:
        return -EISDIR if n.type == S_IFDIR else -EINVAL
    if n.parted:
        return -ESTALE
    if write or flags & O_TRUNC:
        r = guard_change(n)
        if r == 0:
            r = backing_part(t, op, n)
        if r == 0:
            r = need_upper(t, op, n, 0 if flags & O_TRUNC else WHOLE_SIZE)
    if r != 0:
        return r
    r = node_data_ref(t, n, write or (flags & O_TRUNC) != 0, &ref)
    if r == -EPERM and flags & O_APPEND and not flags & O_TRUNC:
        fd = node_open(t, n, O_WRONLY | O_APPEND | O_NONBLOCK, &seq)
        if fd < 0:
            return fd
        sys_close(fd)           # append_ref() opens it anew for each write
        r = node_data_ref(t, n, False, &ref)
    if r < 0:
        return r
    if flags & O_TRUNC:
        r = sys_ftruncate(ref.fd, 0)
    fd = sys_dup(ref.fd)
    if r == 0 and fd < 0:
        r = fd
    if (flags & O_ACCMODE) == O_RDWR and not t.passthrough:
        n.mappable = True       # with the pages that other descriptors have filled
    if r == 0:
        r = handle_new(t, n, fd, ref.cached == NULL or ref.cached.writable, handle)
    if r < 0 and fd >= 0:
        sys_close(fd)
    ref_drop(t, &ref)
    return r


# --- attributes ----------------------------------------------------------------------------

cdef int kill_set_ids(const Table *t, const Op *op, int fd) noexcept nogil:
    """What a write, a truncation and the like by another than root do to set-id bits."""
    cdef Stat st
    cdef uint32_t mode
    cdef int r = owner_stat(t, 0, fd, &st)
    if r < 0:
        return r
    mode = owner_without_set_ids(st.stx_mode)
    if owner_loses_group(t, op, &st):
        mode &= ~<uint32_t>S_ISGID
    return owner_chmod(t, fd, mode & 0o7777) if mode != st.stx_mode else 0


cdef int set_times(int fd, const SetAttr *wanted) noexcept nogil:
    cdef TimeSpec times[2]
    if not wanted.valid & (SET_ATIME | SET_MTIME | SET_ATIME_NOW | SET_MTIME_NOW):
        return 0
    times[0].tv_nsec = UTIME_OMIT
    times[1].tv_nsec = UTIME_OMIT
    if wanted.valid & SET_ATIME:
        times[0] = wanted.atime
    if wanted.valid & SET_MTIME:
        times[1] = wanted.mtime
    if wanted.valid & SET_ATIME_NOW:
        times[0].tv_nsec = UTIME_NOW
    if wanted.valid & SET_MTIME_NOW:
        times[1].tv_nsec = UTIME_NOW
    return sys_utimens(fd, b"", times)


cdef int set_size(Table *t, const Op *op, Node *n, uint64_t handle, const SetAttr *wanted,
                  bint changes) noexcept nogil:
    cdef Ref ref
    cdef int r = data_ref(t, n, handle, True, &ref)
    if r < 0:
        return r
    # Where the size stays truncate(2) may leave mtime alone, ftruncate(2) never does. open(2) with
    # O_TRUNC, which does not either, looks like truncate(2) to 0.
    if changes or wanted.valid & SET_BY_FD or wanted.size == 0:
        r = sys_ftruncate(ref.fd, <int64_t>wanted.size)
    else:
        r = sys_truncate(ref.fd, <int64_t>wanted.size)
    if r == 0 and wanted.valid & SET_KILL_SUIDGID:
        r = kill_set_ids(t, op, ref.fd)
    ref_drop(t, &ref)
    return r


cdef int wanted_owner(const Table *t, const SetAttr *wanted, uint32_t *uid,
                      uint32_t *gid) noexcept nogil:
    """The ids on disk, NO_ID for one that stays."""
    uid[0] = gid[0] = NO_ID
    if wanted.valid & SET_UID:
        uid[0] = id_store(&t.uids, wanted.uid)
        if uid[0] == NO_ID and not t.uids.squash:
            return -EINVAL      # as chown(2) says of an id that a user namespace does not have
    if wanted.valid & SET_GID:
        gid[0] = id_store(&t.gids, wanted.gid)
        if gid[0] == NO_ID and not t.gids.squash:
            return -EINVAL
    return 0


cdef int set_owner(const Table *t, const Op *op, int fd, uint32_t uid, uint32_t gid) noexcept nogil:
    """chown(2), that of no id included, which still moves ctime and clears set-id bits: so asks the
    kernel for them to go before it writes by itself (file_remove_privs(), with passthrough)."""
    cdef Stat st
    cdef bint loses = False
    cdef int r = 0
    if op.uid != 0:
        r = owner_stat(t, 0, fd, &st)
        loses = r == 0 and owner_loses_group(t, op, &st)
    if r < 0:
        return r
    if uid != NO_ID or gid != NO_ID or t.branch[0].override.name != NULL:
        r = owner_give(t, fd, uid, gid)
    else:
        r = sys_fchownat(fd, b"", NO_ID, NO_ID)
    if r == 0 and loses:
        r = owner_chmod(t, fd, owner_without_set_ids(st.stx_mode) & 0o7777 & ~<uint32_t>S_ISGID)
    return r


cdef int content_setattr(Table *t, Op *op, Node *n, uint64_t handle, const SetAttr *wanted,
                         Stat *st) noexcept nogil:
    """chmod(2), chown(2), truncate(2) and utimensat(2); what is set first cannot undo the rest."""
    cdef Ref ref
    cdef uint32_t uid, gid
    cdef bint changes = op.prepared != 0
    cdef bint privileged = n.type == S_IFREG and (
        wanted.valid == 0 or wanted.valid & (SET_MODE | SET_UID | SET_GID | SET_KILL_SUIDGID))
    cdef int r = wanted_owner(t, wanted, &uid, &gid)
    if wanted.valid & SET_SIZE and wanted.size > WHOLE_SIZE:
        r = -EINVAL
    if r < 0:
        return r
    r = guard_attributes(n, wanted)
    if r == 0 and wanted.valid & SET_SIZE:
        r = backing_part(t, op, n)
    if wanted.valid & SET_SIZE and n.branch != 0 and r == 0:
        # A copy-up takes no more than what is to be left: afterwards the sizes are the same.
        r = node_stat(t, n, st)
        changes = r == 0 and st.stx_size != wanted.size
    if r == 0:
        r = need_upper(t, op, n, wanted.size if wanted.valid & SET_SIZE else <uint64_t>WHOLE_SIZE)
    if r != 0:
        return r
    if wanted.valid & SET_SIZE:
        r = set_size(t, op, n, handle, wanted, changes)
        if r < 0:
            return r
    r = node_path_ref(t, n, &ref)
    if r < 0:
        return r
    if privileged:
        rwlock_wrlock(&t.privileges)
    if wanted.valid & (SET_UID | SET_GID) or not wanted.valid & ~<uint32_t>SET_KILL_SUIDGID:
        r = set_owner(t, op, ref.fd, uid, gid)
    if r == 0 and wanted.valid & SET_KILL_SUIDGID and not wanted.valid & SET_SIZE:
        r = kill_set_ids(t, op, ref.fd)
    if r == 0 and wanted.valid & SET_MODE:
        if t.branch[0].override.name == NULL:
            r = keep_origin(t, n, ref.fd, wanted.mode)
        if r == 0:
            mutex_lock(&t.opening)      # what it is given back is what it had
            r = owner_chmod(t, ref.fd, wanted.mode & 0o7777)
            mutex_unlock(&t.opening)
    if privileged:
        rwlock_unlock(&t.privileges)
    if r == 0 and wanted.valid & SET_MODE and n.dir != NULL and n.dir.unread:
        r = dir_look_again(t, n)
    if r == 0:
        r = set_times(ref.fd, wanted)
    ref_drop(t, &ref)
    return r if r < 0 else node_stat(t, n, st)


cdef int content_readlink(Table *t, Node *n, char *buffer, size_t size) noexcept nogil:
    cdef Ref ref
    cdef int r
    if n.type != S_IFLNK:
        return -EINVAL
    r = node_path_ref(t, n, &ref)
    if r < 0:
        return r
    r = <int>sys_readlinkat(ref.fd, b"", buffer, size)
    ref_drop(t, &ref)
    return r


# --- data ----------------------------------------------------------------------------------

cdef void spare_atime(Table *t, uint32_t flags, Ref *ref) noexcept nogil:
    """Reading is to leave the time of access alone, if the reader or the mount asks for that. Where
    the daemon may not have it so (O_NOATIME is the owner's and root's, open(2)) it moves."""
    cdef int fd
    if t.noatime:
        sys_set_flags(ref.fd, O_NOATIME | O_NONBLOCK)
    elif flags & O_NOATIME:
        fd = sys_reopen(ref.fd, O_RDONLY | O_NOATIME | O_NONBLOCK)
        if fd >= 0:
            ref_drop(t, ref)
            ref.fd = fd
            ref.own = True


cdef int64_t splice_all(int fd, int pipe, size_t size, uint64_t offset) noexcept nogil:
    """As pread(2), less only at the end of the file: what is short says that this is the end."""
    cdef int64_t at = <int64_t>offset, end = at + <int64_t>size, r
    while at < end:
        r = sys_splice(fd, &at, pipe, <size_t>(end - at))
        if r < 0:
            return r
        if r == 0:
            break
    return at - <int64_t>offset


cdef int64_t content_read(Table *t, Node *n, uint64_t handle, char *buffer, int pipe, size_t size,
                          uint64_t offset, uint32_t flags) noexcept nogil:
    cdef Ref ref
    cdef int64_t r = data_ref(t, n, handle, False, &ref)
    if not n.cached or not n.mappable:      # what all have would be written by all threads
        n.cached = n.mappable = True
    if r == 0:
        if n.branch == 0:
            spare_atime(t, flags, &ref)
        if size >= STREAM_LEAST:
            drop_behind(t, n, ref.fd, offset)
        if pipe >= 0:
            r = splice_all(ref.fd, pipe, size, offset)
        else:
            r = sys_pread(ref.fd, buffer, size, <int64_t>offset)
        ref_drop(t, &ref)
    return r


cdef int append_ref(Table *t, Node *n, uint64_t offset, Ref *ref) noexcept nogil:
    """A descriptor for what data_ref() was refused: an append-only file of the upper lets itself be
    written by O_APPEND alone, and then at its end whatever the offset."""
    cdef Stat st
    cdef uint32_t seq = 0
    cdef int r, fd = node_open(t, n, O_WRONLY | O_APPEND | O_NONBLOCK, &seq)
    if fd < 0:
        return fd
    r = sys_statx(fd, b"", AT_EMPTY_PATH, &st)
    if r == 0 and st.stx_size != offset:
        r = -EPERM
    if r < 0:
        sys_close(fd)
        return r
    ref.fd = fd
    ref.cached = NULL
    ref.own = True
    return 0


cdef bint has_privileges(Table *t, Node *n, int fd, Privileges *p) noexcept nogil:
    """What pwrite(2) would take from a file (file_remove_privs()), read into `p`."""
    cdef Stat st
    p.length = 0
    p.mode = 0
    if not n.bare:
        p.length = sys_getxattr(fd, b"security.capability", p.capability, sizeof(p.capability))
    # Root without a namespace has CAP_FSETID, and the bits stay.
    if not t.trusted and sys_statx(fd, b"", AT_EMPTY_PATH, &st) == 0:
        if st.stx_mode & (S_ISUID | S_ISGID):
            p.mode = st.stx_mode & 0o7777
    return p.length > 0 or p.mode != 0


cdef int64_t late_write(Table *t, Node *n, int fd, const char *data, size_t size,
                        uint64_t offset) noexcept nogil:
    """pwrite(2) that leaves the file its capability and its set-id bits.

    A store through a mapping takes neither, and for write(2) the kernel has taken them before the
    data went into its pages: to do so when the pages come would take what was set in between. What
    the daemon may not give back stays lost, as does all of it in a crash in between: the safe side.
    """
    cdef Privileges p
    cdef int64_t r
    cdef int kept = 0
    rwlock_rdlock(&t.privileges)
    if not has_privileges(t, n, fd, &p):
        r = sys_pwrite(fd, data, size, <int64_t>offset)
        rwlock_unlock(&t.privileges)
        return r
    rwlock_unlock(&t.privileges)
    rwlock_wrlock(&t.privileges)
    has_privileges(t, n, fd, &p)        # it may have lost them just now
    r = sys_pwrite(fd, data, size, <int64_t>offset)
    if p.mode:
        kept = sys_chmodfd(fd, p.mode)
    if p.length > 0 and (kept == 0 or kept == -EPERM):
        kept = sys_setxattr(fd, b"security.capability", p.capability, <size_t>p.length, 0)
    rwlock_unlock(&t.privileges)
    return kept if r >= 0 and kept < 0 and kept != -EPERM else r


cdef int64_t content_write(Table *t, Op *op, Node *n, uint64_t handle, const char *data,
                           size_t size, uint64_t offset, uint32_t flags) noexcept nogil:
    cdef Ref ref
    cdef int64_t r = need_upper(t, op, n, WHOLE_SIZE)
    if r != 0:
        return r
    r = data_ref(t, n, handle, True, &ref)
    if r == -EPERM and flags & WRITE_APPEND:
        r = append_ref(t, n, offset, &ref)
    if r < 0:
        return r
    if size >= PAGE_LEAST and not flags & WRITE_LATE:
        n.cached = True
    if flags & WRITE_MAPPABLE:
        n.mappable = True
    if flags & WRITE_LATE:
        r = late_write(t, n, ref.fd, data, size, offset)
    else:
        r = sys_pwrite(ref.fd, data, size, <int64_t>offset)
    if r > 0 and flags & WRITE_KILL_SUIDGID:
        kill_set_ids(t, op, ref.fd)
    ref_drop(t, &ref)
    return r


cdef int content_fsync(Table *t, Op *op, Node *n, uint64_t handle, bint datasync) noexcept nogil:
    """fsync(2); what is only in a lower is safe already, and `volatile` promises nothing.

    The first of a file is never only of its data: see copy_sync().
    """
    cdef Ref ref
    cdef int r
    if n.branch != 0 or t.volatile_:
        return 0
    if not op.may_wait:
        return WOULD_WAIT
    if n.type == S_IFDIR:
        r = dir_ref(t, n, 0, &ref)
        if r < 0:
            return r
        # Of the name, too: a directory that was copied up has it since then only.
        r = sys_sync_directory(ref.fd)
        ref_drop(t, &ref)
        return r
    r = data_ref(t, n, handle, False, &ref)
    if r < 0:
        return 0 if r == -EINVAL else r
    if not n.synced:
        r = copy_sync(t, n, ref.fd)
    else:
        r = sys_fdatasync(ref.fd) if datasync else sys_fsync(ref.fd)
    ref_drop(t, &ref)
    return r


cdef int64_t content_lseek(Table *t, Node *n, uint64_t handle, int64_t offset,
                           int whence) noexcept nogil:
    cdef Ref ref
    cdef int64_t r = data_ref(t, n, handle, False, &ref)
    if r == 0:
        r = sys_lseek(ref.fd, offset, whence)
        ref_drop(t, &ref)
    return r


cdef int content_fallocate(Table *t, Op *op, Node *n, uint64_t handle, int mode, uint64_t offset,
                           uint64_t length) noexcept nogil:
    cdef Ref ref
    cdef int r = need_upper(t, op, n, WHOLE_SIZE)
    if r != 0:
        return r
    r = data_ref(t, n, handle, True, &ref)
    if r < 0:
        return r
    r = sys_fallocate(ref.fd, mode, <int64_t>offset, <int64_t>length)
    if r == 0 and op.uid != 0:
        r = kill_set_ids(t, op, ref.fd)    # FALLOCATE has no flag that says so
    ref_drop(t, &ref)
    return r


cdef int64_t content_copy_range(Table *t, Op *op, Node *source, uint64_t source_handle,
                                uint64_t source_offset, Node *n, uint64_t handle,
                                uint64_t offset, uint64_t length) noexcept nogil:
    """copy_file_range(2): a clone where the branches' filesystem can.

    Little from a lower is copied at once: waking a pool thread takes longer. From the upper it is
    not: where files can be cloned, what is dirty of the source is written out first.
    """
    cdef Ref from_ref, to_ref
    cdef int64_t from_at = <int64_t>source_offset, to_at = <int64_t>offset
    cdef int64_t r = need_upper(t, op, n, WHOLE_SIZE)
    if r != 0:
        return r
    r = data_ref(t, source, source_handle, False, &from_ref)
    if r < 0:
        return r
    if not op.may_wait:
        if source.branch == 0 or (
                length > COPY_AT_ONCE
                and sys_lseek(from_ref.fd, 0, SEEK_END) - from_at > COPY_AT_ONCE):
            ref_drop(t, &from_ref)
            return WOULD_WAIT
        length = min(length, <uint64_t>COPY_AT_ONCE)
    r = data_ref(t, n, handle, True, &to_ref)
    if r == 0:
        r = sys_copy_file_range(from_ref.fd, &from_at, to_ref.fd, &to_at, <size_t>length)
        if r > 0 and op.uid != 0:
            kill_set_ids(t, op, to_ref.fd)
        ref_drop(t, &to_ref)
    ref_drop(t, &from_ref)
    return r
