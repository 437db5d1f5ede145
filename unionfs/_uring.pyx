# cython: language_level=3, boundscheck=False, wraparound=False
"""FUSE over io_uring (Documentation/filesystems/fuse-io-uring.rst, Linux 6.14).

The kernel has a queue for each possible CPU.  Each gets a thread here, pinned to that CPU, with a
ring of its own and some slots registered in it.  A request arrives in a slot; the one system call
that hands over its reply also waits for the next request.

* Nothing goes through the queues before each of them has a slot, and from the reply to INIT that
  agrees on io_uring everything waits for that: so whatever can fail is done before the reply.
* FORGET and INTERRUPT still come by the channel: its readers stay.
* The kernel copies a request in the context of the thread that registered or last committed its
  slot.  So only the queue's own thread submits; others leave their replies in `Queue.finished`.
* A request that is parked or in the pool keeps its slot, and must not keep others waiting: a queue
  whose slots become few makes more, well before there are none.  For what comes when there are
  none is dispatched at the next commit only: new slots alone do not help it [seen on 6.18].
"""
from libc.errno cimport (
    EAGAIN, EBUSY, ECONNABORTED, EINTR, EIO, ENODEV, ENOMEM, ENOTCONN,
)
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

import os

from unionfs import log

from unionfs._channel cimport (
    MAX_WRITE, REPLY_CAPACITY, Channel, Queue, Slot, atomic_add,
    channel_reply, thread_self,
)
from unionfs._sys cimport (
    IoVec, cond_broadcast, cond_wait, mutex_destroy, mutex_init, mutex_lock, mutex_unlock,
    sys_close, sys_eventfd, sys_monotonic_ns, sys_thread, sys_write,
)
from unionfs._wire cimport InHeader, OutHeader

