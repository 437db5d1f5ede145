# cython: language_level=3, boundscheck=False, wraparound=False
"""FUSE passthrough (Documentation/filesystems/fuse-passthrough.rst, Linux 6.9).

The kernel gives a number to a file that it is shown; a reply to OPEN with that number has it read
and write the file by itself.  All that have a node open must have the same number, so numbers are
asked for one at a time: an ioctl that takes a reference is all that is done meanwhile.
_backing.pyx of the tree says which files qualify.
"""
from libc.errno cimport EPERM
from libc.stdint cimport int32_t, uint64_t

from unionfs._channel cimport Channel
from unionfs._operations cimport tree_backing, tree_release, tree_set_backing
from unionfs._sys cimport mutex_lock, mutex_unlock
from unionfs._wire cimport OPEN_KEEP_CACHE, OPEN_PASSTHROUGH, OpenOut

cdef extern from *:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <sys/ioctl.h>

    /* From <linux/fuse.h> of Linux 6.9; Debian's is older. */
    struct backing_map {
        int32_t fd;
        uint32_t flags;
        uint64_t padding;
    };
    static inline int backing_open(int channel, int fd) {
        struct backing_map map = {.fd = fd};
        int r = ioctl(channel, _IOW(229, 1, struct backing_map), &map);
        return r < 0 ? -errno : r;
    }
    static inline int backing_close(int channel, int32_t id) {
        uint32_t number = (uint32_t)id;
        int r = ioctl(channel, _IOW(229, 2, uint32_t), &number);
        return r < 0 ? -errno : r;
    }
    """
    int backing_open(int channel, int fd) noexcept nogil
    int backing_close(int channel, int32_t id) noexcept nogil


cdef void passthrough_open(Channel *channel, uint64_t handle, OpenOut *out) noexcept nogil:
    cdef int32_t backing = 0
    cdef int fd
    if not channel.passthrough:
        # The data in the page cache is right whoever opened the file before: only we change it.
        out.open_flags = OPEN_KEEP_CACHE
        return
    mutex_lock(&channel.backing)
    fd = tree_backing(channel.table, handle, &backing)
    if fd > 0:
        backing = backing_open(channel.fd, fd)
        if backing == -EPERM:
            channel.passthrough = False     # not from here, so never: CAP_SYS_ADMIN is missing
        # Other errors are the file's: its filesystem is itself a stacked one (ELOOP), for example.
        backing = max(backing, 0)
        tree_set_backing(channel.table, handle, backing)
    mutex_unlock(&channel.backing)
    if backing:
        out.open_flags = OPEN_PASSTHROUGH
        out.backing_id = backing
    # Else without KEEP_CACHE: what was passed through before has left the page cache behind.


cdef int passthrough_release(Channel *channel, uint64_t handle) noexcept nogil:
    cdef int32_t backing = 0
    cdef int r = tree_release(channel.table, handle, &backing)
    if backing:
        backing_close(channel.fd, backing)
    return r
