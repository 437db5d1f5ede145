# cython: language_level=3
"""Whiteouts and opaque directories on disk.

Two formats: ``.wh.NAME`` and ``.wh..wh..opq`` (aufs(5), and the OCI image specification's
layer.md), and 0/0 character devices with the ``overlay.opaque`` xattr (the kernel's
Documentation/filesystems/overlayfs.rst). fuse-overlayfs adds a third opaque mark.
"""
from libc.errno cimport EACCES, EEXIST, EISDIR, EMLINK, ENOENT, EOPNOTSUPP, EPERM, EXDEV
from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy, strcmp, strlen

from unionfs._nodes cimport FORMAT_OVERLAY, NAME_LIMIT, Format, Table
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    AT_REMOVEDIR,
    DT_CHR,
    DT_UNKNOWN,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_RDONLY,
    O_WRONLY,
    S_IFCHR,
    S_IFMT,
    S_ISGID,
    DirEntry,
    Stat,
    TimeSpec,
    mutex_lock,
    mutex_unlock,
    sys_chmodfd,
    sys_close,
    sys_getdents,
    sys_getxattr,
    sys_getxattrat,
    sys_linkat,
    sys_listxattr,
    sys_mknodat,
    sys_open_beneath,
    sys_removexattr,
    sys_setxattr,
    sys_statx,
    sys_times,
    sys_unlinkat,
    sys_utimens,
)
from unionfs._xattrs cimport xattr_plain

cdef const char *OPAQUE_FILE = ".wh..wh..opq"
# Names in the work directory of the inodes that all whiteouts are links to.
cdef const char *SHARED_FILE = "whiteout"
cdef const char *SHARED_DEVICE = "whiteout-device"

cdef enum:
    OPAQUE_XATTRS = 3
    LIST_SIZE = 4096
    DENTS_SIZE = 32768

cdef const char **opaque_xattrs = [
    b"trusted.overlay.opaque", b"user.overlay.opaque", b"user.fuseoverlayfs.opaque"]


cdef bint mark_reserved(const char *name, size_t length) noexcept nogil:
    """Is this a name that says something about others (``.wh.*``) instead of being one?"""
    return length >= MARK_PREFIX and memcmp(name, b".wh.", MARK_PREFIX) == 0


cdef bint mark_is_whiteout(const Stat *st) noexcept nogil:
    return (st.stx_mode & S_IFMT) == S_IFCHR and st.stx_rdev_major == 0 and st.stx_rdev_minor == 0


cdef inline bint mark_name(char *out, const char *name, size_t length) noexcept nogil:
    """``.wh.NAME`` into NAME_LIMIT + 1 bytes; False where there is no such whiteout: that would be
    too long for a name, or be a ``.wh..wh.`` name, which is about the directory."""
    if length + MARK_PREFIX > NAME_LIMIT or mark_reserved(name, length):
        return False
    memcpy(out, b".wh.", MARK_PREFIX)
    memcpy(out + MARK_PREFIX, name, length)
    out[MARK_PREFIX + length] = 0
    return True


cdef bint mark_is_plain(const Table *t, int dirfd, const char *name) noexcept nogil:
    """Does this ``.wh.`` name in a directory say nothing about others?"""
    return sys_getxattrat(dirfd, name, xattr_plain(t), NULL, 0) >= 0


cdef int mark_set_plain(const Table *t, int fd) noexcept nogil:
    """Declares a file before it gets such a name."""
    return sys_setxattr(fd, xattr_plain(t), b"y", 1, 0)


cdef int mark_find(const Table *t, int dirfd, const char *name, size_t length,
                   Stat *st) noexcept nogil:
    cdef int r = sys_statx(dirfd, name, 0, st)
    if r == 0 and mark_reserved(name, length) and not mark_is_plain(t, dirfd, name):
        return -ENOENT
    return r


