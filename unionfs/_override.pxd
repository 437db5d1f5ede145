# cython: language_level=3
"""Owner, mode and type of a file kept in an extended attribute, for daemons that may not set them.

A branch whose root directory has one of the attributes below keeps them there for every file; a
file without is as it looks. The names are fuse-overlayfs' and containers/storage's, the value is
``uid:gid:mode:type`` (`FormatContainersOverrideXattrDevice` in the latter), ids and device numbers
decimal, the mode octal. `type` is file, dir, symlink, pipe, socket, block-MAJOR-MINOR or
char-MAJOR-MINOR; fuse-overlayfs 1.10 leaves it out, and the file then has its own. Devices, FIFOs
and sockets are empty regular files.
"""
from libc.stdint cimport uint32_t

from unionfs._sys cimport Stat

# The attribute that a branch keeps them in, by its root directory; NULL: it does not.
cdef const char *override_of(int root) noexcept nogil

# Below, `name` is the branch's attribute, which may be NULL: then nothing happens. A record that
# cannot be understood counts as none.
cdef void override_show(const char *name, int fd, Stat *st) noexcept nogil
cdef void override_show_at(const char *name, int dirfd, const char *file, Stat *st) noexcept nogil
# Records the owner, the mode, the type and the device numbers in *st. -EPERM for a file that cannot
# have the attribute: user.* exists on regular files and directories only (xattr(7)).
cdef int override_write(const char *name, int fd, const Stat *st) noexcept nogil
# The permissions that the file itself gets: the daemon can always read and write it, set-id bits
# have no effect, and nobody else may do more than the record says.
cdef uint32_t override_mode(uint32_t mode) noexcept nogil
