# cython: language_level=3, boundscheck=False, wraparound=False
"""What every handler needs: taking a request apart, and putting the common replies together.

A handler checks every length and every name before it believes them: `serve()` has only made sure
that the body has the fixed part that the table of opcodes names.
"""
from libc.errno cimport EINVAL, ENAMETOOLONG, ENOSYS, EOPNOTSUPP
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memset

from unionfs._channel cimport RESULT_PREPARE, RESULT_WAIT, Call, Channel
from unionfs._operations cimport NEEDS_PREPARE, WOULD_WAIT, tree_unseen
from unionfs._sys cimport Stat
from unionfs._wire cimport Attr, AttrOut, EntryOut

cdef enum:
    NAME_LENGTH = 255
    XATTR_NAME_LENGTH = 255


# Reading requests


cdef const char *take_string(Call *call, size_t *at, size_t *length) noexcept nogil:
    """The zero-terminated string at offset `at` of the body, which moves behind it; NULL: none."""
    cdef const char *start = call.body + at[0]
    cdef const char *end
    if at[0] >= call.size:
        return NULL
    end = <const char *>memchr(start, 0, call.size - at[0])
    if end == NULL:
        return NULL
    length[0] = <size_t>(end - start)
    at[0] += length[0] + 1
    return start


cdef const char *take_name(Call *call, size_t *at, size_t *length, int *error) noexcept nogil:
    """A file name at offset `at` of the body.  NULL, and -errno in `error`: it is none."""
    cdef const char *name = take_string(call, at, length)
    cdef size_t n = length[0]
    if name == NULL or n == 0 or memchr(name, c"/", n) != NULL or (
            name[0] == c"." and (n == 1 or n == 2 and name[1] == c".")):
        error[0] = -EINVAL
        return NULL
    if call.name == NULL:
        call.name = name
        call.name_length = n
    if n > NAME_LENGTH:
        error[0] = -ENAMETOOLONG
        return NULL
    return name


cdef const char *take_xattr_name(Call *call, size_t *at) noexcept nogil:
    cdef size_t length
    cdef const char *name = take_string(call, at, &length)
    if name == NULL or length == 0 or length > XATTR_NAME_LENGTH:
        return NULL
    call.name = name
    call.name_length = length
    return name


# Writing replies


cdef int64_t done(int64_t result, int64_t reply) noexcept nogil:
    """What a handler returns after a tree_* function returned `result`: its error, its verdict,
    or else the length of the reply."""
    if result == WOULD_WAIT:
        return RESULT_WAIT
    if result == NEEDS_PREPARE:
        return RESULT_PREPARE
    if result == -ENOSYS:
        # From us ENOSYS means "never ask again", for every file of the mount.
        return -EOPNOTSUPP
    return result if result < 0 else reply


cdef inline uint32_t encode_device(uint32_t major, uint32_t minor) noexcept nogil:
    """The kernel's new_encode_dev()."""
    return (minor & 0xff) | (major << 8) | ((minor & ~<uint32_t>0xff) << 12)


cdef void fill_attr(Attr *attr, const Stat *st) noexcept nogil:
    attr.ino = st.stx_ino
    attr.size = st.stx_size
    attr.blocks = st.stx_blocks
    attr.atime = <uint64_t>st.stx_atime.tv_sec
    attr.mtime = <uint64_t>st.stx_mtime.tv_sec
    attr.ctime = <uint64_t>st.stx_ctime.tv_sec
    attr.atimensec = st.stx_atime.tv_nsec
    attr.mtimensec = st.stx_mtime.tv_nsec
    attr.ctimensec = st.stx_ctime.tv_nsec
    attr.mode = st.stx_mode
    attr.nlink = st.stx_nlink
    attr.uid = st.stx_uid
    attr.gid = st.stx_gid
    attr.rdev = encode_device(st.stx_rdev_major, st.stx_rdev_minor)
    attr.blksize = st.stx_blksize
    attr.flags = 0


cdef void keep_attributes(const Channel *channel, uint64_t node, uint64_t *seconds,
                          uint32_t *nanoseconds) noexcept nogil:
    """For how long the kernel may answer for a node's attributes itself."""
    seconds[0] = channel.timeout_s
    nanoseconds[0] = channel.timeout_ns
    if channel.passthrough and tree_unseen(channel.table, node):
        seconds[0] = nanoseconds[0] = 0


cdef void fill_entry(const Channel *channel, EntryOut *out, uint64_t node,
                     const Stat *st) noexcept nogil:
    """An entry with its attributes; node 0 without them: a negative entry."""
    memset(out, 0, sizeof(EntryOut))
    out.nodeid = node
    out.entry_valid = channel.timeout_s
    out.entry_valid_nsec = channel.timeout_ns
    if node:
        keep_attributes(channel, node, &out.attr_valid, &out.attr_valid_nsec)
        fill_attr(&out.attr, st)


cdef int64_t entry_reply(Call *call, int64_t result, uint64_t node,
                         const Stat *st) noexcept nogil:
    if result == 0:
        fill_entry(call.channel, <EntryOut *>call.reply, node, st)
    return done(result, sizeof(EntryOut))


cdef int64_t attr_reply(Call *call, int64_t result, const Stat *st) noexcept nogil:
    cdef AttrOut *out = <AttrOut *>call.reply
    if result == 0:
        memset(out, 0, sizeof(AttrOut))
        keep_attributes(call.channel, call.header.nodeid, &out.attr_valid, &out.attr_valid_nsec)
        fill_attr(&out.attr, st)
    return done(result, sizeof(AttrOut))
