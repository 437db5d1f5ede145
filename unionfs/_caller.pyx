# cython: language_level=3
"""What is known of the thread that asks, beyond the ids in its request.

A request names the user, the group and the thread, and /proc knows the rest: the thread waits for
the answer, so it is there. A thread outside of the daemon's pid namespace has the number 0, and of
it nothing is known.
"""
from libc.stdint cimport int64_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, strtoull
from libc.string cimport strstr

from unionfs._idmap cimport OVERFLOW_ID
from unionfs._sys cimport O_CLOEXEC, O_RDONLY, sys_close, sys_read

cdef extern from "<fcntl.h>" nogil:
    int open_file "open"(const char *path, int flags)

cdef enum:
    STATUS_ROOM = 1 << 20       # a thread can be in 65,536 groups (NGROUPS_MAX)
    CAP_FSETID = 4


cdef char *caller_status(uint32_t pid) noexcept nogil:
    """See the declaration. The kernel writes the text anew for each open, and whole."""
    cdef char path[32]
    cdef char *text
    cdef int64_t size
    cdef int fd
    if pid == 0:
        return NULL
    snprintf(path, sizeof(path), "/proc/%u/status", <unsigned>pid)
    fd = open_file(path, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return NULL
    text = <char *>malloc(STATUS_ROOM)
    size = sys_read(fd, text, STATUS_ROOM - 1) if text != NULL else 0
    sys_close(fd)
    if size <= 0:
        free(text)
        return NULL
    text[size] = 0
    return text


cdef bint lists_group(const char *status, uint32_t group) noexcept nogil:
    cdef const char *at = strstr(status, b"\nGroups:")
    cdef char *end = NULL
    # Groups without an id in this user namespace are all listed as the overflow id.
    if at == NULL or group == OVERFLOW_ID:
        return False
    at += 8
    while True:
        while at[0] == b" " or at[0] == b"\t":
            at += 1
        if not b"0" <= at[0] <= b"9":
            return False
        if strtoull(at, &end, 10) == group:
            return True
        at = end


cdef bint caller_in_group(uint32_t uid, uint32_t gid, uint32_t pid, uint32_t group) noexcept nogil:
    cdef char *status
    cdef const char *effective
    cdef bint result
    if gid == group:
        return True
    status = caller_status(pid)
    if status == NULL:
        return False
    result = lists_group(status, group)
    if not result and uid == 0:
        # Another user's capabilities may be those of a user namespace made by that user, which do
        # not count for this file.
        effective = strstr(status, b"\nCapEff:")
        result = effective != NULL and (strtoull(effective + 8, NULL, 16) >> CAP_FSETID) & 1
    free(status)
    return result