cdef extern from *:
    """
    #include <linux/io_uring.h>
    #include <sched.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <unistd.h>

    /* From <linux/fuse.h> of Linux 6.14; Debian's is older. */
    struct uring_header {
        char in_out[128];       /* fuse_in_header, then fuse_out_header */
        char op_in[128];        /* the operation's fixed part */
        uint64_t flags;
        uint64_t commit_id;
        uint32_t payload_size;
        uint32_t padding;
        uint64_t reserved;
    };
    struct uring_command {
        uint64_t flags;
        uint64_t commit_id;
        uint16_t queue;
        uint8_t padding[6];
    };
    enum { URING_REGISTER = 1, URING_COMMIT_AND_FETCH = 2 };

    /* One io_uring with SQEs of 128 bytes, used by one thread. */
    struct uring {
        int fd;
        unsigned entries, pending, sq_tail, *sq_head, *sq_tail_shared, sq_mask;
        unsigned *cq_head, *cq_tail, cq_mask;
        struct io_uring_cqe *cqes;
        char *sqes;
        void *rings;
        size_t rings_size, sqes_size;
    };

    static inline int uring_open(struct uring *u, unsigned entries) {
        struct io_uring_params p;
        size_t sq_size, cq_size;
        unsigned i, *array;
        memset(u, 0, sizeof *u);
        memset(&p, 0, sizeof p);
        p.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
        u->rings = u->sqes = MAP_FAILED;
        u->fd = (int)syscall(SYS_io_uring_setup, entries, &p);
        if (u->fd < 0)
            return -errno;
        sq_size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
        cq_size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
        u->rings_size = sq_size > cq_size ? sq_size : cq_size; /* IORING_FEAT_SINGLE_MMAP */
        u->sqes_size = p.sq_entries * 128;
        u->rings = mmap(NULL, u->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd,
                        IORING_OFF_SQ_RING);
        u->sqes = mmap(NULL, u->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd,
                       IORING_OFF_SQES);
        if (u->rings == MAP_FAILED || (void *)u->sqes == MAP_FAILED)
            return -errno;
        u->entries = p.sq_entries;
        u->sq_head = (unsigned *)((char *)u->rings + p.sq_off.head);
        u->sq_tail_shared = (unsigned *)((char *)u->rings + p.sq_off.tail);
        u->sq_mask = p.sq_entries - 1;
        array = (unsigned *)((char *)u->rings + p.sq_off.array);
        for (i = 0; i < p.sq_entries; i++)
            array[i] = i;
        u->cq_head = (unsigned *)((char *)u->rings + p.cq_off.head);
        u->cq_tail = (unsigned *)((char *)u->rings + p.cq_off.tail);
        u->cq_mask = p.cq_entries - 1;
        u->cqes = (struct io_uring_cqe *)((char *)u->rings + p.cq_off.cqes);
        return 0;
    }
    static inline void uring_close(struct uring *u) {
        if (u->sqes_size && (void *)u->sqes != MAP_FAILED)
            munmap(u->sqes, u->sqes_size);
        if (u->rings_size && u->rings != MAP_FAILED)
            munmap(u->rings, u->rings_size);
        if (u->fd >= 0)
            close(u->fd);
        u->fd = -1;
    }
    /* Submit what is pending and wait for `wait` completions. */
    static inline int uring_enter(struct uring *u, unsigned wait) {
        long r;
        __atomic_store_n(u->sq_tail_shared, u->sq_tail, __ATOMIC_RELEASE);
        r = syscall(SYS_io_uring_enter, u->fd, u->pending, wait, IORING_ENTER_GETEVENTS, NULL, 0);
        if (r < 0)
            return -errno;
        u->pending -= (unsigned)r;
        return 0;
    }
    static inline struct io_uring_sqe *uring_sqe(struct uring *u) {
        struct io_uring_sqe *sqe;
        while (u->pending == u->entries) {
            int r = uring_enter(u, 0);
            if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY)
                return NULL;
        }
        sqe = (struct io_uring_sqe *)(u->sqes + (size_t)(u->sq_tail & u->sq_mask) * 128);
        memset(sqe, 0, 128);
        u->sq_tail++;
        u->pending++;
        return sqe;
    }
    static inline int uring_submit_command(struct uring *u, int fd, unsigned command,
                                   uint16_t queue, uint64_t commit_id, const struct iovec *v,
                                   void *data) {
        struct io_uring_sqe *sqe = uring_sqe(u);
        struct uring_command *c;
        if (sqe == NULL)
            return -EIO;
        c = (struct uring_command *)((char *)sqe + 48);
        sqe->opcode = IORING_OP_URING_CMD;
        sqe->fd = fd;
        sqe->cmd_op = command;
        sqe->addr = (uint64_t)(uintptr_t)v;
        sqe->len = v != NULL ? 2 : 0;
        sqe->user_data = (uint64_t)(uintptr_t)data;
        c->queue = queue;
        c->commit_id = commit_id;
        return 0;
    }
    static inline int uring_submit_read(struct uring *u, int fd, void *buffer, unsigned size) {
        struct io_uring_sqe *sqe = uring_sqe(u);
        if (sqe == NULL)
            return -EIO;
        sqe->opcode = IORING_OP_READ;
        sqe->fd = fd;
        sqe->addr = (uint64_t)(uintptr_t)buffer;
        sqe->len = size;
        return 0; /* user_data NULL */
    }
    /* The next completion: 1, its data and its result; 0: there is none. */
    static inline int uring_next(struct uring *u, void **data, int *result) {
        unsigned head = *u->cq_head;
        struct io_uring_cqe *cqe;
        if (head == __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE))
            return 0;
        cqe = &u->cqes[head & u->cq_mask];
        *data = (void *)(uintptr_t)cqe->user_data;
        *result = cqe->res;
        __atomic_store_n(u->cq_head, head + 1, __ATOMIC_RELEASE);
        return 1;
    }
    static inline void *map_pages(size_t size) {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    static inline void unmap_pages(void *p, size_t size) { munmap(p, size); }
    /* The kernel takes the queue of the CPU that a caller runs on. Where we may not run there,
       the thread runs where we may. */
    static inline void run_on(int cpu) {
        cpu_set_t may, set;
        if (sched_getaffinity(0, sizeof may, &may) < 0 || cpu >= CPU_SETSIZE
            || !CPU_ISSET(cpu, &may))
            return;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    """
    cdef struct uring_header:
        char in_out[128]
        char op_in[128]
        uint64_t commit_id
        uint32_t payload_size
    ctypedef struct Uring "struct uring":
        int fd
    const int URING_REGISTER, URING_COMMIT_AND_FETCH
    int uring_open(Uring *u, unsigned entries) noexcept nogil
    void uring_close(Uring *u) noexcept nogil
    int uring_enter(Uring *u, unsigned wait) noexcept nogil
    int uring_submit_command(Uring *u, int fd, unsigned command, int queue, uint64_t commit_id,
                             const IoVec *v, void *data) noexcept nogil
    int uring_submit_read(Uring *u, int fd, void *buffer, unsigned size) noexcept nogil
    int uring_next(Uring *u, void **data, int *result) noexcept nogil
    void *map_pages(size_t size) noexcept nogil
    void unmap_pages(void *p, size_t size) noexcept nogil
    void run_on(int cpu) noexcept nogil

