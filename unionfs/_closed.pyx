# cython: language_level=3
"""Directories whose own mode keeps a daemon without privileges from changing them.

An ordinary user's directory of mode 0555 can be renamed, removed and have its children's modes
changed by its owner. A union does more than that on disk: it sets marks on the directory, puts
copies into it, and moves it out of the work directory, for which rename(2) asks write permission
on the directory itself. The directory is open to its owner meanwhile. A record in the work
directory comes first and goes last, so that the next mount after a crash gives the directory its
mode back (`restore` in workdir.py):

    mode-#NUMBER -> MODE INODE PATH      (octal, decimal, relative to the upper)

Nobody sees the open mode: the node shows what it had.
"""
from libc.errno cimport EACCES
from libc.stdint cimport uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from unionfs._directories cimport dir_hide_ctime
from unionfs._marks cimport work_new_name
from unionfs._nodes cimport Node, Table
from unionfs._redirect cimport REDIRECT_SIZE, redirect_location
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    Stat,
    mutex_lock,
    mutex_unlock,
    sys_chmodfd,
    sys_statx,
    sys_symlinkat,
    sys_unlinkat,
)

cdef enum:
    # What the daemon needs of a directory: read, write and search it.
    OWNER_BITS = 0o700
    # The mode and the inode's number before the path.
    RECORD_HEAD = 32


cdef bint closed_to_owner(const Table *t, uint32_t mode) noexcept nogil:
    # OPEN is kept where the daemon has no CAP_DAC_OVERRIDE.
    return t.keep_open and mode & OWNER_BITS != OWNER_BITS


cdef int write_record(Table *t, Node *above, const char *name, const Stat *st,
                      Opened *o) noexcept nogil:
    """Notes the mode of a directory: `above` itself, or what has or gets a name in it."""
    cdef char text[RECORD_HEAD + REDIRECT_SIZE]
    cdef size_t at
    cdef int r
    o.mode = st.stx_mode & 0o7777
    memcpy(o.record, b"mode-", 5)
    work_new_name(t, o.record + 5)
    at = <size_t>snprintf(text, RECORD_HEAD, "%04o %llu ", o.mode, <unsigned long long>st.stx_ino)
    r = redirect_location(t, above, 0, text + at)
    if r >= 0:
        at += <size_t>r
        if name != NULL:
            snprintf(text + at, sizeof(text) - at, "/%s" if r else "%s", name)
        r = sys_symlinkat(text, t.work_fd, o.record)
    if r < 0:
        o.record[0] = 0         # -ENAMETOOLONG: a symbolic link has no room for such a path
    return r


cdef void closed_forget(Table *t, Opened *o) noexcept nogil:
    if o.record[0]:
        sys_unlinkat(t.work_fd, o.record, 0)
        o.record[0] = 0


cdef void hold(Table *t, Node *n, uint32_t mode) noexcept nogil:
    """From here on the node shows this mode, or, with 0, what it has."""
    mutex_lock(&t.lock)
    n.dir.held_mode = mode
    n.dir.openings += 1
    mutex_unlock(&t.lock)


cdef int change_mode(Table *t, Node *n, int fd, uint32_t mode) noexcept nogil:
    cdef Stat before
    cdef int r = sys_statx(fd, b"", AT_EMPTY_PATH, &before)
    if r == 0:
        r = sys_chmodfd(fd, mode)
    if r == 0:
        dir_hide_ctime(t, n, fd, &before)
    return r


cdef int closed_open(Table *t, Node *n, int fd, Opened *o) noexcept nogil:
    cdef Stat st
    cdef int r
    o.record[0] = 0
    mutex_lock(&t.opening)
    r = sys_statx(fd, b"", AT_EMPTY_PATH, &st)
    if r == 0 and (st.stx_uid != t.uid or not closed_to_owner(t, st.stx_mode)):
        r = -EACCES
    if r == 0:
        r = write_record(t, n, NULL, &st, o)
    if r == 0:
        hold(t, n, st.stx_mode)
        r = change_mode(t, n, fd, o.mode | OWNER_BITS)
        if r < 0:
            hold(t, n, 0)
    if r < 0:
        closed_forget(t, o)
        mutex_unlock(&t.opening)
    return r


cdef void closed_again(Table *t, Node *n, int fd, Opened *o) noexcept nogil:
    if change_mode(t, n, fd, o.mode) == 0:
        closed_forget(t, o)     # else the next mount tries again
    hold(t, n, 0)
    mutex_unlock(&t.opening)


cdef int closed_begin(Table *t, Node *parent, const char *name, int fd, const Stat *st,
                      Opened *o) noexcept nogil:
    cdef Stat now
    cdef int r = sys_statx(fd, b"", AT_EMPTY_PATH, &now)
    o.record[0] = 0
    if r < 0 or not closed_to_owner(t, st.stx_mode) or now.stx_uid != t.uid:
        return r
    now.stx_mode = st.stx_mode
    r = write_record(t, parent, name, &now, o)
    if r == 0:
        r = sys_chmodfd(fd, o.mode | OWNER_BITS)
    if r < 0:
        closed_forget(t, o)
    return r


cdef int closed_finish(Table *t, int fd, Opened *o) noexcept nogil:
    cdef int r = 0
    if o.record[0]:
        r = sys_chmodfd(fd, o.mode)
        if r == 0:
            closed_forget(t, o)
    return r
