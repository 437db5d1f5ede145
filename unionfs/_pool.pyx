# cython: language_level=3, boundscheck=False, wraparound=False
"""An elastic pool of threads for what may block: two fsyncs must never stop a mount."""
from libc.stdlib cimport free, malloc
from libc.time cimport time

from unionfs._channel cimport REPLY_CAPACITY, Channel, Pool, Request
from unionfs._sys cimport (
    TimeSpec, cond_broadcast, cond_init, cond_signal, cond_timedwait, cond_wait, mutex_init,
    mutex_lock, mutex_unlock, sys_thread,
)

cdef enum:
    # Threads are made when a request finds none idle, up to so many ...
    THREADS = 64
    # ... and end after so many seconds without work.
    IDLE_SECONDS = 10
    STACK = 512 * 1024

cdef extern from *:
    """
    static __thread int is_pool_thread;
    """
    int is_pool_thread

cdef struct Worker:
    Channel *channel
    char *reply


cdef void pool_init(Pool *pool) noexcept nogil:
    mutex_init(&pool.mutex, NULL)
    cond_init(&pool.changed, NULL)
    pool.first = pool.last = NULL
    pool.queued = pool.threads = pool.idle = pool.away = 0
    pool.stopping = False


cdef inline Request *take(Pool *pool) noexcept nogil:
    cdef Request *request = pool.first
    pool.first = request.next
    if pool.first == NULL:
        pool.last = NULL
    pool.queued -= 1
    request.next = NULL
    return request


cdef void *serve_pool(void *arg) noexcept nogil:
    cdef Worker worker = (<Worker *>arg)[0]
    cdef Channel *channel = worker.channel
    cdef Pool *pool = &channel.pool
    cdef Request *request
    cdef TimeSpec until
    cdef bint rested = False
    global is_pool_thread
    is_pool_thread = True
    free(arg)
    mutex_lock(&pool.mutex)
    while True:
        if pool.first != NULL:
            request = take(pool)
            mutex_unlock(&pool.mutex)
            channel.run(request, worker.reply)
            rested = False
            mutex_lock(&pool.mutex)
        elif pool.stopping or rested:
            break
        else:
            until.tv_sec = time(NULL) + IDLE_SECONDS
            until.tv_nsec = 0
            pool.idle += 1
            rested = cond_timedwait(&pool.changed, &pool.mutex, &until) != 0
            pool.idle -= 1
    pool.threads -= 1
    free(worker.reply)
    cond_broadcast(&pool.changed)
    mutex_unlock(&pool.mutex)
    return NULL


cdef bint start_thread(Channel *channel) noexcept nogil:
    """One thread more; its buffer is made here, so that a thread that runs can always serve."""
    cdef Worker *worker = <Worker *>malloc(sizeof(Worker))
    if worker == NULL:
        return False
    worker.channel = channel
    worker.reply = <char *>malloc(REPLY_CAPACITY)
    if worker.reply == NULL or sys_thread(serve_pool, worker, STACK) < 0:
        free(worker.reply)
        free(worker)
        return False
    channel.pool.threads += 1
    return True


cdef void pool_submit(Channel *channel, Request *request, char *reply) noexcept nogil:
    """Have a pool thread run the request.

    Where not even one thread can be had it is run here, with `reply` as its buffer (NULL: one is
    made for it): late is better than never.
    """
    cdef Pool *pool = &channel.pool
    cdef char *own
    mutex_lock(&pool.mutex)
    if pool.idle <= pool.queued and pool.threads - pool.away < THREADS:
        if not start_thread(channel) and pool.threads == pool.away:
            mutex_unlock(&pool.mutex)
            own = <char *>malloc(REPLY_CAPACITY) if reply == NULL else NULL
            channel.run(request, own if reply == NULL else reply)
            free(own)
            return
    request.next = NULL
    if pool.last == NULL:
        pool.first = request
    else:
        pool.last.next = request
    pool.last = request
    pool.queued += 1
    cond_signal(&pool.changed)
    mutex_unlock(&pool.mutex)


cdef bint pool_leave(Channel *channel) noexcept nogil:
    cdef Pool *pool = &channel.pool
    if not is_pool_thread:
        return False
    mutex_lock(&pool.mutex)
    pool.away += 1
    if pool.idle < pool.queued:
        start_thread(channel)
    mutex_unlock(&pool.mutex)
    return True


cdef void pool_enter(Channel *channel) noexcept nogil:
    mutex_lock(&channel.pool.mutex)
    channel.pool.away -= 1
    mutex_unlock(&channel.pool.mutex)


cdef void pool_drain(Pool *pool) noexcept nogil:
    """Run what is queued, then end every thread; returns when they are gone."""
    mutex_lock(&pool.mutex)
    pool.stopping = True
    cond_broadcast(&pool.changed)
    while pool.threads:
        cond_wait(&pool.changed, &pool.mutex)
    mutex_unlock(&pool.mutex)
