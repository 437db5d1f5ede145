# cython: language_level=3, boundscheck=False, wraparound=False
"""Requests about the content of files, and their extended attributes."""
from libc.errno cimport EINVAL, ENOSYS, EPERM, ERANGE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from unionfs._call cimport done, fill_entry, take_name, take_xattr_name
from unionfs._channel cimport Call
from unionfs._operations cimport (
    WRITE_APPEND,
    WRITE_KILL_SUIDGID,
    WRITE_LATE,
    WRITE_MAPPABLE,
    tree_copy_file_range,
    tree_create,
    tree_fallocate,
    tree_fsync,
    tree_fsyncdir,
    tree_getxattr,
    tree_listxattr,
    tree_open,
    tree_read,
    tree_removexattr,
    tree_setxattr,
    tree_splice,
    tree_tmpfile,
    tree_write,
)
from unionfs._passthrough cimport passthrough_may_read, passthrough_open, passthrough_release
from unionfs._splice cimport SPLICE_LEAST, pipes_close, pipes_take
from unionfs._status cimport is_own_xattr, own_xattr
from unionfs._sys cimport O_ACCMODE, O_APPEND, O_RDWR, Stat
from unionfs._wire cimport (
    FSYNC_DATA_ONLY,
    SETXATTR_ACL_KILL_SGID,
    SETXATTR_IN_SHORT,
    WRITE_CACHE,
    CopyFileRangeIn,
    CopyFileRangeOut,
    CreateIn,
    CreateOut,
    FallocateIn,
    FsyncIn,
    GetxattrIn,
    GetxattrOut,
    OpenIn,
    OpenOut,
    ReadIn,
    ReleaseIn,
    SetxattrIn,
    WriteIn,
    WriteOut,
)

cdef enum:
    VALUE_LENGTH = 65536        # XATTR_SIZE_MAX


cdef void fill_open(Call *call, OpenOut *out, uint64_t node, uint64_t handle,
                    uint32_t flags) noexcept nogil:
    memset(out, 0, sizeof(OpenOut))
    out.fh = handle
    if handle:
        passthrough_open(call.channel, node, handle, flags, out)


cdef int64_t created_reply(Call *call, int64_t result, uint64_t node, uint64_t handle,
                           const Stat *st) noexcept nogil:
    cdef CreateOut *out = <CreateOut *>call.reply
    if result == 0:
        # First: it decides how long the attributes are valid.
        fill_open(call, &out.open, node, handle, (<const CreateIn *>call.body).flags)
        fill_entry(call.channel, &out.entry, node, st)
    return done(result, sizeof(CreateOut))


cdef int64_t on_open(Call *call) noexcept nogil:
    cdef uint64_t handle = 0
    cdef uint32_t flags = (<const OpenIn *>call.body).flags
    cdef int result
    if not call.channel.keep_open:
        return -ENOSYS
    result = tree_open(call.channel.table, &call.op, call.header.nodeid, flags, &handle)
    if result == 0:
        fill_open(call, <OpenOut *>call.reply, call.header.nodeid, handle, flags)
    return done(result, sizeof(OpenOut))


cdef int64_t on_create(Call *call) noexcept nogil:
    cdef const CreateIn *request = <const CreateIn *>call.body
    cdef size_t at = sizeof(CreateIn)
    cdef size_t length
    cdef int error
    cdef uint64_t node = 0
    cdef uint64_t handle = 0
    cdef Stat st
    cdef const char *name
    if not call.channel.keep_open:
        return -ENOSYS
    name = take_name(call, &at, &length, &error)
    if name == NULL:
        return error
    call.op.umask = request.umask
    error = tree_create(call.channel.table, &call.op, call.header.nodeid, name, length,
                        request.flags, request.mode, &node, &handle, &st)
    return created_reply(call, error, node, handle, &st)


cdef int64_t on_tmpfile(Call *call) noexcept nogil:
    """Without OPEN the kernel sends no RELEASE either: the handle would never come back.  The node
    keeps a descriptor of its nameless file itself."""
    cdef const CreateIn *request = <const CreateIn *>call.body
    cdef uint64_t node = 0
    cdef uint64_t handle = 0
    cdef Stat st
    cdef int result
    call.op.umask = request.umask
    result = tree_tmpfile(call.channel.table, &call.op, call.header.nodeid, request.flags,
                          request.mode, &node, &handle, &st)
    if result == 0 and not call.channel.keep_open:
        passthrough_release(call.channel, handle)
        handle = 0
    return created_reply(call, result, node, handle, &st)


cdef int64_t on_release(Call *call) noexcept nogil:
    cdef uint64_t handle = (<const ReleaseIn *>call.body).fh
    return done(passthrough_release(call.channel, handle), 0) if handle else 0


cdef int64_t on_read(Call *call) noexcept nogil:
    cdef const ReadIn *request = <const ReadIn *>call.body
    cdef size_t size = min(<size_t>request.size, call.capacity)
    cdef int64_t length
    if not passthrough_may_read(call.channel, call.header.nodeid, request.read_flags):
        return -EINVAL
    if size >= SPLICE_LEAST and pipes_take(call.pipes, size):
        length = tree_splice(call.channel.table, &call.op, call.header.nodeid, request.fh,
                             call.pipes.data[1], size, request.offset, request.flags)
        if length >= 0:
            call.piped = length > 0
            return length
        pipes_close(call.pipes)
    length = tree_read(call.channel.table, &call.op, call.header.nodeid, request.fh, call.reply,
                       size, request.offset, request.flags)
    return done(length, length)


