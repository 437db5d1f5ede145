# cython: language_level=3
"""Owner, mode and type of a file kept in an extended attribute, for daemons that may not set them.

A branch whose root directory has one of the attributes below keeps them there for every file; a
file without is as it looks. The names are fuse-overlayfs' and containers/storage's, the value is
``uid:gid:mode:type`` (`FormatContainersOverrideXattrDevice` in the latter), ids and device numbers
decimal, the mode octal. `type` is file, dir, symlink, pipe, socket, block-MAJOR-MINOR or
char-MAJOR-MINOR; fuse-overlayfs 1.10 leaves it out, and the file then has its own. Devices, FIFOs
and sockets are empty regular files.

Whoever owns a file can write its user.* attributes. A record counts only where that gives him
nothing: on a file of the daemon's; on another where it names the file's own user and group, no
device, and no set-group-id bit that the file does not have.
"""
from libc.stdint cimport uint32_t

from unionfs._sys cimport Stat
from unionfs._unmapped cimport Unmapped

cdef struct Override:
    const char *name        # the attribute; NULL: the branch keeps nothing there
    bint by_root            # security.*, which only root can write
    uint32_t owner          # whose files may say anything: the daemon's, and those of users that
    Unmapped *unmapped      # its namespace does not know; NULL: it knows all

# How the branch with this root directory keeps them.
cdef Override override_of(int root, uint32_t owner, Unmapped *unmapped) noexcept nogil
# May a record say anything about this file? *stored: its attributes, after unmapped_show.
cdef bint override_trusts(const Override *o, const Stat *stored) noexcept nogil

# What statx(2) has said of a file becomes what the branch says: an owner without an id here is
# NO_ID, and a record counts if there is one. A record that cannot be understood, or does not count,
# is none.
cdef void override_show(const Override *o, int fd, Stat *st) noexcept nogil
cdef void override_show_at(const Override *o, int dirfd, const char *file, Stat *st) noexcept nogil
# Records the owner, the mode, the type and the device numbers in *st. -EPERM for a file that cannot
# have the attribute: user.* exists on regular files and directories only (xattr(7)).
cdef int override_write(const Override *o, int fd, const Stat *st) noexcept nogil
# The permissions that the file itself gets: the daemon can always read and write it, set-id bits
# have no effect, and nobody else may do more than the record says.
cdef uint32_t override_mode(uint32_t mode) noexcept nogil
