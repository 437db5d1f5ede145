# cython: language_level=3, boundscheck=False, wraparound=False
"""The wire: reading a FUSE channel, serving what arrives, and ending in good order.

A request is served by the thread that reads it.  Where its handler says that it would have to
wait, a copy goes to the pool; where it needs the slow path, the copy is parked until that has
prepared what is missing, and then goes to the pool.  The handler then simply runs again.
"""
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EINVAL, EIO, ENODEV, ENOENT, ENOSYS
from libc.signal cimport SIG_DFL
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset, strdup
from posix.signal cimport (
    SIG_UNBLOCK, sigaction, sigaction_t, sigaddset, sigemptyset, sigset_t,
)
from posix.unistd cimport geteuid, usleep

import os

from unionfs import log

from unionfs._channel cimport (
    FAST, MAX_READERS, POOL, REPLY_CAPACITY, REQUEST_CAPACITY, RESULT_PREPARE, RESULT_SILENT,
    RESULT_WAIT, SLOW, Call, Channel, Pipes, Request, Slot, account, atomic_add, atomic_get,
    channel_reply, opcode_name, request_free, request_keep, thread_kill, thread_self,
)
from unionfs._opcodes cimport POOLED, UNANSWERED, Route, route
from unionfs._parking cimport Parking, park, parking_leave
from unionfs._pool cimport pool_drain, pool_init, pool_submit
from unionfs._splice cimport pipes_close, splice_reply
from unionfs._sys cimport (
    TimeSpec, cond_broadcast, cond_destroy, cond_init, cond_timedwait, mutex_destroy,
    mutex_init, mutex_lock, mutex_unlock, sys_close, sys_eventfd, sys_monotonic_ns, sys_read,
    sys_thread, sys_write,
)
from unionfs._tree cimport Tree
from unionfs._uring cimport uring_free, uring_start, uring_stop
from unionfs._wire cimport OP_BATCH_FORGET, OP_FORGET, OP_INIT, InHeader


cdef extern from "<signal.h>" nogil:
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
    const int SIGURG

cdef extern from "<time.h>" nogil:
    int clock_gettime(int clock, TimeSpec *now)
    const int CLOCK_REALTIME

cdef enum:
    # A request that comes back from the slow path so often, and still is not ready, never will be.
    ROUNDS = 8
    STACK = 512 * 1024
    # Beside an io_uring hardly anything else comes by the channel, and nobody waits for it. What
    # has come when the pause (microseconds) is over comes as one BATCH_FORGET: without it each file
    # removed wakes this thread, and `rm -rf` takes half as long again.
    FORGET_PAUSE = 1000
    AGAIN_NS = 5000000      # between two signals to a thread that is to stop reading


# Serving one request


cdef void give_up(Request *request) noexcept with gil:
    """Log, from a pool thread: a thread that reads the channel never waits for the GIL."""
    cdef const InHeader *header = <const InHeader *>request.bytes
    cdef const char *name = opcode_name(header.opcode)
    what = (name if name != NULL else b"?").decode()
    log.error(f"{what} on node {header.nodeid} was prepared {request.prepared} times "
              "and still is not ready: EIO")


cdef int64_t put_off(Call *call, const Route *how, Request *request,
                     int64_t verdict) noexcept nogil:
    """Carry out a verdict.  RESULT_SILENT: the request is taken care of; -errno: it is not, and
    `request` is still the caller's."""
    cdef Request *kept = request
    cdef int error = 0
    if kept == NULL:
        kept = request_keep(call, how.other, &error)
        if kept == NULL:
            return error
    if verdict == RESULT_WAIT:
        pool_submit(call.channel, kept, call.reply)
        return RESULT_SILENT
    error = -EIO
    if kept.prepared < ROUNDS:
        error = park(kept, &call.op)
    elif request != NULL:
        give_up(kept)
    if error and request == NULL:
        request_free(kept)
    return error if error else RESULT_SILENT


