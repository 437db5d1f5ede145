# cython: language_level=3
"""st_ino, for life.

A file that is copied up keeps the number it had: the copy carries it as a private xattr ("origin"),
and the directory that holds such copies is marked ("impure", the kernel's word for the same), so
that look-ups in all other directories need not ask for the xattr.

Some files cannot carry it: ``user.*``, which is all that an ordinary user has, exists on regular
files and directories only and is read with the right to read the file (xattr(7)). Of those the work
directory has a record: ``origins/NUMBER``, NUMBER being the inode of the copy, says the origin and
when the copy was born. A file that gets the same inode later was born later.
"""
from libc.errno cimport EACCES, EOPNOTSUPP, EPERM
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport strtoull
from libc.string cimport strcmp

from unionfs._directories cimport dir_hide_ctime
from unionfs._nodes cimport LINK_NAME, Node, Table, link_name
from unionfs._state cimport state_directory, state_open, state_write
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    S_IRUSR,
    STATX_BTIME,
    Stat,
    mutex_lock,
    mutex_unlock,
    sys_getxattr,
    sys_getxattrat,
    sys_readlinkat,
    sys_setxattr,
    sys_statx,
    sys_unlinkat,
)
from unionfs._xattrs cimport xattr_impure, xattr_origin

cdef const char *DIRECTORY = "origins"

cdef enum:
    RECORD = 64


# --- marked directories --------------------------------------------------------------------

cdef int known_impure(Table *t, Node *directory) noexcept nogil:
    """-1: not known."""
    cdef int known = -1
    mutex_lock(&t.lock)
    if directory.dir.impure_known:
        known = directory.dir.impure
    mutex_unlock(&t.lock)
    return known


cdef bint is_impure(Table *t, Node *directory, int dirfd) noexcept nogil:
    """May files of this upper directory have an origin? Asked of the branch once."""
    cdef char value[4]
    cdef int64_t length
    cdef bint impure
    cdef int known = known_impure(t, directory)
    if known >= 0:
        return known
    length = sys_getxattr(dirfd, xattr_impure(t), value, sizeof(value))
    if length == -EACCES:
        return True             # a directory that its owner may not read
    impure = length > 0 or length == -EOPNOTSUPP
    mutex_lock(&t.lock)
    if directory.dir.impure_known:      # marked meanwhile: that is newer
        impure = directory.dir.impure
    directory.dir.impure = impure
    directory.dir.impure_known = True
    mutex_unlock(&t.lock)
    return impure


cdef int mark_impure(Table *t, Node *directory, int dirfd) noexcept nogil:
    """Notes on an upper directory, once, that its files may have an origin."""
    cdef Stat before
    cdef int r
    if is_impure(t, directory, dirfd) and known_impure(t, directory) >= 0:
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


# --- records -------------------------------------------------------------------------------

cdef int origins_open(Table *t) noexcept nogil:
    return state_open(t, DIRECTORY, &t.origins_fd)


cdef void birth_text(const Stat *st, char *text) noexcept nogil:
    snprintf(text, BIRTH, " %lld.%09u", <long long>st.stx_btime.tv_sec,
             <unsigned>st.stx_btime.tv_nsec)


cdef int write_record(Table *t, Node *n, int fd) noexcept nogil:
    cdef char name[LINK_NAME]
    cdef char birth[BIRTH]
    cdef char value[RECORD]
    cdef Stat st
    cdef int directory, r = sys_statx(fd, b"", AT_EMPTY_PATH, &st)
    if r < 0:
        return r
    if st.stx_ino == n.ino or not st.stx_mask & STATX_BTIME:
        return 0                # its own number; or a later file could be taken for it
    directory = state_directory(t, DIRECTORY, &t.origins_fd)
    if directory < 0:
        return directory
    birth_text(&st, birth)
    snprintf(value, sizeof(value), "%llu%s", <unsigned long long>n.ino, birth)
    link_name(st.stx_ino, name)
    return state_write(t, directory, name, value)


cdef uint64_t recorded_origin(Table *t, int dirfd, const char *name, uint64_t inode) noexcept nogil:
    """By the record about an upper file; 0 without one about this very file."""
    cdef char record[LINK_NAME]
    cdef char birth[BIRTH]
    cdef char value[RECORD]
    cdef char *end
    cdef uint64_t origin
    cdef int64_t length
    cdef Stat st
    link_name(inode, record)
    length = sys_readlinkat(t.origins_fd, record, value, sizeof(value) - 1)
    if length <= 0 or sys_statx(dirfd, name, 0, &st) < 0 or st.stx_ino != inode:
        return 0
    value[length] = 0
    origin = strtoull(value, &end, 10)
    birth_text(&st, birth)
    return origin if strcmp(end, birth) == 0 else 0


cdef void drop_record(Table *t, const Node *n, const Stat *st) noexcept nogil:
    cdef char name[LINK_NAME]
    if st.stx_ino != n.ino:
        link_name(st.stx_ino, name)
        sys_unlinkat(t.origins_fd, name, 0)


cdef void forget_origin(Table *t, Node *n, int fd) noexcept nogil:
    cdef Stat st
    if t.origins_fd < 0 or n.branch != 0 or sys_statx(fd, b"", AT_EMPTY_PATH, &st) < 0:
        return
    if st.stx_nlink == 0 or n.dir != NULL:
        drop_record(t, n, &st)


cdef void unrecord_origin(Table *t, Node *n, int fd) noexcept nogil:
    cdef Stat st
    if t.origins_fd >= 0 and sys_statx(fd, b"", AT_EMPTY_PATH, &st) == 0:
        drop_record(t, n, &st)


# --- numbers -------------------------------------------------------------------------------

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
        if origin == 0 and t.origins_fd >= 0:
            origin = recorded_origin(t, dirfd, name, real)
    return origin if origin else show_ino(t, branch, real)


cdef uint64_t show_ino(const Table *t, uint16_t branch, uint64_t ino) noexcept nogil:
    """st_ino of an inode of a branch: its own on the upper's filesystem, else with the filesystem's
    number in the high byte, which no filesystem of Linux fills in practice (as overlayfs' xino)."""
    return ino ^ (<uint64_t>t.branch[branch].fs << 56)


cdef int record_origin(Table *t, Node *n, int fd) noexcept nogil:
    cdef char value[24]
    cdef int length = snprintf(value, sizeof(value), "%llu", <unsigned long long>n.ino)
    cdef int r = sys_setxattr(fd, xattr_origin(t), value, <size_t>length, 0)
    # user.* cannot be set on links and special files, nor anything where there are no xattrs.
    return write_record(t, n, fd) if r in (-EPERM, -EOPNOTSUPP) else r


cdef int keep_origin(Table *t, Node *n, int fd, uint32_t mode) noexcept nogil:
    """Only a daemon without privilege (which keeps OPEN) may not read what its owner may not."""
    if t.trusted or not t.keep_open or mode & S_IRUSR:
        return 0
    return write_record(t, n, fd)