cdef int mark_beside(const Table *t, int dirfd, const char *name, size_t length) noexcept nogil:
    """1 if the directory holds ``.wh.NAME``, 0 if not, -errno."""
    cdef char mark[NAME_LIMIT + 1]
    cdef Stat st
    cdef int r
    if not mark_name(mark, name, length):
        return 0
    r = sys_statx(dirfd, mark, 0, &st)
    if r == -ENOENT:
        return 0
    if r == 0:
        return 0 if mark_is_plain(t, dirfd, mark) else 1
    return r


cdef int mark_is_opaque(const Table *t, int dirfd, bint bare) noexcept nogil:
    """1 if the directory hides what lies below it, in any format; 0 if not; -errno."""
    cdef char names[LIST_SIZE]
    cdef char value[4]
    cdef Stat st
    cdef int64_t size, got, at = 0
    cdef int i, r
    r = sys_statx(dirfd, OPAQUE_FILE, 0, &st)
    if r == 0 and not mark_is_plain(t, dirfd, OPAQUE_FILE):
        return 1
    if r < 0 and r != -ENOENT:
        return r
    size = 0 if bare else sys_listxattr(dirfd, names, LIST_SIZE)
    if size == -EOPNOTSUPP or size == 0:
        return 0
    for i in range(OPAQUE_XATTRS):
        if size > 0:
            at = 0
            while at < size and strcmp(names + at, opaque_xattrs[i]) != 0:
                at += strlen(names + at) + 1
            if at >= size:
                continue
        # A list too long for the buffer: ask for each name.
        got = sys_getxattr(dirfd, opaque_xattrs[i], value, sizeof(value))
        if got == 1 and value[0] == b"y":
            return 1
        if got == -EACCES and size > 0:
            return 1            # it is there, in a directory that its owner may not read
    return 0


cdef Format mark_format(const Table *t, size_t length) noexcept nogil:
    """The format of a name's whiteout: a name too long for ``.wh.`` gets a device."""
    if length + MARK_PREFIX > NAME_LIMIT:
        return FORMAT_OVERLAY
    return t.format


cdef void work_new_name(Table *t, char *name) noexcept nogil:
    """A fresh name in the work directory (WORK_NAME bytes)."""
    cdef uint64_t serial
    mutex_lock(&t.lock)
    t.serial += 1
    serial = t.serial
    mutex_unlock(&t.lock)
    snprintf(name, WORK_NAME, "#%llx", <unsigned long long>serial)


cdef int work_inherit_nothing(int work_fd) noexcept nogil:
    """What is built in the work directory must not get its group or its default ACL, which it may
    have from the upper it was made in (as kernel overlayfs, ovl_workdir_create)."""
    cdef Stat st
    cdef int r = sys_statx(work_fd, b"", AT_EMPTY_PATH, &st)
    if r == 0 and st.stx_mode & S_ISGID:
        r = sys_chmodfd(work_fd, st.stx_mode & 0o7777 & ~S_ISGID)
    if r == 0 and sys_getxattr(work_fd, b"system.posix_acl_default", NULL, 0) > 0:
        r = sys_removexattr(work_fd, b"system.posix_acl_default")
    return r


cdef int make_mark(int dirfd, const char *name, bint device) noexcept nogil:
    cdef int fd
    if device:
        return sys_mknodat(dirfd, name, S_IFCHR, 0)
    fd = sys_open_beneath(dirfd, name, O_CREAT | O_EXCL | O_WRONLY, 0o444)
    if fd < 0:
        return fd
    sys_close(fd)
    return 0


cdef int link_mark(Table *t, int dirfd, const char *name, bint device) noexcept nogil:
    """A whiteout as one more link of one shared inode: a third cheaper than a new inode."""
    cdef const char *shared = SHARED_DEVICE if device else SHARED_FILE
    cdef int r = sys_linkat(t.work_fd, shared, dirfd, name, 0)
    if r == -EMLINK:
        # Full: from now on the links go to a new inode.
        r = sys_unlinkat(t.work_fd, shared, 0)
        if r == 0 or r == -ENOENT:
            r = -ENOENT
    if r == -ENOENT:
        r = make_mark(t.work_fd, shared, device)
        if r == 0 or r == -EEXIST:
            r = sys_linkat(t.work_fd, shared, dirfd, name, 0)
    if r == -EPERM or r == -EXDEV or r == -EMLINK:
        r = make_mark(dirfd, name, device)  # a filesystem without hard links
    return r