cdef inline bint is_forget(const InHeader *header) noexcept nogil:
    return header.opcode == OP_FORGET or header.opcode == OP_BATCH_FORGET


cdef void serve(Channel *channel, const char *bytes, size_t size, char *reply, Request *request,
                uint64_t arrived, Slot *slot, Pipes *pipes) noexcept nogil:
    """Serve one request: one just read (`request` is NULL), or one that waited, which is freed."""
    cdef Call call
    cdef const Route *how
    cdef int64_t result
    cdef size_t extensions
    call.channel = channel
    call.slot = slot
    call.header = <const InHeader *>bytes
    call.reply = reply
    call.capacity = REPLY_CAPACITY
    call.pipes = pipes
    call.piped = False
    call.arrived = arrived
    call.name = NULL
    call.name_length = 0
    call.plane = FAST
    call.op.uid = call.header.uid
    call.op.gid = call.header.gid
    call.op.pid = call.header.pid
    call.op.umask = 0
    call.op.may_wait = request != NULL
    call.op.prepared = 0
    call.op.prepare_kind = 0
    call.op.prepare_node = 0
    call.op.prepare_keep = 0
    if request != NULL:
        call.op.prepared = request.prepared
        call.plane = SLOW if request.prepared else POOL
    how = route(call.header.opcode)
    extensions = <size_t>8 * call.header.total_extlen
    call.body = bytes + sizeof(InHeader)
    call.size = size - sizeof(InHeader) - extensions
    if call.header.len != size or extensions > size - sizeof(InHeader):
        result = -EINVAL
    elif how == NULL or how.handler == NULL:
        result = -ENOSYS
    elif call.size < how.least:
        result = -EINVAL
    elif how.how == POOLED and request == NULL:
        result = RESULT_WAIT
    else:
        result = how.handler(&call)
    if result == RESULT_WAIT and request != NULL:
        # A handler that may wait has no reason to ask for it. Not to be seen, and no loop.
        result = -EIO
    if result == RESULT_WAIT or result == RESULT_PREPARE:
        result = put_off(&call, how, request, result)
        if result == RESULT_SILENT:
            return
        if is_forget(call.header):
            call.op.may_wait = True     # no memory for a copy: late is better than a leak
            how.handler(&call)
    if how != NULL and how.how == UNANSWERED:
        result = RESULT_SILENT      # malformed ones too
    # Before the reply: who has its answer may look at the counters.
    account(channel, call.header, call.plane, arrived, call.name, call.name_length, result)
    if call.piped and splice_reply(channel, pipes, call.header.unique, <size_t>result) == 0:
        result = RESULT_SILENT
    elif call.piped:
        # The file has become shorter meanwhile, for example.
        call.pipes = NULL
        call.piped = False
        result = how.handler(&call)
    if result != RESULT_SILENT:
        channel_reply(channel, slot, call.header.unique, 0 if result >= 0 else <int>result, reply,
                      <size_t>result if result > 0 else 0)
    if request != NULL:
        request_free(request)
    elif call.header.opcode == OP_INIT and channel.workers != NULL:
        uring_start(channel)


cdef void run(Request *request, char *reply) noexcept nogil:
    """What a pool thread does with a request."""
    serve(request.channel, request.bytes, request.size, reply, request, request.arrived,
          request.slot, NULL)


# The threads that read the channel


cdef struct Reader:
    Channel *channel
    int index
    char *request
    char *reply
    Pipes pipes


cdef void reader_free(Reader *reader) noexcept nogil:
    if reader != NULL:
        pipes_close(&reader.pipes)
        free(reader.request)
        free(reader.reply)
        free(reader)


cdef void unexpected(int64_t error) noexcept with gil:
    log.error(f"reading the FUSE channel: {os.strerror(<int>-error)}")


