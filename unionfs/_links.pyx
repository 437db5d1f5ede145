# cython: language_level=3
"""Hard links across copy-up.

A lower inode with several names is one file, and stays one when it is copied up through any of
them.
The directory ``links`` in the work directory holds for each such inode, named by its st_ino in
hexadecimal,

* the copy itself, as one more hard link: the names that are still only in a lower lead to it;
* NUMBER.n, a symbolic link whose target is the number of names the file has in the union, as soon
  as that differs from what the lower's st_nlink says or the file was copied up.

A symbolic link, because one rename replaces it, and because it works where xattrs do not.
"""
from libc.errno cimport EEXIST, ENOENT, EROFS
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport strtoul

from unionfs._marks cimport WORK_NAME, work_new_name
from unionfs._nodes cimport LINK_NAME, Table, link_name
from unionfs._sys cimport (
    O_DIRECTORY,
    O_NOFOLLOW,
    O_PATH,
    Stat,
    mutex_lock,
    mutex_unlock,
    sys_close,
    sys_mkdirat,
    sys_open_beneath,
    sys_readlinkat,
    sys_renameat2,
    sys_statx,
    sys_symlinkat,
    sys_unlinkat,
)

cdef const char *DIRECTORY = "links"


cdef void count_name(uint64_t ino, char *name) noexcept nogil:
    snprintf(name, LINK_NAME, "%016llx.n", <unsigned long long>ino)


cdef int links_directory(Table *t) noexcept nogil:
    """A descriptor that stays; -errno."""
    cdef int r
    if t.links_fd >= 0:
        return t.links_fd
    if t.state_fd < 0:
        return -EROFS
    r = sys_mkdirat(t.state_fd, DIRECTORY, 0o700)
    return r if r < 0 and r != -EEXIST else links_open(t)


cdef int links_open(Table *t) noexcept nogil:
    """The directory that is there already; -ENOENT."""
    cdef int fd = sys_open_beneath(t.state_fd, DIRECTORY, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)
    if fd < 0:
        return fd
    mutex_lock(&t.lock)
    if t.links_fd < 0:
        t.links_fd = fd
        fd = -1
    mutex_unlock(&t.lock)
    if fd >= 0:
        sys_close(fd)
    return t.links_fd


cdef int links_find(Table *t, uint64_t ino, Stat *st, uint32_t *count) noexcept nogil:
    cdef char name[LINK_NAME]
    cdef char value[16]
    cdef int64_t length
    cdef int r
    count[0] = 0
    if t.links_fd < 0:
        return 0
    count_name(ino, name)
    length = sys_readlinkat(t.links_fd, name, value, sizeof(value) - 1)
    if length == -ENOENT:
        return 0
    if length < 0:
        return <int>length
    value[length] = 0
    count[0] = <uint32_t>strtoul(value, NULL, 10)
    link_name(ino, name)
    r = sys_statx(t.links_fd, name, 0, st)
    if r == -ENOENT:
        return 0
    return 1 if r == 0 else r


cdef int links_set_count(Table *t, uint64_t ino, uint32_t count) noexcept nogil:
    cdef char name[LINK_NAME]
    cdef char value[16]
    cdef char aside[WORK_NAME]
    cdef int r, directory = links_directory(t)
    if directory < 0:
        return directory
    snprintf(value, sizeof(value), "%u", count)
    count_name(ino, name)
    work_new_name(t, aside)
    r = sys_symlinkat(value, t.work_fd, aside)
    if r == 0:
        r = sys_renameat2(t.work_fd, aside, directory, name, 0)
        if r < 0:
            sys_unlinkat(t.work_fd, aside, 0)
    return r


cdef void links_drop(Table *t, uint64_t ino) noexcept nogil:
    cdef char name[LINK_NAME]
    if t.links_fd < 0:
        return
    # The copy first: a count without a copy says nothing wrong, a copy without a count would.
    link_name(ino, name)
    sys_unlinkat(t.links_fd, name, 0)
    count_name(ino, name)
    sys_unlinkat(t.links_fd, name, 0)
