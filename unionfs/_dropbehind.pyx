# cython: language_level=3, boundscheck=False, wraparound=False
"""Large sequential reads that leave no second copy of the data in the page cache.

What is read through the mount is in the mount's page cache. In the branch's it is of no more use,
unless it was there before: then somebody else reads it, another mount for instance. So behind a
stream, a file that is read far beyond its beginning, the branch's pages are dropped if they were
not there when the stream began (cachestat(2); before Linux 6.5 nothing is dropped).

Reading past the branch's page cache (RWF_DONTCACHE, Linux 6.14) does the same, but then the data
cannot be spliced: from a disk it took 1.6 times as long.
"""
from libc.stdint cimport int64_t, uint64_t

from unionfs._nodes cimport STREAMS, Node, Stream, Table
from unionfs._sys cimport mutex_lock, mutex_unlock, sys_cached, sys_drop_cached

cdef enum:
    # Bytes. A file of this size may stay in memory twice: it will be read again, by others too.
    FROM = 8 << 20
    # So much of what is to come is looked at when a stream begins.
    AHEAD = 4 << 20
    # Requests of one stream can come in another order, and may miss what the mount has cached.
    WINDOW = 16 << 20
    # Pages on their way to the mount cannot be dropped yet.
    LAG = 2 << 20
    # A folio goes as a whole or stays, and can have 2 MiB: so much goes at once, and is looked over
    # once more with what comes next.
    STEP = 8 << 20


cdef bint is_cold(int fd, uint64_t offset) noexcept nogil:
    """Whether the branch does not have in memory what is to come. Looked at beyond what it reads
    ahead when the file begins to be read."""
    return 0 <= sys_cached(fd, max(offset, <uint64_t>FROM), AHEAD) < AHEAD // 2


cdef void drop_behind(Table *t, Node *n, int fd, uint64_t offset) noexcept nogil:
    """See the declaration. Pages that are mapped or not on the disk yet stay."""
    cdef Stream *stream = &t.streams[n.id % STREAMS]
    cdef uint64_t begin = 0, end = 0
    cdef bint known, cold
    mutex_lock(&t.lock)
    known = (stream.node == n.id and offset < stream.offset + WINDOW
             and stream.offset < offset + WINDOW)
    if known:
        stream.offset = offset
        if stream.cold and offset >= stream.dropped + STEP + LAG:
            begin = max(stream.dropped - STEP, <uint64_t>FROM)
            end = stream.dropped = offset - LAG
    mutex_unlock(&t.lock)
    if end:
        sys_drop_cached(fd, <int64_t>begin, <int64_t>(end - begin))
    if known:
        return
    cold = is_cold(fd, offset)
    mutex_lock(&t.lock)
    stream.node = n.id
    stream.offset = offset
    stream.dropped = max(offset, <uint64_t>FROM)
    stream.cold = cold
    mutex_unlock(&t.lock)