cdef void *read_channel(void *arg) noexcept nogil:
    cdef Reader *reader = <Reader *>arg
    cdef Channel *channel = reader.channel
    cdef int64_t size = 0
    cdef uint64_t one = 1
    cdef sigset_t wake
    sigemptyset(&wake)
    sigaddset(&wake, SIGURG)
    mutex_lock(&channel.mutex)
    channel.reader_threads[reader.index] = thread_self()
    channel.reading[reader.index] = True
    mutex_unlock(&channel.mutex)
    # From here on stop() can interrupt the read.
    pthread_sigmask(SIG_UNBLOCK, &wake, NULL)
    while not atomic_get(&channel.stopping):
        size = sys_read(channel.fd, reader.request, REQUEST_CAPACITY)
        if size >= <int64_t>sizeof(InHeader):
            serve(channel, reader.request, <size_t>size, reader.reply, NULL, sys_monotonic_ns(),
                  NULL, &reader.pipes if channel.splice else NULL)
            if channel.workers != NULL and is_forget(<const InHeader *>reader.request):
                usleep(FORGET_PAUSE)
        elif size > 0:
            atomic_add(&channel.malformed, 1)
        elif size == -EINTR or size == -EAGAIN or size == -ENOENT:
            continue        # ENOENT: the request was taken back while it was being read
        else:
            break
    mutex_lock(&channel.mutex)
    channel.reading[reader.index] = False
    mutex_unlock(&channel.mutex)
    # ENODEV: unmounted. ECONNABORTED: aborted. 0: the other end of a test's pair was closed.
    if not atomic_get(&channel.stopping) and size < 0 and size != -ENODEV and size != -ECONNABORTED:
        unexpected(size)
    reader_free(reader)
    mutex_lock(&channel.mutex)
    channel.readers -= 1
    if channel.readers == 0:
        sys_write(channel.done_fd, &one, sizeof(one))
    cond_broadcast(&channel.changed)
    mutex_unlock(&channel.mutex)
    return NULL


cdef void wake_up(int number) noexcept nogil:
    """A signal's only purpose is that a read returns with EINTR."""


cdef void allow_wake_up() noexcept nogil:
    """SIGURG, because it is ignored unless somebody handles it: a stray one does no harm.  Any
    handler will do, so one that is there already is left alone."""
    cdef sigaction_t action
    if sigaction(SIGURG, NULL, &action) == 0 and action.sa_handler == SIG_DFL:
        memset(&action, 0, sizeof(action))
        action.sa_handler = wake_up
        sigemptyset(&action.sa_mask)
        sigaction(SIGURG, &action, NULL)


# The mount as Python sees it


