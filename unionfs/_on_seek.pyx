# cython: language_level=3, boundscheck=False, wraparound=False
"""SEEK_DATA and SEEK_HOLE, also where only the page cache knows that there is data.

What a mapping has changed (or, with writeback caching, a write) stays in the kernel's pages until
it is written out, and the kernel sends LSEEK without doing that first: `cp` would take such pages
for holes and skip them. So where a branch says "hole", and pages may say otherwise, the kernel is
asked to write out and drop the pages of just that range. Files without holes cost nothing.
"""
from libc.errno cimport ENXIO
from libc.stdint cimport int64_t, uint64_t

from unionfs._call cimport done
from unionfs._channel cimport RESULT_WAIT, Call, channel_invalidate
from unionfs._operations cimport tree_lseek
from unionfs._pool cimport pool_enter, pool_leave
from unionfs._sys cimport SEEK_DATA, SEEK_END, SEEK_HOLE
from unionfs._wire cimport LseekIn, LseekOut


cdef int64_t ask(Call *call, int64_t offset, int whence) noexcept nogil:
    """The branch's answer."""
    return tree_lseek(call.channel.table, &call.op, call.header.nodeid,
                      (<const LseekIn *>call.body).fh, offset, whence)


cdef bint may_be_dirty(Call *call, int64_t offset, int whence, int64_t found) noexcept nogil:
    """Could a page say something else than the branch has said?"""
    cdef int64_t size
    if not call.channel.table.writable or found < 0 and found != -ENXIO:
        return False
    if whence == SEEK_DATA and found == offset:
        return False
    if call.channel.writeback:
        return True             # a file may be longer in the cache
    size = ask(call, 0, SEEK_END)
    return offset < size and not (whence == SEEK_HOLE and found == size)


cdef void write_out(Call *call, int64_t start, int64_t end) noexcept nogil:
    """See the declaration (end -ENXIO: to the end).

    The kernel waits for our answer to its WRITEs, which may need the pool: hence pool_leave().
    """
    if not pool_leave(call.channel):
        return                  # without memory for a thread: a serving one must not wait here
    channel_invalidate(call.channel, call.header.nodeid, start,
                       end - start if end >= 0 else <int64_t>TO_THE_END)
    pool_enter(call.channel)


cdef int64_t seek_hole(Call *call, int64_t offset, int64_t found) noexcept nogil:
    """From one hole of the branch to the next, until one is not covered by a page."""
    cdef int64_t start = found, end, again
    while True:
        if start < 0:
            start = offset      # behind the end of what the branch has
        end = ask(call, start, SEEK_DATA)
        write_out(call, start, end)
        again = ask(call, offset, SEEK_HOLE)
        if again < 0 or again <= start or end < 0 or again < end:
            return again
        if not may_be_dirty(call, offset, SEEK_HOLE, again):
            return again
        start = again


cdef int64_t on_lseek(Call *call) noexcept nogil:
    cdef const LseekIn *request = <const LseekIn *>call.body
    cdef int64_t offset = <int64_t>request.offset
    cdef int whence = <int>request.whence
    cdef int64_t found = ask(call, offset, whence)
    if (whence == SEEK_DATA or whence == SEEK_HOLE) and may_be_dirty(call, offset, whence, found):
        if not call.op.may_wait:
            return RESULT_WAIT
        if whence == SEEK_DATA:
            write_out(call, offset, found)
            found = ask(call, offset, whence)
        else:
            found = seek_hole(call, offset, found)
    (<LseekOut *>call.reply).offset = <uint64_t>found
    return done(found, sizeof(LseekOut))
