# cython: language_level=3
"""st_ino, for life.

A file that is copied up keeps the number it had: the copy carries it as a private xattr
("origin"), and
the directory that holds such copies is marked ("impure", the kernel's word for the same), so that
look-ups in all other directories need not ask for the xattr.
"""
from libc.errno cimport EOPNOTSUPP, EPERM
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport strtoull

from unionfs._nodes cimport Node, Table, dir_hide_ctime
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    Stat,
    mutex_lock,
    mutex_unlock,
    sys_getxattr,
    sys_getxattrat,
    sys_setxattr,
    sys_statx,
)
from unionfs._xattrs cimport xattr_impure, xattr_origin


cdef bint is_impure(Table *t, Node *directory, int dirfd) noexcept nogil:
    """May files of this upper directory have an origin? Asked of the branch once."""
    cdef char value[4]
    cdef bint impure
    if not directory.dir.impure_known:
        impure = sys_getxattr(dirfd, xattr_impure(t), value, sizeof(value)) > 0
        mutex_lock(&t.lock)
        if not directory.dir.impure_known:      # marked meanwhile: that is newer
            directory.dir.impure = impure
            directory.dir.impure_known = True
        mutex_unlock(&t.lock)
    return directory.dir.impure


cdef uint64_t find_ino(Table *t, Node *parent, int dirfd, const char *name, uint16_t branch,
                       uint64_t real) noexcept nogil:
    """st_ino: of an upper file that was copied up, its origin's; of any other its own."""
    cdef char value[24]
    cdef int64_t length
    cdef uint64_t origin = 0
    if branch == 0 and is_impure(t, parent, dirfd):
        length = sys_getxattrat(dirfd, name, xattr_origin(t), value, sizeof(value) - 1)
        if length > 0:
            value[length] = 0
            origin = strtoull(value, NULL, 10)
    return origin if origin else show_ino(t, branch, real)


cdef uint64_t show_ino(const Table *t, uint16_t branch, uint64_t ino) noexcept nogil:
    """st_ino of an inode of a branch: its own on the upper's filesystem, else with the filesystem's
    number in the high byte, which no filesystem of Linux fills in practice (as overlayfs' xino)."""
    return ino ^ (<uint64_t>t.branch[branch].fs << 56)


cdef int mark_impure(Table *t, Node *directory, int dirfd) noexcept nogil:
    """Notes on an upper directory, once, that its files may have an origin."""
    cdef Stat before
    cdef int r
    if is_impure(t, directory, dirfd):
        return 0
    r = sys_statx(dirfd, b"", AT_EMPTY_PATH, &before)
    if r == 0:
        r = sys_setxattr(dirfd, xattr_impure(t), b"y", 1, 0)
    if r == 0:
        dir_hide_ctime(t, directory, dirfd, &before)
        mutex_lock(&t.lock)
        directory.dir.impure = True
        directory.dir.impure_known = True
        mutex_unlock(&t.lock)
    # Where the mark cannot be set no file can have an origin.
    return 0 if r in (-EPERM, -EOPNOTSUPP) else r


cdef int record_origin(Table *t, Node *n, int fd) noexcept nogil:
    cdef char value[24]
    cdef int length = snprintf(value, sizeof(value), "%llu", <unsigned long long>n.ino)
    cdef int r = sys_setxattr(fd, xattr_origin(t), value, <size_t>length, 0)
    # user.* cannot be set on links and special files, nor anything where there are no xattrs.
    return 0 if r in (-EPERM, -EOPNOTSUPP) else r
