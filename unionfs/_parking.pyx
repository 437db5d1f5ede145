# cython: language_level=3, boundscheck=False, wraparound=False
"""Requests that wait until the slow path has prepared something for them.

What is to be prepared is asked for once, however many requests wait for it: a hundred writers of
one file cost one round. The question travels as a FUSE request over a socket pair:

* OPEN for writing on a node: bring it, and its parents, into the upper;
* SETATTR with a size: the same, of a file that is to be truncated to that size;
* OPENDIR on a directory: make it whole in the upper, and opaque.

Its `unique` is the number of the question, and comes back with the answer.
"""
from libc.errno cimport EINTR, EIO, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.signal cimport SIGKILL
from libc.stdlib cimport free, malloc, strtoull
from libc.string cimport memcpy, memset, strstr

from unionfs._caller cimport caller_status
from unionfs._channel cimport (
    Channel, Preparation, Relay, Request, atomic_add, atomic_subtract, request_finish,
)
from unionfs._operations cimport PREPARE_WHOLE, SET_SIZE, WHOLE_SIZE, Op, tree_pin, tree_unpin
from unionfs._pool cimport pool_submit
from unionfs._sys cimport (
    O_WRONLY, cond_broadcast, cond_destroy, cond_init, cond_wait,
    mutex_destroy, mutex_init, mutex_lock, mutex_unlock, sys_close, sys_read, sys_thread,
)
from unionfs._wire cimport (
    OP_OPEN, OP_OPENDIR, OP_SETATTR, InHeader, OpenIn, OutHeader, SetattrIn,
)

cdef extern from "<sys/socket.h>" nogil:
    int64_t send(int fd, const void *data, size_t size, int flags)
    int shutdown(int fd, int how)
    const int MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_RDWR

cdef enum:
    # Questions under way at once. Each is a message of 128 bytes at the most: the pair's buffer
    # takes them all, so sending never blocks.
    IN_FLIGHT = 64
    STACK = 256 * 1024
    ANSWER = 512

cdef union Body:
    OpenIn open
    SetattrIn set

cdef struct Question:
    InHeader header
    Body body