cdef enum:
    ENTRIES = 64            # submissions that fit into a ring; completions may be more
    # So many slots at first, and more when half of that are left. Each is a megabyte of
    # addresses, of which only what was used is memory.
    SLOTS = 64
    PAGE = 4096
    # What precedes the payload: the headers, and at its end room for the request's first parts.
    SLOT_SIZE = PAGE + REPLY_CAPACITY
    OP_SIZE = 128
    STACK = 512 * 1024

cdef enum State:
    STARTING = 0
    READY = 1
    FAILED = 2
    ENDED = 3

cdef struct Worker:
    Queue queue             # first: a slot knows it by this
    Channel *channel
    Uring ring
    State state
    int error
    Slot *slots             # all of them
    int idle                # slots the kernel has
    int live                # slots it has or we have
    char *reply
    uint64_t woken

cdef struct Workers:
    int count
    bint go                 # INIT is answered
    bint stop
    Worker each[1]


# Slots


cdef int add_slots(Worker *w) noexcept nogil:
    """Give the kernel some more slots."""
    cdef Slot *slot
    cdef uring_header *header
    cdef int _i, r
    for _i in range(SLOTS):
        slot = <Slot *>calloc(1, sizeof(Slot))
        if slot == NULL:
            return -ENOMEM
        slot.memory = <char *>map_pages(SLOT_SIZE)
        if slot.memory == NULL:
            free(slot)
            return -ENOMEM
        header = <uring_header *>slot.memory
        slot.queue = &w.queue
        slot.out = <OutHeader *>header.in_out
        slot.size = &header.payload_size
        slot.payload = slot.memory + PAGE
        slot.parts[0].iov_base = header
        slot.parts[0].iov_len = sizeof(uring_header)
        slot.parts[1].iov_base = slot.payload
        slot.parts[1].iov_len = MAX_WRITE
        slot.all = w.slots
        w.slots = slot
        r = uring_submit_command(&w.ring, w.channel.fd, URING_REGISTER, w.queue.number, 0,
                                 slot.parts, slot)
        if r < 0:
            return r
        w.idle += 1
        w.live += 1
    return 0


cdef void receive(Worker *w, Slot *slot) noexcept nogil:
    """Serve the request in a slot.

    Its parts are put together before the payload, as they are in a message of the channel. A
    request without a payload leaves that free for the reply.
    """
    cdef uring_header *header = <uring_header *>slot.memory
    cdef const InHeader *request = <const InHeader *>header.in_out
    cdef size_t payload = header.payload_size
    cdef size_t fixed = request.len - sizeof(InHeader) - payload
    cdef char *message = slot.payload - fixed - sizeof(InHeader)
    slot.commit_id = header.commit_id
    w.idle -= 1
    if fixed > OP_SIZE or payload > MAX_WRITE:
        atomic_add(&w.channel.malformed, 1)
        channel_reply(w.channel, slot, request.unique, -EIO, NULL, 0)
        return
    memcpy(message, request, sizeof(InHeader))
    memcpy(message + sizeof(InHeader), header.op_in, fixed)
    w.channel.serve(w.channel, message, request.len, w.reply if payload else slot.payload, NULL,
                    sys_monotonic_ns(), slot, NULL)


cdef int commit_finished(Worker *w) noexcept nogil:
    """Hand over all replies that are there; each slot then waits for its next request."""
    cdef Slot *slot
    cdef Slot *next
    cdef int r = 0
    mutex_lock(&w.queue.mutex)
    slot = w.queue.finished
    w.queue.finished = NULL
    mutex_unlock(&w.queue.mutex)
    while slot != NULL and r == 0:
        next = slot.next
        r = uring_submit_command(&w.ring, w.channel.fd, URING_COMMIT_AND_FETCH, w.queue.number,
                                 slot.commit_id, NULL, slot)
        w.idle += 1
        slot = next
    return r


# The threads


cdef void unexpected(int queue, int error) noexcept with gil:
    log.error(f"queue {queue} of FUSE over io_uring: {os.strerror(-error)}")