cdef int mark_put(Table *t, int dirfd, const char *name, size_t length) noexcept nogil:
    """Puts a whiteout down where the upper has no such name (format overlay), or beside it.

    1 if it was there before.
    """
    cdef char mark[NAME_LIMIT + 1]
    cdef int r
    if mark_format(t, length) == FORMAT_OVERLAY:
        r = link_mark(t, dirfd, name, True)
    else:
        mark_name(mark, name, length)
        r = link_mark(t, dirfd, mark, False)
    return 1 if r == -EEXIST else r


cdef int mark_remove(int dirfd, const char *name, size_t length) noexcept nogil:
    """Removes ``.wh.NAME`` if it is there.

    A directory of that name, which no tool makes, counts as a whiteout and stays. It does no harm:
    the name is visible beside it, and what it hides below the name hides as well.
    """
    cdef char mark[NAME_LIMIT + 1]
    cdef int r
    if not mark_name(mark, name, length):
        return 0
    r = sys_unlinkat(dirfd, mark, 0)
    return 0 if r == -ENOENT or r == -EISDIR else r


cdef int mark_make_device(Table *t, char *work_name) noexcept nogil:
    """A whiteout device in the work directory, to be renamed into its place."""
    work_new_name(t, work_name)
    return link_mark(t, t.work_fd, work_name, True)


cdef int mark_hide_below(Table *t, int dirfd) noexcept nogil:
    """Marks a directory opaque without putting a file into it."""
    return sys_setxattr(dirfd, opaque_xattrs[0] if t.trusted else opaque_xattrs[1], b"y", 1, 0)


cdef int mark_set_opaque(Table *t, int dirfd) noexcept nogil:
    """Marks a directory of the upper opaque; its times stay."""
    cdef Stat st
    cdef TimeSpec times[2]
    cdef int r
    if t.format == FORMAT_OVERLAY:
        return mark_hide_below(t, dirfd)
    r = sys_statx(dirfd, ".", 0, &st)
    if r < 0:
        return r
    r = link_mark(t, dirfd, OPAQUE_FILE, False)
    if r == -EEXIST:
        return 0
    if r < 0:
        return r
    sys_times(&st, times)
    return sys_utimens(dirfd, b".", times)


cdef int mark_clear_directory(Table *t, int dirfd, bint keep_opaque) noexcept nogil:
    """Removes the marks in a directory of the upper.

    All, so that it can go when it shows nothing, or those that an opaque directory has no use for.
    The caller has made sure that nothing below shows through meanwhile.
    """
    cdef char buffer[DENTS_SIZE]
    cdef DirEntry *entry
    cdef Stat st
    cdef int64_t size, at
    cdef int r = 0
    cdef int fd = sys_open_beneath(dirfd, b".", O_RDONLY | O_DIRECTORY, 0)
    if fd < 0:
        return fd
    while r == 0:
        size = sys_getdents(fd, buffer, DENTS_SIZE)
        if size <= 0:
            r = <int>size
            break
        at = 0
        while at < size and r == 0:
            entry = <DirEntry *>(buffer + at)
            at += entry.d_reclen
            if keep_opaque and strcmp(entry.d_name, OPAQUE_FILE) == 0:
                continue
            if mark_reserved(entry.d_name, strlen(entry.d_name)):
                if mark_is_plain(t, fd, entry.d_name):
                    continue
            else:
                if entry.d_type != DT_CHR and entry.d_type != DT_UNKNOWN:
                    continue
                if sys_statx(fd, entry.d_name, 0, &st) < 0 or not mark_is_whiteout(&st):
                    continue
            r = sys_unlinkat(fd, entry.d_name, 0)
            if r == -EISDIR:
                r = sys_unlinkat(fd, entry.d_name, AT_REMOVEDIR)  # a mark may have any type
            if r == -ENOENT:
                r = 0
    sys_close(fd)
    return r
