# cython: language_level=3
"""Hard links across copy-up.

A lower inode with several names is one file, and stays one when it is copied up through any of
them. The directory ``links`` in the work directory holds for each such inode, named by its st_ino
in hexadecimal,

* the copy itself, as one more hard link: the names that are still only in a lower lead to it;
* NUMBER.n, a symbolic link whose target is the number of names the file has in the union, as soon
  as that differs from what the lower's st_nlink says or the file was copied up.
"""
from libc.errno cimport ENOENT
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport strtoul

from unionfs._nodes cimport LINK_NAME, Table, link_name
from unionfs._override cimport override_show_at
from unionfs._state cimport state_directory, state_open, state_write
from unionfs._sys cimport Stat, sys_readlinkat, sys_statx, sys_sync_directory, sys_unlinkat

cdef const char *DIRECTORY = "links"


cdef void count_name(uint64_t ino, char *name) noexcept nogil:
    snprintf(name, LINK_NAME, "%016llx.n", <unsigned long long>ino)


cdef int links_directory(Table *t) noexcept nogil:
    """A descriptor that stays; -errno."""
    return state_directory(t, DIRECTORY, &t.links_fd)


cdef int links_open(Table *t) noexcept nogil:
    """The directory that is there already; -ENOENT."""
    return state_open(t, DIRECTORY, &t.links_fd)


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
    if r < 0:
        return r
    override_show_at(&t.branch[0].override, t.links_fd, name, st)
    return 1


cdef int links_set_count(Table *t, uint64_t ino, uint32_t count) noexcept nogil:
    cdef char name[LINK_NAME]
    cdef char value[16]
    cdef int directory = links_directory(t)
    if directory < 0:
        return directory
    snprintf(value, sizeof(value), "%u", count)
    count_name(ino, name)
    return state_write(t, directory, name, value)


cdef int links_sync(Table *t) noexcept nogil:
    return sys_sync_directory(t.links_fd) if t.links_fd >= 0 else 0


cdef void links_drop(Table *t, uint64_t ino, bint keep_count) noexcept nogil:
    cdef char name[LINK_NAME]
    if t.links_fd < 0:
        return
    # The copy first: a count without a copy says nothing wrong, a copy without a count would.
    link_name(ino, name)
    sys_unlinkat(t.links_fd, name, 0)
    if not keep_count:
        count_name(ino, name)
        sys_unlinkat(t.links_fd, name, 0)
