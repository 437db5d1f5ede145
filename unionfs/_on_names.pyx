# cython: language_level=3, boundscheck=False, wraparound=False
"""Requests about names and attributes."""
from libc.errno cimport EINVAL, ENOENT
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from unionfs._call cimport attr_reply, done, entry_reply, keep_attributes, take_name, take_string
from unionfs._channel cimport RESULT_SILENT, RESULT_WAIT, Call
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
    SetAttr,
    tree_forget,
    tree_getattr,
    tree_link,
    tree_lookup,
    tree_mkdir,
    tree_mknod,
    tree_readlink,
    tree_rename,
    tree_rmdir,
    tree_setattr,
    tree_statfs,
    tree_symlink,
    tree_take_stores,
    tree_unlink,
)
from unionfs._on_seek cimport TO_THE_END, write_out
from unionfs._sys cimport Stat, StatFs, sys_makedev
from unionfs._wire cimport (
    ATTR_FH,
    STATX_BASIC_AND_BTIME,
    BatchForgetIn,
    ForgetIn,
    ForgetOne,
    LinkIn,
    MkdirIn,
    MknodIn,
    Rename2In,
    RenameIn,
    SetattrIn,
    StatfsOut,
    StatxOut,
)

cdef enum:
    PATH_LENGTH = 4096


cdef int64_t on_lookup(Call *call) noexcept nogil:
    cdef size_t at = 0
    cdef size_t length
    cdef int error
    cdef uint64_t node = 0
    cdef Stat st
    cdef const char *name = take_name(call, &at, &length, &error)
    if name == NULL:
        return error
    error = tree_lookup(call.channel.table, &call.op, call.header.nodeid, name, length, &node, &st)
    # Success with node 0 is the only "no such file" the kernel remembers.
    if error == -ENOENT:
        return entry_reply(call, 0, 0, NULL)
    return entry_reply(call, error, node, &st)


cdef int64_t on_forget(Call *call) noexcept nogil:
    cdef uint64_t count = (<const ForgetIn *>call.body).nlookup
    if tree_forget(call.channel.table, &call.op, call.header.nodeid, count) < 0:
        return RESULT_WAIT
    return RESULT_SILENT


