# cython: language_level=3, boundscheck=False, wraparound=False
"""FUSE passthrough (Documentation/filesystems/fuse-passthrough.rst, Linux 6.9).

The kernel gives a number to a file that it is shown; a reply to OPEN with that number has it read
and write the file by itself.  All that have a node open must have the same number, so numbers are
asked for one at a time: an ioctl that takes a reference is all that is done meanwhile.
_backing.pyx of the tree says which files qualify.

The kernel opens the backing file with the flags of the application's open(2), and those stay:
fcntl(F_SETFL) changes the application's file only.  O_APPEND and O_DIRECT are in force if either
file has them, so they can be set later, but not taken back (backing_file_write_iter() in
fs/backing-file.c hands IOCB_APPEND on and never takes it away; O_DIRECT is the backing file's
alone).  A descriptor that is opened with one of them therefore reads and writes by requests, which
carry its flags of that moment, and only its mappings are the backing file's: with FOPEN_DIRECT_IO
beside FOPEN_PASSTHROUGH it counts as passed through (fs/fuse/iomode.c), and nothing is cached.
Only splice(2) and sendfile(2) from such a descriptor would fill the mount's page cache
(fuse_splice_read()), which nobody keeps up to date then: they are refused.

Stores through a mapping of the backing file move its times, and no request tells.  So the kernel
must ask for the attributes each time, from the first open for writing on: see tree_unseen().
"""
from libc.errno cimport EPERM
from libc.stdint cimport int32_t, uint32_t, uint64_t

from unionfs._channel cimport Channel, channel_invalidate
from unionfs._operations cimport (
    tree_backing,
    tree_begin_unseen,
    tree_passed,
    tree_release,
    tree_set_backing,
)
from unionfs._sys cimport (
    O_ACCMODE,
    O_APPEND,
    O_DIRECT,
    O_RDONLY,
    mutex_lock,
    mutex_unlock,
)
from unionfs._wire cimport (
    OPEN_DIRECT_IO,
    OPEN_KEEP_CACHE,
    OPEN_PASSTHROUGH,
    READ_LOCKOWNER,
    OpenOut,
)

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

cdef enum:
    ATTRIBUTES_ONLY = -1        # an offset: no pages


cdef void passthrough_open(Channel *channel, uint64_t node, uint64_t handle, uint32_t flags,
                           OpenOut *out) noexcept nogil:
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
        if flags & (O_APPEND | O_DIRECT):
            out.open_flags |= OPEN_DIRECT_IO
        out.backing_id = backing
        if flags & O_ACCMODE != O_RDONLY and tree_begin_unseen(channel.table, node):
            # What the kernel has of the attributes it would keep. The request has a reference to
            # its inode, so this waits for nothing.
            channel_invalidate(channel, node, ATTRIBUTES_ONLY, 0)
    # Else without KEEP_CACHE: what was passed through before has left the page cache behind.


cdef bint passthrough_may_read(const Channel *channel, uint64_t node,
                               uint32_t read_flags) noexcept nogil:
    # Direct I/O names an owner of locks, and the page cache has none.
    return not channel.passthrough or read_flags & READ_LOCKOWNER or (
        not tree_passed(channel.table, node))


cdef int passthrough_release(Channel *channel, uint64_t handle) noexcept nogil:
    cdef int32_t backing = 0
    cdef int r = tree_release(channel.table, handle, &backing)
    if backing:
        backing_close(channel.fd, backing)
    return r
