# cython: language_level=3
"""What a later mount needs: directories of records in the work directory.

A record is a symbolic link, and what it says is the link's target: one rename replaces it, and it
works where xattrs do not.
"""
from libc.errno cimport EEXIST, EROFS

from unionfs._marks cimport WORK_NAME, work_new_name
from unionfs._nodes cimport Table
from unionfs._sys cimport (
    O_DIRECTORY,
    O_NOFOLLOW,
    O_PATH,
    mutex_lock,
    mutex_unlock,
    sys_close,
    sys_mkdirat,
    sys_open_beneath,
    sys_renameat2,
    sys_symlinkat,
    sys_unlinkat,
)


cdef int state_open(Table *t, const char *name, int *slot) noexcept nogil:
    cdef int fd = sys_open_beneath(t.state_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)
    if fd < 0:
        return fd
    mutex_lock(&t.lock)
    if slot[0] < 0:
        slot[0] = fd
        fd = -1
    mutex_unlock(&t.lock)
    if fd >= 0:
        sys_close(fd)
    return slot[0]


cdef int state_directory(Table *t, const char *name, int *slot) noexcept nogil:
    cdef int r
    if slot[0] >= 0:
        return slot[0]
    if t.state_fd < 0:
        return -EROFS
    r = sys_mkdirat(t.state_fd, name, 0o700)
    return r if r < 0 and r != -EEXIST else state_open(t, name, slot)


cdef int state_write(Table *t, int directory, const char *name, const char *value) noexcept nogil:
    cdef char aside[WORK_NAME]
    cdef int r
    work_new_name(t, aside)
    r = sys_symlinkat(value, t.work_fd, aside)
    if r == 0:
        r = sys_renameat2(t.work_fd, aside, directory, name, 0)
        if r < 0:
            sys_unlinkat(t.work_fd, aside, 0)
    return r
