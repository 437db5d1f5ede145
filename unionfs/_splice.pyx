# cython: language_level=3, boundscheck=False, wraparound=False
"""Large replies to READ by splice(2): pages of a file are handed over in pipes.

One copy remains, the kernel's from the branch's page to the mount's. A reply begins with its
length, which is known only when the data is in a pipe; so there are two, and what is in the first
moves behind the header in the second.
"""
from libc.errno cimport EIO
from libc.stdint cimport int64_t, uint64_t

from unionfs._channel cimport Channel, Pipes
from unionfs._sys cimport sys_close, sys_pipe, sys_pipe_size, sys_splice, sys_write
from unionfs._wire cimport OutHeader

cdef enum:
    PAGE = 4096
    # The most that everybody may have (fs.pipe-max-size, pipe(7)).
    PIPE_SIZE = 1 << 20


cdef bint pipe_new(int *ends) noexcept nogil:
    if sys_pipe(ends) < 0:
        ends[0] = ends[1] = -1
        return False
    return sys_pipe_size(ends[0], PIPE_SIZE) >= PIPE_SIZE


cdef bint pipes_take(Pipes *pipes, size_t size) noexcept nogil:
    # A page for the header, one because a range may begin inside a page.
    if pipes == NULL or pipes.refused or size > PIPE_SIZE - 2 * PAGE:
        return False
    if not pipes.made:
        pipes.made = True
        pipes.reply[0] = pipes.reply[1] = -1
        if not pipe_new(pipes.data) or not pipe_new(pipes.reply):
            # No descriptors, or the user's share of such memory is used up (pipe(7)).
            pipes_close(pipes)
            pipes.refused = True
    return pipes.made


cdef void pipes_close(Pipes *pipes) noexcept nogil:
    cdef int i
    if not pipes.made:
        return
    for i in range(2):
        if pipes.data[i] >= 0:
            sys_close(pipes.data[i])
        if pipes.reply[i] >= 0:
            sys_close(pipes.reply[i])
    pipes.made = False


cdef int64_t move(int from_fd, int to_fd, size_t size) noexcept nogil:
    cdef size_t moved = 0
    cdef int64_t r = 0
    while moved < size:
        r = sys_splice(from_fd, NULL, to_fd, size - moved)
        if r <= 0:
            return r if r < 0 else -EIO
        moved += r
    return 0


cdef int splice_reply(Channel *channel, Pipes *pipes, uint64_t unique, size_t size) noexcept nogil:
    cdef OutHeader header
    cdef int64_t r
    header.len = <unsigned>(sizeof(header) + size)
    header.error = 0
    header.unique = unique
    r = sys_write(pipes.reply[1], &header, sizeof(header))
    if r > 0:
        r = move(pipes.data[0], pipes.reply[1], size)
    if r == 0:
        # In one piece: the kernel takes no more than one reply from a call, and no less.
        r = sys_splice(pipes.reply[0], NULL, channel.fd, header.len)
    if r != header.len:
        pipes_close(pipes)
        return <int>r if r < 0 else -EIO
    return 0