cdef class FastPath:
    cdef Channel *channel
    cdef Tree tree
    cdef Parking parking
    cdef int reader_count

    def __cinit__(self):
        self.channel = <Channel *>calloc(1, sizeof(Channel))
        if self.channel == NULL:
            raise MemoryError
        self.channel.fd = -1
        self.channel.done_fd = -1
        mutex_init(&self.channel.mutex, NULL)
        mutex_init(&self.channel.backing, NULL)
        cond_init(&self.channel.changed, NULL)
        pool_init(&self.channel.pool)
        self.channel.serve = serve
        self.channel.run = run

    def __init__(self, Tree tree not None, int fd, Parking parking not None, *, int readers=1,
                 bint keep_open=False, bint writeback=False, double timeout=1e9, bint debug=False,
                 bint passthrough=False, bint splice=False, int queues=0, branches=()):
        cdef Channel *channel = self.channel
        cdef int done
        if not 1 <= readers <= MAX_READERS:
            raise ValueError(f"readers must be from 1 to {MAX_READERS}")
        root = os.stat("/")
        done = sys_eventfd()
        if done < 0:
            raise OSError(-done, os.strerror(-done))
        channel.done_fd = done
        self.tree = tree
        self.parking = parking
        self.reader_count = readers
        channel.table = tree.table
        channel.relay = parking.relay
        channel.keep_open = keep_open
        channel.writeback = writeback
        channel.debug = debug
        channel.passthrough = passthrough
        channel.splice = splice
        channel.queues = queues
        channel.timeout_s = <uint64_t>timeout
        channel.timeout_ns = <uint32_t>((timeout - <double>channel.timeout_s) * 1e9)
        channel.owner = geteuid()
        channel.root_dev = root.st_dev
        channel.root_ino = root.st_ino
        channel.branch_paths = <char **>calloc(len(branches) or 1, sizeof(char *))
        if channel.branch_paths == NULL:
            raise MemoryError
        for path in branches:
            channel.branch_paths[channel.branches] = strdup(<bytes?>path)
            if channel.branch_paths[channel.branches] == NULL:
                raise MemoryError
            channel.branches += 1
        # Last: until here the descriptor is the caller's.
        channel.fd = fd

    def __dealloc__(self):
        cdef int i
        if self.channel == NULL:
            return
        with nogil:
            self.finish()
        for i in range(self.channel.branches):
            free(self.channel.branch_paths[i])
        free(self.channel.branch_paths)
        if self.channel.done_fd >= 0:
            sys_close(self.channel.done_fd)
        cond_destroy(&self.channel.changed)
        mutex_destroy(&self.channel.backing)
        mutex_destroy(&self.channel.mutex)
        free(self.channel)

    @property
    def done_fd(self):
        return self.channel.done_fd

    @property
    def initialised(self):
        return bool(self.channel.initialised)

    def start(self):
        cdef Channel *channel = self.channel
        cdef Reader *reader
        cdef int i
        cdef int result
        if channel.fd < 0 or atomic_get(&channel.stopping) or channel.readers:
            raise ValueError("cannot be started (again)")
        allow_wake_up()
        for i in range(self.reader_count):
            reader = <Reader *>calloc(1, sizeof(Reader))
            if reader != NULL:
                reader.request = <char *>malloc(REQUEST_CAPACITY)
                reader.reply = <char *>malloc(REPLY_CAPACITY)
            if reader == NULL or reader.request == NULL or reader.reply == NULL:
                reader_free(reader)
                self.stop()
                raise MemoryError
            reader.channel = channel
            reader.index = i
            mutex_lock(&channel.mutex)
            channel.readers += 1
            result = sys_thread(read_channel, reader, STACK)
            if result < 0:
                channel.readers -= 1
            mutex_unlock(&channel.mutex)
            if result < 0:
                reader_free(reader)
                self.stop()
                raise OSError(-result, "cannot start a thread")

    def stop(self):
        with nogil:
            self.interrupt_readers()

    def close(self):
        with nogil:
            self.finish()

    cdef void interrupt_readers(self) noexcept nogil:
        """A signal that comes between a reader's look at `stopping` and its read is lost: hence
        again and again until they have ended."""
        cdef Channel *channel = self.channel
        cdef TimeSpec until
        cdef int i
        mutex_lock(&channel.mutex)
        atomic_add(&channel.stopping, 1)
        while channel.readers:
            for i in range(MAX_READERS):
                if channel.reading[i]:
                    thread_kill(channel.reader_threads[i], SIGURG)
            clock_gettime(CLOCK_REALTIME, &until)
            until.tv_nsec += AGAIN_NS
            if until.tv_nsec >= 1000000000:
                until.tv_sec += 1
                until.tv_nsec -= 1000000000
            cond_timedwait(&channel.changed, &channel.mutex, &until)
        mutex_unlock(&channel.mutex)

    cdef void finish(self) noexcept nogil:
        cdef Channel *channel = self.channel
        if channel.fd < 0:
            return
        self.interrupt_readers()
        uring_stop(channel)
        parking_leave(channel)
        pool_drain(&channel.pool)
        uring_free(channel)
        sys_close(channel.fd)
        channel.fd = -1