cdef int serve_queue(Worker *w) noexcept nogil:
    cdef Workers *workers = <Workers *>w.channel.workers
    cdef void *data
    cdef int result = 0, r = add_slots(w)
    if r == 0:
        r = uring_submit_read(&w.ring, w.queue.wake_fd, &w.woken, sizeof(w.woken))
    while r == 0 and w.live and not workers.stop:
        r = uring_enter(&w.ring, 1)
        if r == -EINTR or r == -EAGAIN or r == -EBUSY:
            r = 0
        while r == 0 and uring_next(&w.ring, &data, &result):
            if data == NULL:
                r = uring_submit_read(&w.ring, w.queue.wake_fd, &w.woken, sizeof(w.woken))
            elif result == 0:
                receive(w, <Slot *>data)
            else:
                # Unmounted, aborted, or refused: this slot gets no request any more.
                w.idle -= 1
                w.live -= 1
                if result != -ENOTCONN and result != -ECONNABORTED and result != -ENODEV:
                    r = result
        if r == 0:
            r = commit_finished(w)
        if r == 0 and w.idle < SLOTS // 2 and w.live:
            r = add_slots(w)
    return r


cdef void *run_queue(void *arg) noexcept nogil:
    cdef Worker *w = <Worker *>arg
    cdef Channel *channel = w.channel
    cdef Workers *workers = <Workers *>channel.workers
    cdef int r = uring_open(&w.ring, ENTRIES)
    w.queue.thread = thread_self()
    mutex_lock(&channel.mutex)
    w.error = r
    w.state = READY if r == 0 else FAILED
    cond_broadcast(&channel.changed)
    while not workers.go and not workers.stop:
        cond_wait(&channel.changed, &channel.mutex)
    mutex_unlock(&channel.mutex)
    if r == 0 and not workers.stop:
        run_on(w.queue.number)
        r = serve_queue(w)
        if r < 0:
            unexpected(w.queue.number, r)
    uring_close(&w.ring)
    mutex_lock(&channel.mutex)
    w.state = ENDED
    cond_broadcast(&channel.changed)
    mutex_unlock(&channel.mutex)
    return NULL


cdef int start_worker(Channel *channel, Workers *workers) noexcept nogil:
    cdef Worker *w = &workers.each[workers.count]
    cdef int r
    w.channel = channel
    w.queue.number = workers.count
    w.reply = <char *>malloc(REPLY_CAPACITY)
    if w.reply == NULL:
        return -ENOMEM
    w.queue.wake_fd = sys_eventfd()
    if w.queue.wake_fd < 0:
        free(w.reply)
        return w.queue.wake_fd
    mutex_init(&w.queue.mutex, NULL)
    r = sys_thread(run_queue, w, STACK)
    if r < 0:
        mutex_destroy(&w.queue.mutex)
        sys_close(w.queue.wake_fd)
        free(w.reply)
        return r
    workers.count += 1
    return 0


cdef int uring_prepare(Channel *channel) noexcept nogil:
    cdef Workers *workers
    cdef int i, _i, r = 0
    workers = <Workers *>calloc(1, sizeof(Workers) + sizeof(Worker) * <size_t>channel.queues)
    if workers == NULL:
        return -ENOMEM
    channel.workers = workers
    for _i in range(channel.queues):
        r = start_worker(channel, workers)
        if r < 0:
            break
    mutex_lock(&channel.mutex)
    for i in range(workers.count):
        while workers.each[i].state == STARTING:
            cond_wait(&channel.changed, &channel.mutex)
        r = min(r, workers.each[i].error)
    mutex_unlock(&channel.mutex)
    if r < 0:
        uring_stop(channel)
        uring_free(channel)
    return r


cdef void uring_start(Channel *channel) noexcept nogil:
    mutex_lock(&channel.mutex)
    (<Workers *>channel.workers).go = True
    cond_broadcast(&channel.changed)
    mutex_unlock(&channel.mutex)


cdef void uring_stop(Channel *channel) noexcept nogil:
    cdef Workers *workers = <Workers *>channel.workers
    cdef uint64_t one = 1
    cdef int i
    if workers == NULL:
        return
    mutex_lock(&channel.mutex)
    workers.stop = True
    cond_broadcast(&channel.changed)
    for i in range(workers.count):
        sys_write(workers.each[i].queue.wake_fd, &one, sizeof(one))
        while workers.each[i].state != ENDED:
            cond_wait(&channel.changed, &channel.mutex)
    mutex_unlock(&channel.mutex)


cdef void uring_free(Channel *channel) noexcept nogil:
    cdef Workers *workers = <Workers *>channel.workers
    cdef Worker *w
    cdef Slot *slot
    cdef int i
    if workers == NULL:
        return
    for i in range(workers.count):
        w = &workers.each[i]
        while w.slots != NULL:
            slot = w.slots
            w.slots = slot.all
            unmap_pages(slot.memory, SLOT_SIZE)
            free(slot)
        mutex_destroy(&w.queue.mutex)
        sys_close(w.queue.wake_fd)
        free(w.reply)
    free(workers)
    channel.workers = NULL