cdef int64_t on_batch_forget(Call *call) noexcept nogil:
    cdef size_t count = (<const BatchForgetIn *>call.body).count
    cdef ForgetOne *one = <ForgetOne *>(call.body + sizeof(BatchForgetIn))
    cdef int64_t result = RESULT_SILENT
    cdef size_t i
    count = min(count, (call.size - sizeof(BatchForgetIn)) // sizeof(ForgetOne))
    for i in range(count):
        if tree_forget(call.channel.table, &call.op, one[i].nodeid, one[i].nlookup) < 0:
            result = RESULT_WAIT
        else:
            one[i].nlookup = 0      # not once more when the rest is run again
    return result


cdef int64_t on_getattr(Call *call) noexcept nogil:
    cdef Stat st
    return attr_reply(call, tree_getattr(call.channel.table, &call.op, call.header.nodeid, &st),
                      &st)


cdef int64_t on_statx(Call *call) noexcept nogil:
    """The reply holds statx(2)'s own structure; of it the kernel reads nothing behind the
    device numbers, which it ignores too."""
    cdef Stat st
    cdef StatxOut *out = <StatxOut *>call.reply
    cdef Stat *into = <Stat *>(call.reply + sizeof(StatxOut))
    cdef int64_t result = tree_getattr(call.channel.table, &call.op, call.header.nodeid, &st)
    if result == 0:
        memset(out, 0, sizeof(StatxOut))
        keep_attributes(call.channel, call.header.nodeid, &out.attr_valid, &out.attr_valid_nsec)
        into[0] = st
        into.stx_mask &= STATX_BASIC_AND_BTIME
    return done(result, sizeof(StatxOut) + sizeof(Stat))


cdef bint stores_come_later(Call *call, uint32_t valid) noexcept nogil:
    """Whether the WRITE of a store through a mapping, made before the times are set, may come after
    them and undo them. With writeback caching the kernel keeps mtime itself.  It takes no WRITE
    while it truncates, and it does not truncate and set times at once."""
    return (valid & SET_MTIME and not valid & (SET_MTIME_NOW | SET_SIZE)
            and not call.channel.writeback
            and tree_take_stores(call.channel.table, &call.op, call.header.nodeid))


cdef int64_t on_setattr(Call *call) noexcept nogil:
    """SET_* and the protocol's FATTR_* are the same bits; those without a SET_* (the lock owner,
    writeback's ctime) say nothing to us."""
    cdef const SetattrIn *request = <const SetattrIn *>call.body
    cdef SetAttr wanted
    cdef Stat st
    wanted.valid = request.valid & <uint32_t>(
        SET_MODE | SET_UID | SET_GID | SET_SIZE | SET_ATIME | SET_MTIME | SET_ATIME_NOW
        | SET_MTIME_NOW | SET_BY_FD | SET_KILL_SUIDGID)
    wanted.mode = request.mode
    wanted.uid = request.uid
    wanted.gid = request.gid
    wanted.size = request.size
    wanted.atime.tv_sec = <int64_t>request.atime
    wanted.atime.tv_nsec = <long>request.atimensec
    wanted.mtime.tv_sec = <int64_t>request.mtime
    wanted.mtime.tv_nsec = <long>request.mtimensec
    if stores_come_later(call, wanted.valid):
        if not call.op.may_wait:
            return RESULT_WAIT
        write_out(call, 0, TO_THE_END)
    return attr_reply(call, tree_setattr(
        call.channel.table, &call.op, call.header.nodeid,
        request.fh if request.valid & ATTR_FH else 0, &wanted, &st), &st)


cdef int64_t on_readlink(Call *call) noexcept nogil:
    cdef int64_t length = tree_readlink(
        call.channel.table, &call.op, call.header.nodeid, call.reply, PATH_LENGTH)
    return done(length, length)


cdef int64_t on_statfs(Call *call) noexcept nogil:
    cdef StatFs st
    cdef StatfsOut *out = <StatfsOut *>call.reply
    cdef int64_t result = tree_statfs(call.channel.table, &call.op, &st)
    if result == 0:
        memset(out, 0, sizeof(StatfsOut))
        out.blocks = st.f_blocks
        out.bfree = st.f_bfree
        out.bavail = st.f_bavail
        out.files = st.f_files
        out.ffree = st.f_ffree
        out.bsize = <uint32_t>st.f_bsize
        out.namelen = <uint32_t>st.f_namelen
        out.frsize = <uint32_t>st.f_frsize
    return done(result, sizeof(StatfsOut))


# Making and removing names


cdef int64_t on_mknod(Call *call) noexcept nogil:
    """`rdev` is the kernel's new_encode_dev()."""
    cdef const MknodIn *request = <const MknodIn *>call.body
    cdef size_t at = sizeof(MknodIn)
    cdef size_t length
    cdef int error
    cdef uint64_t node = 0
    cdef Stat st
    cdef uint32_t rdev = request.rdev
    cdef const char *name = take_name(call, &at, &length, &error)
    if name == NULL:
        return error
    call.op.umask = request.umask
    error = tree_mknod(
        call.channel.table, &call.op, call.header.nodeid, name, length, request.mode,
        sys_makedev((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xfff00)), &node, &st)
    return entry_reply(call, error, node, &st)


cdef int64_t on_mkdir(Call *call) noexcept nogil:
    cdef const MkdirIn *request = <const MkdirIn *>call.body
    cdef size_t at = sizeof(MkdirIn)
    cdef size_t length
    cdef int error
    cdef uint64_t node = 0
    cdef Stat st
    cdef const char *name = take_name(call, &at, &length, &error)
    if name == NULL:
        return error
    call.op.umask = request.umask
    error = tree_mkdir(
        call.channel.table, &call.op, call.header.nodeid, name, length, request.mode,
        &node, &st)
    return entry_reply(call, error, node, &st)


cdef int64_t on_symlink(Call *call) noexcept nogil:
    cdef size_t at = 0
    cdef size_t length, target_length
    cdef int error
    cdef uint64_t node = 0
    cdef Stat st
    cdef const char *name = take_name(call, &at, &length, &error)
    cdef const char *target
    if name == NULL:
        return error
    target = take_string(call, &at, &target_length)
    if target == NULL or target_length == 0:
        return -EINVAL
    error = tree_symlink(
        call.channel.table, &call.op, call.header.nodeid, name, length, target, &node, &st)
    return entry_reply(call, error, node, &st)


cdef int64_t on_link(Call *call) noexcept nogil:
    cdef size_t at = sizeof(LinkIn)
    cdef size_t length
    cdef int error
    cdef uint64_t node = 0
    cdef Stat st
    cdef const char *name = take_name(call, &at, &length, &error)
    if name == NULL:
        return error
    error = tree_link(
        call.channel.table, &call.op, (<const LinkIn *>call.body).oldnodeid, call.header.nodeid,
        name, length, &node, &st)
    return entry_reply(call, error, node, &st)


cdef int64_t on_unlink(Call *call) noexcept nogil:
    cdef size_t at = 0
    cdef size_t length
    cdef int error
    cdef const char *name = take_name(call, &at, &length, &error)
    if name == NULL:
        return error
    return done(tree_unlink(call.channel.table, &call.op, call.header.nodeid, name, length), 0)


cdef int64_t on_rmdir(Call *call) noexcept nogil:
    cdef size_t at = 0
    cdef size_t length
    cdef int error
    cdef const char *name = take_name(call, &at, &length, &error)
    if name == NULL:
        return error
    return done(tree_rmdir(call.channel.table, &call.op, call.header.nodeid, name, length), 0)


cdef int64_t rename_names(Call *call, size_t at, uint64_t new_parent,
                          uint32_t flags) noexcept nogil:
    cdef size_t length, new_length
    cdef int error
    cdef const char *name = take_name(call, &at, &length, &error)
    cdef const char *new_name
    if name == NULL:
        return error
    new_name = take_name(call, &at, &new_length, &error)
    if new_name == NULL:
        return error
    return done(tree_rename(call.channel.table, &call.op, call.header.nodeid, name, length,
                            new_parent, new_name, new_length, flags), 0)


cdef int64_t on_rename(Call *call) noexcept nogil:
    return rename_names(call, sizeof(RenameIn), (<const RenameIn *>call.body).newdir, 0)


cdef int64_t on_rename2(Call *call) noexcept nogil:
    cdef const Rename2In *request = <const Rename2In *>call.body
    return rename_names(call, sizeof(Rename2In), request.newdir, request.flags)
