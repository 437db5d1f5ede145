# cython: language_level=3
"""Copies of data; see the declaration."""
from libc.errno cimport EINVAL, EIO, ENOMEM, ENOSYS, ENXIO, EOPNOTSUPP, EXDEV
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc

from unionfs._sys cimport (
    SEEK_DATA,
    SEEK_HOLE,
    sys_clone,
    sys_copy_file_range,
    sys_ftruncate,
    sys_lseek,
    sys_pread,
    sys_pwrite,
)

cdef enum:
    CHUNK = 1048576
    # Below this, one read and one write are quicker than asking for a clone first.
    SMALL = 65536


cdef int copy_buffered(int from_fd, int to_fd, int64_t at, int64_t end) noexcept nogil:
    """Copies [at, end) through a buffer; a file that got shorter meanwhile ends early."""
    cdef size_t size = <size_t>min(end - at, <int64_t>CHUNK)
    cdef char *buffer
    cdef int64_t got, put, done
    cdef int r = 0
    if end <= at:
        return 0
    buffer = <char *>malloc(size)
    if buffer == NULL:
        return -ENOMEM
    while r == 0 and at < end:
        got = sys_pread(from_fd, buffer, <size_t>min(<int64_t>size, end - at), at)
        if got <= 0:
            r = <int>got
            break
        done = 0
        while r == 0 and done < got:
            put = sys_pwrite(to_fd, buffer + done, <size_t>(got - done), at + done)
            if put <= 0:
                r = <int>put if put < 0 else -EIO
            else:
                done += put
        at += got
    free(buffer)
    return r


cdef int copy_extent(int from_fd, int to_fd, int64_t at, int64_t end) noexcept nogil:
    """Copies [at, end) inside the kernel where it can, through a buffer where not."""
    cdef int64_t from_at = at, to_at = at, copied
    while from_at < end:
        copied = sys_copy_file_range(from_fd, &from_at, to_fd, &to_at, <size_t>(end - from_at))
        if copied == 0:
            return 0
        if copied < 0:
            if copied in (-EXDEV, -EINVAL, -ENOSYS, -EOPNOTSUPP):
                return copy_buffered(from_fd, to_fd, from_at, end)
            return <int>copied
    return 0


cdef int blocks_copy(int from_fd, int to_fd, uint64_t length, bint sparse) noexcept nogil:
    """Copies [0, length) of a file into an empty one, hole for hole where it may be sparse."""
    cdef int64_t size = <int64_t>length, at = 0, data, hole
    cdef int r
    if length == 0:
        return 0
    if length > SMALL and sys_clone(to_fd, from_fd) == 0:
        return sys_ftruncate(to_fd, size)
    if not sparse:
        if length <= SMALL:
            return copy_buffered(from_fd, to_fd, 0, size)
        return copy_extent(from_fd, to_fd, 0, size)
    r = sys_ftruncate(to_fd, size)
    while r == 0 and at < size:
        data = sys_lseek(from_fd, at, SEEK_DATA)
        if data == -ENXIO:
            return 0            # a hole up to the end
        if data < 0:
            return copy_extent(from_fd, to_fd, at, size)
        hole = sys_lseek(from_fd, data, SEEK_HOLE)
        if hole < 0 or hole > size:
            hole = size
        if data < hole:
            r = copy_extent(from_fd, to_fd, data, hole)
        at = hole
    return r