cdef void ask(Relay *relay) noexcept nogil:
    """Send what waits to be sent. Called with the lock held."""
    cdef Preparation *p = relay.first
    cdef Question question
    cdef size_t size
    while p != NULL and relay.fd >= 0 and relay.in_flight < IN_FLIGHT:
        if not p.sent:
            memset(&question, 0, sizeof(question))
            size = sizeof(InHeader) + sizeof(OpenIn)
            if p.kind == PREPARE_WHOLE:
                question.header.opcode = OP_OPENDIR
            elif p.keep < <uint64_t>WHOLE_SIZE:
                question.header.opcode = OP_SETATTR
                question.body.set.valid = SET_SIZE
                question.body.set.size = p.keep
                size = sizeof(InHeader) + sizeof(SetattrIn)
            else:
                question.header.opcode = OP_OPEN
                question.body.open.flags = <uint32_t>O_WRONLY
            question.header.len = <uint32_t>size
            question.header.unique = p.id
            question.header.nodeid = p.node
            if send(relay.fd, &question, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
                return      # the slow path is gone; detach() answers for it
            p.sent = True
            relay.in_flight += 1
        p = p.next


cdef int park(Request *request, const Op *op) noexcept nogil:
    cdef Channel *channel = request.channel
    cdef Relay *relay = channel.relay
    cdef Preparation *p
    cdef Preparation **end
    cdef int result
    mutex_lock(&relay.mutex)
    if relay.closed or channel.closing:
        mutex_unlock(&relay.mutex)
        return -EIO
    end = &relay.first
    while end[0] != NULL:
        p = end[0]
        if (p.channel == channel and p.node == op.prepare_node and p.kind == op.prepare_kind
                and p.keep == op.prepare_keep):
            break
        end = &p.next
    p = end[0]
    if p == NULL:
        result = tree_pin(channel.table, op.prepare_node)
        p = <Preparation *>malloc(sizeof(Preparation)) if result >= 0 else NULL
        if p == NULL:
            mutex_unlock(&relay.mutex)
            if result < 0:
                return result
            tree_unpin(channel.table, op.prepare_node)
            return -ENOMEM
        relay.last_id += 1
        p.next = NULL
        p.channel = channel
        p.id = relay.last_id
        p.node = op.prepare_node
        p.kind = op.prepare_kind
        p.keep = op.prepare_keep
        p.sent = False
        p.waiting = NULL
        end[0] = p
        channel.preparations += 1
        ask(relay)
        cond_broadcast(&relay.changed)
    request.next = p.waiting
    p.waiting = request
    atomic_add(&channel.parked, 1)
    mutex_unlock(&relay.mutex)
    return 0


cdef bint is_being_killed(uint32_t pid) noexcept nogil:
    """Whether a thread will never come back to its program: SIGKILL is pending, which is also how
    the kernel ends the threads of a process that any other signal ends (complete_signal())."""
    cdef char *status = caller_status(pid)
    cdef const char *line
    cdef bint killed
    if status == NULL:
        return True
    line = strstr(status, "\nSigPnd:\t")
    killed = line == NULL or (strtoull(line + 9, NULL, 16) >> (SIGKILL - 1)) & 1
    free(status)
    return killed


cdef bint interrupt(Channel *channel, uint64_t unique) noexcept nogil:
    """Answer the parked request `unique` with EINTR if its caller is being killed.

    True: it is parked, and its caller has met another signal: that is no reason for a system call
    on a file to fail, but the kernel says nothing more if SIGKILL comes next, so ask again.  A
    caller that cannot be seen (from outside the daemon's pid namespace) is taken for killed.

    What was asked of the slow path goes on: a copy that is half done serves the next try.
    """
    cdef Relay *relay = channel.relay
    cdef Preparation *p
    cdef Request **at
    cdef Request *found = NULL
    cdef uint32_t pid
    mutex_lock(&relay.mutex)
    p = relay.first
    while p != NULL and found == NULL:
        at = &p.waiting
        while at[0] != NULL:
            if at[0].channel == channel and (<InHeader *>at[0].bytes).unique == unique:
                found = at[0]
                break
            at = &at[0].next
        p = p.next
    if found != NULL:
        pid = (<InHeader *>found.bytes).pid
        if pid and not is_being_killed(pid):
            mutex_unlock(&relay.mutex)
            return True
        at[0] = found.next
        atomic_subtract(&channel.parked, 1)
    mutex_unlock(&relay.mutex)
    if found != NULL:
        request_finish(found, -EINTR)
    return False


cdef void release(Relay *relay, Preparation *p, Request *request, int error) noexcept nogil:
    """Send the requests that waited for `p` on their way. `p` is off the list; no lock is held."""
    cdef Channel *channel = p.channel
    cdef Request *next
    while request != NULL:
        next = request.next
        request.prepared += 1
        if error:
            request_finish(request, error)
        else:
            pool_submit(request.channel, request, NULL)
        request = next
    tree_unpin(channel.table, p.node)
    mutex_lock(&relay.mutex)
    if p.sent:
        relay.in_flight -= 1
    # The last touch of the channel: parking_leave() returns when this is 0.
    channel.preparations -= 1
    ask(relay)
    cond_broadcast(&relay.changed)
    mutex_unlock(&relay.mutex)
    free(p)


cdef Request *take_waiting(Preparation *p) noexcept nogil:
    cdef Request *waiting = p.waiting
    cdef Request *request = waiting
    while request != NULL:
        atomic_subtract(&p.channel.parked, 1)
        request = request.next
    p.waiting = NULL
    return waiting


cdef void answered(Relay *relay, uint64_t id, int error) noexcept nogil:
    cdef Preparation **at
    cdef Preparation *p = NULL
    cdef Request *waiting
    mutex_lock(&relay.mutex)
    at = &relay.first
    while at[0] != NULL:
        if at[0].id == id:
            p = at[0]
            at[0] = p.next
            waiting = take_waiting(p)
            break
        at = &at[0].next
    mutex_unlock(&relay.mutex)
    # Unknown is the answer to the made-up INIT: it has a number that is never given to a question.
    if p != NULL:
        release(relay, p, waiting, error)


cdef void *receive_answers(void *arg) noexcept nogil:
    cdef Relay *relay = <Relay *>arg
    cdef char message[ANSWER]
    cdef OutHeader header
    cdef int64_t size
    cdef int fd = relay.fd      # stays ours until detach(), which waits for this thread
    while True:
        size = sys_read(fd, message, ANSWER)
        if size == -EINTR:
            continue
        if size < <int64_t>sizeof(OutHeader):
            break
        memcpy(&header, message, sizeof(header))
        answered(relay, header.unique, header.error)
    mutex_lock(&relay.mutex)
    relay.receiving = False
    cond_broadcast(&relay.changed)
    mutex_unlock(&relay.mutex)
    return NULL


cdef void parking_leave(Channel *channel) noexcept nogil:
    """Nothing of this mount waits here any more, nor ever will; returns when that is so.

    Requests that still wait get EIO (nobody is there to read it: the mount is gone). What the
    slow path is working on is waited for, because it works on the mount's tree.
    """
    cdef Relay *relay = channel.relay
    cdef Preparation **at
    cdef Preparation *p
    cdef Request *waiting
    cdef Request *next
    mutex_lock(&relay.mutex)
    channel.closing = True
    while channel.preparations:
        p = NULL
        waiting = NULL
        at = &relay.first
        while at[0] != NULL:
            if at[0].channel == channel and (not at[0].sent or at[0].waiting != NULL):
                p = at[0]
                waiting = take_waiting(p)
                if p.sent:
                    p = NULL        # its answer will find nobody waiting
                else:
                    at[0] = p.next
                break
            at = &at[0].next
        if p == NULL and waiting == NULL:
            cond_wait(&relay.changed, &relay.mutex)
            continue
        mutex_unlock(&relay.mutex)
        if p != NULL:
            release(relay, p, waiting, -EIO)
        else:
            while waiting != NULL:
                next = waiting.next
                request_finish(waiting, -EIO)
                waiting = next
        mutex_lock(&relay.mutex)
    mutex_unlock(&relay.mutex)


cdef class Parking:
    def __cinit__(self):
        self.relay = <Relay *>malloc(sizeof(Relay))
        if self.relay == NULL:
            raise MemoryError
        memset(self.relay, 0, sizeof(Relay))
        self.relay.fd = -1
        self.relay.last_id = 1      # 1 is the made-up INIT
        mutex_init(&self.relay.mutex, NULL)
        cond_init(&self.relay.changed, NULL)

    def __dealloc__(self):
        if self.relay != NULL:
            cond_destroy(&self.relay.changed)
            mutex_destroy(&self.relay.mutex)
            free(self.relay)

    def wait(self):
        cdef Relay *relay = self.relay
        with nogil:
            mutex_lock(&relay.mutex)
            while not relay.closed and (relay.first == NULL or relay.fd >= 0):
                cond_wait(&relay.changed, &relay.mutex)
            mutex_unlock(&relay.mutex)
        return not relay.closed

    def attach(self, int fd):
        cdef Relay *relay = self.relay
        cdef int result
        with nogil:
            mutex_lock(&relay.mutex)
            relay.fd = fd
            relay.receiving = True
            result = sys_thread(receive_answers, relay, STACK)
            if result < 0:
                relay.receiving = False
                relay.fd = -1
            else:
                ask(relay)
            mutex_unlock(&relay.mutex)
        if result < 0:
            raise OSError(-result, "cannot start a thread")

    def detach(self):
        cdef Relay *relay = self.relay
        cdef Preparation *p
        cdef Preparation *next
        cdef Request *waiting
        cdef int fd
        with nogil:
            mutex_lock(&relay.mutex)
            fd = relay.fd
            if fd >= 0:
                shutdown(fd, SHUT_RDWR)
                while relay.receiving:
                    cond_wait(&relay.changed, &relay.mutex)
                relay.fd = -1
                sys_close(fd)
            # What comes from here on is for the next slow path.
            p = relay.first
            relay.first = NULL
            mutex_unlock(&relay.mutex)
            while p != NULL:
                next = p.next
                mutex_lock(&relay.mutex)
                waiting = take_waiting(p)
                mutex_unlock(&relay.mutex)
                release(relay, p, waiting, -EIO)
                p = next

    def close(self):
        cdef Relay *relay = self.relay
        with nogil:
            mutex_lock(&relay.mutex)
            relay.closed = True
            cond_broadcast(&relay.changed)
            mutex_unlock(&relay.mutex)
