# cython: language_level=3
"""The layout of everything the wire shares between its threads.

`Channel` is one mount as the wire sees it, `Call` a request while a thread works on it,
`Request` the copy of one that outlives the thread that read it.

Locks, in the order in which they may be taken:

0. `Channel.backing`, held while a file is made a backing file, `tree_*` calls included.
1. `Relay.mutex`: every `Preparation`, the requests that wait for one, `Channel.closing`.
2. `Pool.mutex`: the queue of one pool.
3. `Channel.mutex`: the number of readers, the states of queues.
4. `Queue.mutex`: the slots with a reply.

None but the first is held while a `tree_*` function runs, but `tree_pin` and `tree_unpin`, nor
while anything is written to the channel or to the pair.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from unionfs._nodes cimport Table
from unionfs._operations cimport Op
from unionfs._sys cimport Cond, IoVec, Mutex
from unionfs._wire cimport OPCODES_END, InHeader, OutHeader

cdef extern from *:
    """
    #ifndef UNIONFS_ATOMIC_H
    #define UNIONFS_ATOMIC_H
    #include <pthread.h>
    #include <stdint.h>
    static inline void atomic_add(uint64_t *counter, uint64_t n) {
        __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
    }
    static inline void atomic_subtract(uint64_t *counter, uint64_t n) {
        __atomic_fetch_sub(counter, n, __ATOMIC_RELAXED);
    }
    static inline int thread_is_self(pthread_t thread) {
        return pthread_equal(thread, pthread_self());
    }
    static inline uint64_t atomic_get(const uint64_t *counter) {
        return __atomic_load_n(counter, __ATOMIC_RELAXED);
    }
    #endif
    """
    ctypedef struct Thread "pthread_t":
        pass
    Thread thread_self "pthread_self"() noexcept nogil
    bint thread_is_self(Thread thread) noexcept nogil
    int thread_kill "pthread_kill"(Thread thread, int number) noexcept nogil
    void atomic_add(uint64_t *counter, uint64_t n) noexcept nogil
    void atomic_subtract(uint64_t *counter, uint64_t n) noexcept nogil
    uint64_t atomic_get(const uint64_t *counter) noexcept nogil

# Which road a request took.
cdef enum Plane:
    FAST = 0        # on the thread that read it
    POOL = 1        # on the pool
    SLOW = 2        # on the pool, after the slow path had prepared it
    PLANES = 3

cdef enum:
    MAX_READERS = 64
    MAX_WRITE = 1 << 20
    REQUEST_CAPACITY = MAX_WRITE + 4096     # what the kernel wants to be able to send
    REPLY_CAPACITY = MAX_WRITE + 4096

# What a request names besides the node in its header.
cdef enum:
    NO_OTHER_NODE = -1
    NO_NODE = -2            # not even that

# What a handler returns: the length of the reply, -errno, or one of these.
cdef enum:
    RESULT_WAIT = -0x10001      # run it again where it may wait
    RESULT_PREPARE = -0x10002   # run it again after the slow path has prepared what Op says
    RESULT_SILENT = -0x10003    # the kernel expects no reply

cdef struct Counter:
    uint64_t count
    uint64_t errors
    uint64_t ns             # from reading the request to replying, parked time included

# A queue of FUSE over io_uring as those see it who have a reply for one of its slots.
cdef struct Queue:
    int number
    Thread thread           # which submits
    Mutex mutex
    Slot *finished          # slots with a reply
    int wake_fd             # an eventfd: another thread has added to them

# A place for one request, and then for its reply; see _uring.pyx.
cdef struct Slot:
    Queue *queue
    Slot *next              # of Queue.finished
    Slot *all               # of all slots of the queue
    char *memory
    char *payload
    OutHeader *out
    uint32_t *size          # of the payload
    uint64_t commit_id
    IoVec parts[2]

# What one thread has for replies that it does not copy; see _splice.pyx.
cdef struct Pipes:
    bint made
    bint refused            # they cannot be had
    int data[2]
    int reply[2]

cdef struct Request:
    Request *next
    Channel *channel
    Slot *slot              # where it came in, NULL: by the channel
    uint64_t arrived        # CLOCK_MONOTONIC
    int prepared            # rounds through the slow path
    int pins
    uint64_t pinned[2]      # the nodes it names
    size_t size
    char bytes[8]           # `size` bytes as they were read

cdef struct Pool:
    Mutex mutex
    Cond changed            # a request was queued, a thread ended, or the pool is to end
    Request *first
    Request *last
    int queued
    int threads
    int idle
    int away                # threads that wait for the kernel, which may need another one
    bint stopping

# One thing the slow path is asked to make ready, and who waits for it.
cdef struct Preparation:
    Preparation *next
    Channel *channel
    uint64_t id             # the `unique` of the request on the pair
    uint64_t node
    int kind                # a Prepare
    uint64_t keep           # see Op.prepare_keep
    bint sent
    Request *waiting

cdef struct Relay:
    Mutex mutex
    Cond changed
    Preparation *first      # all of them, the oldest first
    uint64_t last_id
    int fd                  # our end of the pair; -1 while no slow path runs
    int in_flight           # preparations sent and not answered
    bint receiving          # the thread that reads the answers runs
    bint closed

cdef struct Channel:
    int fd
    int done_fd             # an eventfd, readable when the last reader has ended
    Table *table
    Relay *relay
    # settings
    bint keep_open
    bint writeback
    bint passthrough        # wanted, and as far as is known possible
    bint splice             # large replies need not be copied
    bint debug
    uint64_t timeout_s
    uint32_t timeout_ns
    # negotiated
    bint initialised
    bint setxattr_ext
    # who is told host paths, and which
    uint32_t owner
    uint64_t root_dev
    uint64_t root_ino
    int branches
    char **branch_paths
    # threads
    Mutex mutex
    Cond changed
    int readers
    bint closing            # nothing may be parked any more
    int preparations        # asked for by this mount and not done with
    bint reading[MAX_READERS]
    Thread reader_threads[MAX_READERS]
    Pool pool
    Mutex backing           # see _passthrough.pyx
    int queues              # possible CPUs; 0: io_uring is not wanted
    void *workers           # see _uring.pyx
    void (*serve)(Channel *channel, const char *bytes, size_t size, char *reply,
                  Request *request, uint64_t arrived, Slot *slot, Pipes *pipes) noexcept nogil
    void (*run)(Request *request, char *reply) noexcept nogil
    # changed and read atomically
    uint64_t stopping       # nothing more is to be read
    Counter counters[OPCODES_END][PLANES]
    uint64_t parked
    uint64_t refused        # replies the kernel would not take
    uint64_t malformed      # requests too short to be answered

cdef struct Call:
    Channel *channel
    Slot *slot
    const InHeader *header
    const char *body
    size_t size             # of the body
    char *reply
    size_t capacity         # of the reply
    Pipes *pipes            # NULL: the reply must be copied
    bint piped              # the reply is in them
    Op op
    Plane plane
    uint64_t arrived
    const char *name        # the first name in the request, for the debug log
    size_t name_length

# `slot`: where the request came in, NULL: by the channel.
cdef int channel_reply(Channel *channel, Slot *slot, uint64_t unique, int error, const void *data,
                       size_t size) noexcept nogil
# Has the kernel write out and drop its pages of a range (length 0: to the end); waits for that, so
# never on a thread that reads the channel, nor under a lock.
cdef int channel_invalidate(Channel *channel, uint64_t node, int64_t offset,
                            int64_t length) noexcept nogil
cdef void account(Channel *channel, const InHeader *header, Plane plane, uint64_t arrived,
                  const char *name, size_t name_length, int64_t result) noexcept nogil
cdef Request *request_keep(const Call *call, int other, int *error) noexcept nogil
cdef void request_finish(Request *request, int error) noexcept nogil
cdef void request_free(Request *request) noexcept nogil
cdef const char *opcode_name(uint32_t opcode) noexcept nogil
cdef void name_opcode(uint32_t opcode, const char *name) noexcept nogil
