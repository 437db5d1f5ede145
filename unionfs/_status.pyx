# cython: language_level=3, boundscheck=False, wraparound=False
"""The three extended attributes by which a mount tells about itself, as JSON.

`user.unionfs.status` on the root: the counters of the mount, and the process that serves it.
`user.unionfs.where` on any node: which branch it comes from.
`security.unionfs.branches` on any node: the paths of all branches, the upper's or "" first.

A path or a process of the host is told only to the user the daemon runs as, and only where that
user looks at the daemon's own root directory: in a container the same number is somebody else.
"""
from libc.errno cimport ENODATA, ERANGE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport strcmp, strlen
from posix.unistd cimport getpid

from unionfs._channel cimport PLANES, Call, Channel, Counter, atomic_get, opcode_name
from unionfs._operations cimport TreeStats, tree_stats, tree_where
from unionfs._sys cimport mutex_lock, mutex_unlock
from unionfs._wire cimport OPCODES_END, ROOT_NODE

cdef extern from "<sys/stat.h>" nogil:
    ctypedef struct RootStat "struct stat":
        uint64_t st_dev
        uint64_t st_ino
    int follow_stat "stat"(const char *path, RootStat *st)

cdef enum:
    VALUE_CAPACITY = 65536      # XATTR_SIZE_MAX
    PATH_CAPACITY = 65536

cdef const char *PLANE_NAMES[PLANES]
PLANE_NAMES[:] = [b"fast", b"pool", b"slow"]

# Text being written; `used` goes on counting where `room` ends, which makes it ERANGE.
cdef struct Text:
    char *at
    size_t room
    size_t used


cdef void put(Text *text, const char *bytes, size_t length) noexcept nogil:
    cdef size_t i
    for i in range(length):
        if text.used < text.room:
            text.at[text.used] = bytes[i]
        text.used += 1


cdef void put_text(Text *text, const char *string) noexcept nogil:
    put(text, string, strlen(string))


cdef void put_field(Text *text, const char *key, uint64_t value) noexcept nogil:
    """`"key":value`, after a comma unless an object has just been opened."""
    cdef char number[32]
    cdef int length = snprintf(number, sizeof(number), ":%llu", <unsigned long long>value)
    if text.used and text.used <= text.room and text.at[text.used - 1] != c"{":
        put_text(text, b",")
    put_text(text, b'"')
    put_text(text, key)
    put_text(text, b'"')
    put(text, number, <size_t>length)


cdef size_t utf8_length(const uint8_t *s, size_t left) noexcept nogil:
    """Bytes of the well-formed UTF-8 sequence at `s` (Unicode 15, table 3-7); 0: there is none."""
    cdef uint8_t low = 0x80
    cdef uint8_t high = 0xbf
    cdef size_t length, i
    if s[0] < 0x80:
        return 1
    elif 0xc2 <= s[0] <= 0xdf:
        length = 2
    elif 0xe0 <= s[0] <= 0xef:
        length = 3
        if s[0] == 0xe0:
            low = 0xa0
        elif s[0] == 0xed:
            high = 0x9f
    elif 0xf0 <= s[0] <= 0xf4:
        length = 4
        if s[0] == 0xf0:
            low = 0x90
        elif s[0] == 0xf4:
            high = 0x8f
    else:
        return 0
    if left < length or not low <= s[1] <= high:
        return 0
    for i in range(2, length):
        if not 0x80 <= s[i] <= 0xbf:
            return 0
    return length


cdef void put_string(Text *text, const char *bytes, size_t length) noexcept nogil:
    """A JSON string that Python reads back with os.fsencode(): bytes that are no UTF-8 are
    written as the lone surrogates of PEP 383."""
    cdef const uint8_t *s = <const uint8_t *>bytes
    cdef char escape[8]
    cdef size_t i = 0
    cdef size_t n
    put_text(text, b'"')
    while i < length:
        n = utf8_length(&s[i], length - i)
        if n == 0:
            put(text, escape, <size_t>snprintf(escape, sizeof(escape), b"\\udc%02x", <int>s[i]))
            n = 1
        elif s[i] < 0x20 or s[i] == c'"' or s[i] == c"\\" or s[i] == 0x7f:
            put(text, escape, <size_t>snprintf(escape, sizeof(escape), b"\\u%04x", <int>s[i]))
        else:
            put(text, &bytes[i], n)
        i += n
    put_text(text, b'"')


cdef void put_counters(Text *text, Channel *channel) noexcept nogil:
    """`"requests":{"LOOKUP":{"fast":{"count":1,"errors":0,"ns":2000}}}`, without the zeros."""
    cdef Counter *counter
    cdef int opcode, plane
    cdef bint any_opcode = False
    cdef bint any_plane
    put_text(text, b',"requests":{')
    for opcode in range(OPCODES_END):
        any_plane = False
        for plane in range(PLANES):
            counter = &channel.counters[opcode][plane]
            if not atomic_get(&counter.count):
                continue
            if not any_plane:
                put_text(text, b',"' if any_opcode else b'"')
                put_text(text, opcode_name(<uint32_t>opcode))
                put_text(text, b'":{"')
            else:
                put_text(text, b',"')
            put_text(text, PLANE_NAMES[plane])
            put_text(text, b'":{')
            put_field(text, b"count", atomic_get(&counter.count))
            put_field(text, b"errors", atomic_get(&counter.errors))
            put_field(text, b"ns", atomic_get(&counter.ns))
            put_text(text, b"}")
            any_plane = any_opcode = True
        if any_plane:
            put_text(text, b"}")
    put_text(text, b"}")