cdef int64_t on_write(Call *call) noexcept nogil:
    cdef const WriteIn *request = <const WriteIn *>call.body
    cdef WriteOut *out = <WriteOut *>call.reply
    cdef uint32_t flags = request.write_flags & <uint32_t>WRITE_KILL_SUIDGID
    cdef int64_t length
    if request.write_flags & WRITE_CACHE:
        flags |= WRITE_LATE
    else:
        if request.flags & O_APPEND:
            flags |= WRITE_APPEND
        if (request.flags & O_ACCMODE) == O_RDWR:
            flags |= WRITE_MAPPABLE
    if request.size > call.size - sizeof(WriteIn):
        return -EINVAL
    length = tree_write(
        call.channel.table, &call.op, call.header.nodeid, request.fh,
        call.body + sizeof(WriteIn), request.size, request.offset, flags)
    out.size = <uint32_t>length
    out.padding = 0
    return done(length, sizeof(WriteOut))


cdef int64_t on_fsync(Call *call) noexcept nogil:
    cdef const FsyncIn *request = <const FsyncIn *>call.body
    return done(tree_fsync(call.channel.table, &call.op, call.header.nodeid, request.fh,
                           request.fsync_flags & FSYNC_DATA_ONLY), 0)


cdef int64_t on_fsyncdir(Call *call) noexcept nogil:
    cdef const FsyncIn *request = <const FsyncIn *>call.body
    return done(tree_fsyncdir(call.channel.table, &call.op, call.header.nodeid,
                              request.fsync_flags & FSYNC_DATA_ONLY), 0)


cdef int64_t on_fallocate(Call *call) noexcept nogil:
    cdef const FallocateIn *request = <const FallocateIn *>call.body
    return done(tree_fallocate(call.channel.table, &call.op, call.header.nodeid, request.fh,
                               <int>request.mode, request.offset, request.length), 0)


cdef int64_t copy_range(Call *call, uint64_t most) noexcept nogil:
    cdef const CopyFileRangeIn *request = <const CopyFileRangeIn *>call.body
    return tree_copy_file_range(
        call.channel.table, &call.op, call.header.nodeid, request.fh_in, request.off_in,
        request.nodeid_out, request.fh_out, request.off_out, min(request.len, most),
        <uint32_t>request.flags)


cdef int64_t on_copy_file_range(Call *call) noexcept nogil:
    """The reply counts in 32 bits: what does not fit is left for the next call."""
    cdef WriteOut *out = <WriteOut *>call.reply
    cdef int64_t length = copy_range(call, 0xfffff000)
    out.size = <uint32_t>length
    out.padding = 0
    return done(length, sizeof(WriteOut))


cdef int64_t on_copy_file_range_64(Call *call) noexcept nogil:
    cdef int64_t length = copy_range(call, 0x7ffffffffffff000)
    (<CopyFileRangeOut *>call.reply).bytes_copied = <uint64_t>length
    return done(length, sizeof(CopyFileRangeOut))


cdef int64_t value_reply(Call *call, int64_t length, uint32_t size) noexcept nogil:
    """After a tree_* function: a value, or with size 0 its length."""
    cdef GetxattrOut *out = <GetxattrOut *>call.reply
    cdef int64_t result = done(length, length)
    if result < 0:
        return result
    if size == 0:
        out.size = <uint32_t>length
        out.padding = 0
        return sizeof(GetxattrOut)
    return -ERANGE if length > <int64_t>size else length


cdef int64_t on_getxattr(Call *call) noexcept nogil:
    cdef uint32_t size = (<const GetxattrIn *>call.body).size
    cdef size_t at = sizeof(GetxattrIn)
    cdef const char *name = take_xattr_name(call, &at)
    cdef int64_t length
    if name == NULL:
        return -EINVAL
    if is_own_xattr(name):
        length = own_xattr(call, name)
    else:
        length = tree_getxattr(call.channel.table, &call.op, call.header.nodeid, name, call.reply,
                               min(size, <uint32_t>VALUE_LENGTH))
    return value_reply(call, length, size)


cdef int64_t on_listxattr(Call *call) noexcept nogil:
    cdef uint32_t size = (<const GetxattrIn *>call.body).size
    cdef int64_t length = tree_listxattr(call.channel.table, &call.op, call.header.nodeid,
                                         call.reply, min(size, <uint32_t>VALUE_LENGTH))
    return value_reply(call, length, size)


cdef int64_t on_setxattr(Call *call) noexcept nogil:
    cdef SetxattrIn request
    cdef size_t at = sizeof(SetxattrIn) if call.channel.setxattr_ext else SETXATTR_IN_SHORT
    cdef const char *name
    if call.size < at:
        return -EINVAL
    memset(&request, 0, sizeof(request))
    memcpy(&request, call.body, at)
    name = take_xattr_name(call, &at)
    if name == NULL or request.size > call.size - at:
        return -EINVAL
    if is_own_xattr(name):
        return -EPERM
    return done(tree_setxattr(
        call.channel.table, &call.op, call.header.nodeid, name, call.body + at, request.size,
        <int>request.flags, (request.setxattr_flags & SETXATTR_ACL_KILL_SGID) != 0), 0)


cdef int64_t on_removexattr(Call *call) noexcept nogil:
    cdef size_t at = 0
    cdef const char *name = take_xattr_name(call, &at)
    if name == NULL:
        return -EINVAL
    if is_own_xattr(name):
        return -EPERM
    return done(tree_removexattr(call.channel.table, &call.op, call.header.nodeid, name), 0)
