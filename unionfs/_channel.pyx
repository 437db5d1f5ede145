# cython: language_level=3, boundscheck=False, wraparound=False
"""Replies, the copies of requests that must wait, and the counters of one mount."""
from libc.errno cimport EIO, ENOENT, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from unionfs._operations cimport tree_pin, tree_unpin
from unionfs._sys cimport (
    IoVec, mutex_lock, mutex_unlock, sys_monotonic_ns, sys_write, sys_writev,
)
from unionfs._wire cimport NOTIFY_INVAL_INODE, OPCODES_END, InHeader, NotifyInvalInode, OutHeader

cdef enum:
    # The kernel takes 0 to -511 from a server and drops a reply with anything else.
    LAST_ERRNO = 511
    DEBUG_NAME = 255

cdef const char *NAMES[OPCODES_END]
cdef const char *PLANE_NAMES[3]
PLANE_NAMES[:] = [b"fast", b"pool", b"slow"]


cdef void name_opcode(uint32_t opcode, const char *name) noexcept nogil:
    NAMES[opcode] = name


cdef const char *opcode_name(uint32_t opcode) noexcept nogil:
    return NAMES[opcode] if opcode < OPCODES_END else NULL


cdef void slot_reply(Slot *slot, const OutHeader *header, const void *data,
                     size_t size) noexcept nogil:
    """Leave a reply for the thread of the slot's queue, which alone may submit."""
    cdef Queue *queue = slot.queue
    cdef uint64_t one = 1
    slot.out[0] = header[0]
    slot.size[0] = <uint32_t>size
    if size and data != slot.payload:
        memcpy(slot.payload, data, size)
    mutex_lock(&queue.mutex)
    slot.next = queue.finished
    queue.finished = slot
    mutex_unlock(&queue.mutex)
    if not thread_is_self(queue.thread):
        sys_write(queue.wake_fd, &one, sizeof(one))


cdef int channel_reply(Channel *channel, Slot *slot, uint64_t unique, int error, const void *data,
                       size_t size) noexcept nogil:
    """Answer one request; `error` is 0 or -errno, and then nothing but the header is sent.

    ENOENT from the kernel means that nobody waits any more. That happens only when the
    connection is being aborted, so references the reply would have handed out need no return.
    """
    cdef OutHeader header
    cdef IoVec parts[2]
    cdef int64_t result
    if error:
        size = 0
        if error > 0 or error < -LAST_ERRNO:
            error = -EIO
    header.len = <uint32_t>(sizeof(header) + size)
    header.error = error
    header.unique = unique
    if slot != NULL:
        slot_reply(slot, &header, data, size)
        return 0
    parts[0].iov_base = &header
    parts[0].iov_len = sizeof(header)
    parts[1].iov_base = <void *>data
    parts[1].iov_len = size
    result = sys_writev(channel.fd, parts, 2 if size else 1)
    if result < 0:
        if result != -ENOENT:
            atomic_add(&channel.refused, 1)
        return <int>result
    return 0


cdef int channel_invalidate(Channel *channel, uint64_t node, int64_t offset,
                            int64_t length) noexcept nogil:
    cdef OutHeader header
    cdef NotifyInvalInode notice
    cdef IoVec parts[2]
    header.len = sizeof(header) + sizeof(notice)
    header.error = NOTIFY_INVAL_INODE
    header.unique = 0
    notice.ino = node
    notice.off = offset
    notice.len = length
    parts[0].iov_base = &header
    parts[0].iov_len = sizeof(header)
    parts[1].iov_base = &notice
    parts[1].iov_len = sizeof(notice)
    return <int>min(sys_writev(channel.fd, parts, 2), <int64_t>0)


cdef void write_line(const InHeader *header, Plane plane, uint64_t ns, const char *name,
                     size_t name_length, int64_t result) noexcept nogil:
    """The debug line of one request, in one write so that threads do not mix theirs."""
    cdef char shown[DEBUG_NAME + 1]
    cdef char line[DEBUG_NAME + 256]
    cdef const char *opcode = opcode_name(header.opcode)
    cdef size_t i
    cdef int length
    name_length = min(name_length, <size_t>DEBUG_NAME)
    for i in range(name_length):
        shown[i] = name[i] if <unsigned char>name[i] >= 0x20 else c"?"
    shown[name_length] = 0
    if opcode == NULL:
        opcode = "?"
    length = snprintf(
        line, sizeof(line), "%s node=%llu name=%s plane=%s result=%lld us=%llu\n",
        opcode, <unsigned long long>header.nodeid, shown, PLANE_NAMES[<int>plane],
        <long long>result, <unsigned long long>(ns // 1000))
    if length > 0:
        sys_write(2, line, <size_t>length)


cdef void account(Channel *channel, const InHeader *header, Plane plane, uint64_t arrived,
                  const char *name, size_t name_length, int64_t result) noexcept nogil:
    """Count one answered request and, with `-d`, write its line."""
    cdef uint64_t ns = sys_monotonic_ns() - arrived
    cdef Counter *counter
    if opcode_name(header.opcode) != NULL:
        counter = &channel.counters[header.opcode][<int>plane]
        atomic_add(&counter.count, 1)
        atomic_add(&counter.ns, ns)
        if result < 0 and result != RESULT_SILENT:
            atomic_add(&counter.errors, 1)
    if channel.debug:
        write_line(header, plane, ns, name, name_length,
                   0 if result == RESULT_SILENT else result)


cdef Request *request_keep(const Call *call, int other, int *error) noexcept nogil:
    """Copy a request that has to wait, and pin the nodes it names.

    `other` is where in the body a second node id stands, NO_OTHER_NODE or NO_NODE.  Returns
    NULL with -errno in `error`.
    """
    cdef size_t size = call.header.len
    cdef Request *request = <Request *>malloc(sizeof(Request) + size)
    cdef uint64_t nodes[2]
    cdef int count = 0 if other == NO_NODE else 1
    cdef int result
    if request == NULL:
        error[0] = -ENOMEM
        return NULL
    memcpy(request.bytes, call.header, size)
    request.next = NULL
    request.channel = call.channel
    request.slot = call.slot
    request.arrived = call.arrived
    request.prepared = call.op.prepared
    request.size = size
    request.pins = 0
    nodes[0] = call.header.nodeid
    if other >= 0:
        memcpy(&nodes[1], call.body + other, sizeof(uint64_t))
        count = 2
    while request.pins < count:
        result = tree_pin(call.channel.table, nodes[request.pins])
        if result < 0:
            request_free(request)
            error[0] = result
            return NULL
        request.pinned[request.pins] = nodes[request.pins]
        request.pins += 1
    return request


cdef void request_free(Request *request) noexcept nogil:
    cdef int i
    for i in range(request.pins):
        tree_unpin(request.channel.table, request.pinned[i])
    free(request)


cdef void request_finish(Request *request, int error) noexcept nogil:
    """Answer a request that waited with an error, and let it go."""
    cdef const InHeader *header = <const InHeader *>request.bytes
    account(request.channel, header, SLOW, request.arrived, NULL, 0, error)
    channel_reply(request.channel, request.slot, header.unique, error, NULL, 0)
    request_free(request)