cdef bint may_know_the_host(Call *call) noexcept nogil:
    """See the module's text. pid 0 is a caller outside the daemon's pid namespace."""
    cdef char path[32]
    cdef RootStat root
    if call.header.uid != call.channel.owner or call.header.pid == 0:
        return False
    snprintf(path, sizeof(path), "/proc/%u/root", <unsigned>call.header.pid)
    if follow_stat(path, &root) < 0:
        return False
    return root.st_dev == call.channel.root_dev and root.st_ino == call.channel.root_ino


cdef void put_status(Text *text, Call *call) noexcept nogil:
    cdef Channel *channel = call.channel
    cdef TreeStats stats
    cdef int threads, queued, readers
    tree_stats(channel.table, &stats)
    put_text(text, b"{")
    put_field(text, b"nodes", stats.nodes)
    put_field(text, b"names", stats.names)
    put_field(text, b"fds", stats.fds)
    put_field(text, b"pinned_fds", stats.pinned_fds)
    put_field(text, b"listings", stats.listings)
    put_field(text, b"listing_entries", stats.listing_entries)
    put_field(text, b"copy_ups", stats.copy_ups)
    put_field(text, b"copy_up_bytes", stats.copy_up_bytes)
    put_field(text, b"memory", stats.memory)
    put_field(text, b"parked", atomic_get(&channel.parked))
    mutex_lock(&channel.pool.mutex)
    threads = channel.pool.threads
    queued = channel.pool.queued
    mutex_unlock(&channel.pool.mutex)
    mutex_lock(&channel.mutex)
    readers = channel.readers
    mutex_unlock(&channel.mutex)
    put_field(text, b"pool_threads", <uint64_t>threads)
    put_field(text, b"pool_queued", <uint64_t>queued)
    put_field(text, b"readers", <uint64_t>readers)
    put_field(text, b"queues", <uint64_t>channel.queues if channel.workers != NULL else 0)
    put_field(text, b"passthrough", channel.passthrough)
    put_field(text, b"refused_replies", atomic_get(&channel.refused))
    put_field(text, b"malformed", atomic_get(&channel.malformed))
    if may_know_the_host(call):
        put_field(text, b"pid", <uint64_t>getpid())
    put_counters(text, channel)
    put_text(text, b"}")


cdef int put_where(Text *text, Call *call) noexcept nogil:
    """The end of the reply buffer, which is far larger than the value, holds the path."""
    cdef char *path = call.reply + call.capacity - PATH_CAPACITY
    cdef int branch = 0
    cdef int64_t length = tree_where(
        call.channel.table, call.header.nodeid, &branch, path, PATH_CAPACITY)
    if length < 0:
        return <int>length
    put_text(text, b"{")
    put_field(text, b"branch", <uint64_t>branch)
    put_text(text, b',"path":')
    put_string(text, path, <size_t>length)
    if branch < call.channel.branches and may_know_the_host(call):
        put_text(text, b',"branch_path":')
        put_string(text, call.channel.branch_paths[branch],
                   strlen(call.channel.branch_paths[branch]))
    put_text(text, b"}")
    return 0


cdef int put_branches(Text *text, Call *call) noexcept nogil:
    cdef int branch
    if not may_know_the_host(call):
        return -ENODATA
    put_text(text, b"[")
    for branch in range(call.channel.branches):
        if branch:
            put_text(text, b",")
        put_string(text, call.channel.branch_paths[branch],
                   strlen(call.channel.branch_paths[branch]))
    put_text(text, b"]")
    return 0


cdef bint is_branches(const char *name) noexcept nogil:
    return strcmp(name, b"security.unionfs.branches") == 0


cdef bint is_where(const char *name) noexcept nogil:
    # For user.* of links and special files the kernel answers by itself (xattr(7)).
    return (strcmp(name, b"user.unionfs.where") == 0
            or strcmp(name, b"security.unionfs.where") == 0)


cdef bint is_own_xattr(const char *name) noexcept nogil:
    return (strcmp(name, b"user.unionfs.status") == 0 or is_where(name)
            or is_branches(name))


cdef int64_t own_xattr(Call *call, const char *name) noexcept nogil:
    """Write the attribute's value into the reply; the result is its length."""
    cdef Text text
    cdef int result = 0
    text.at = call.reply
    text.room = VALUE_CAPACITY
    text.used = 0
    if is_where(name):
        result = put_where(&text, call)
    elif is_branches(name):
        result = put_branches(&text, call)
    elif call.header.nodeid == ROOT_NODE:
        put_status(&text, call)
    else:
        result = -ENODATA
    if result < 0:
        return result
    return -ERANGE if text.used > text.room else <int64_t>text.used
