# cython: language_level=3
"""A directory's record: which branches hold it, under which name, and its descriptors there.

A file is reached by one name relative to a descriptor of its directory, never by an absolute
path: renames above it, deep trees and links planted in a branch then need no special case.
"""
from libc.errno cimport ENOTDIR, ESTALE
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, strdup

from unionfs._descriptors cimport (
    fd_close_doomed,
    fd_keep_locked,
    fd_retire_locked,
    fd_use_locked,
    ref_borrow,
    ref_drop,
)
from unionfs._nodes cimport (
    ATTEMPTS,
    NAME_LIMIT,
    ROOT_ID,
    Dir,
    Fd,
    Node,
    Ref,
    Table,
    listing_drop_locked,
    node_unpin_locked,
)
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_PATH,
    Stat,
    cond_wait,
    mutex_lock,
    mutex_unlock,
    sys_close,
    sys_open_beneath,
    sys_statx,
)


cdef Dir *dir_new(const uint16_t *branch, char **redirect, uint16_t count) noexcept nogil:
    """A directory that these branches hold; NULL without memory."""
    cdef uint16_t i
    cdef Dir *d = <Dir *>calloc(1, sizeof(Dir))
    if d == NULL:
        return NULL
    d.branch = <uint16_t *>malloc((count + 1) * sizeof(uint16_t))
    d.fds = <Fd **>calloc(count + 1, sizeof(Fd *))
    d.redirect = <char **>calloc(count + 1, sizeof(char *))
    if d.branch == NULL or d.fds == NULL or d.redirect == NULL:
        free(d.branch)
        free(d.fds)
        free(d.redirect)
        free(d)
        return NULL
    memcpy(d.branch, branch, count * sizeof(uint16_t))
    if redirect != NULL:
        for i in range(count):
            d.redirect[i] = redirect[i]
            redirect[i] = NULL
    d.count = count
    return d


cdef uint32_t dir_changes(Table *t, Node *directory) noexcept nogil:
    cdef uint32_t changes
    mutex_lock(&t.lock)
    changes = directory.dir.changes
    mutex_unlock(&t.lock)
    return changes


cdef void dir_hide_ctime(Table *t, Node *n, int dirfd, const Stat *before) noexcept nogil:
    cdef Stat after
    if sys_statx(dirfd, b"", AT_EMPTY_PATH, &after) < 0:
        return
    mutex_lock(&t.lock)
    if (before.stx_ctime.tv_sec != n.dir.made_ctime.tv_sec
            or before.stx_ctime.tv_nsec != n.dir.made_ctime.tv_nsec):
        n.dir.shown_ctime = before.stx_ctime
    n.dir.made_ctime = after.stx_ctime
    mutex_unlock(&t.lock)


cdef int dir_index(const Dir *d, uint16_t branch) noexcept nogil:
    """Where a branch stands in a directory's list, or -1."""
    cdef uint16_t i
    for i in range(d.count):
        if d.branch[i] == branch:
            return i
    return -1


cdef int dir_add_upper_locked(Node *n) noexcept nogil:
    """The directory has been created in the upper (dir_new left room for it)."""
    cdef Dir *d = n.dir
    cdef uint16_t i
    for i in range(d.count, 0, -1):
        d.branch[i] = d.branch[i - 1]
        d.fds[i] = d.fds[i - 1]
        d.redirect[i] = d.redirect[i - 1]
        if d.fds[i] != NULL:
            d.fds[i].slot = &d.fds[i]
    d.branch[0] = 0
    d.fds[0] = NULL
    d.redirect[0] = NULL
    d.count += 1
    d.changes += 1              # places in the list have moved
    return 0


cdef void dir_keep_upper_only_locked(Table *t, Node *n, Fd **doomed) noexcept nogil:
    """What lies below the upper directory does not count any more."""
    cdef Dir *d = n.dir
    cdef uint16_t i
    for i in range(1, d.count):
        if d.fds[i] != NULL:
            fd_retire_locked(t, d.fds[i], doomed)
        free(d.redirect[i])
        d.redirect[i] = NULL
    d.count = 1
    d.changes += 1


cdef void dir_replace_locked(Table *t, Node *n, Dir *with_, Fd **doomed) noexcept nogil:
    cdef Dir *d = n.dir
    dir_keep_upper_only_locked(t, n, doomed)
    if d.fds[0] != NULL:
        fd_retire_locked(t, d.fds[0], doomed)
    free(d.redirect)
    free(d.branch)
    free(d.fds)
    d.branch = with_.branch
    d.fds = with_.fds
    d.redirect = with_.redirect
    d.count = with_.count
    d.unread = with_.unread
    listing_drop_locked(t, d)
    free(with_)


cdef int dir_ref(Table *t, Node *n, uint16_t branch, Ref *ref) noexcept nogil:
    """A descriptor (O_PATH) of a directory in one branch.

    Opens what is missing between the directory and the nearest ancestor that is open already,
    one name at a time. -ESTALE when the directory is not there any more.
    """
    cdef Node *a
    cdef Node *child
    cdef char *way
    cdef const char *path
    cdef Ref above
    cdef char text[NAME_LIMIT + 1]
    cdef uint32_t seq
    cdef int fd, at, stale = 0
    cdef Fd *doomed = NULL
    above.fd = -1
    above.cached = NULL
    above.own = False
    while stale < ATTEMPTS:
        mutex_lock(&t.lock)
        a = n
        child = NULL
        while True:
            if a.id == ROOT_ID:
                ref_borrow(&above, t.branch[branch].fd)
                break
            if a.orphan_fd >= 0:
                if a.branch != branch:
                    mutex_unlock(&t.lock)
                    return -ESTALE
                ref_borrow(&above, a.orphan_fd)
                break
            if a.dir == NULL:
                mutex_unlock(&t.lock)
                return -ENOTDIR
            at = dir_index(a.dir, branch)
            if at < 0 or a.names == NULL:
                mutex_unlock(&t.lock)
                return -ESTALE
            if a.dir.fds[at] != NULL:
                fd_use_locked(t, a.dir.fds[at], &above)
                break
            child = a
            if a.dir.redirect[at] != NULL:
                ref_borrow(&above, t.branch[branch].fd)
                break
            a = a.names.parent
        if child == NULL:
            mutex_unlock(&t.lock)
            ref[0] = above
            return 0
        way = child.dir.redirect[at] if child == a else NULL
        if way != NULL:
            # A redirect stays as long as the directory's record: only a rename changes it.
            way = strdup(way)
        else:
            memcpy(text, child.names.text, child.names.length + 1)
        seq = child.seq
        child.pins += 1
        a.pins += 1             # an orphan's descriptor lives as long as its node
        mutex_unlock(&t.lock)
        path = text
        if way != NULL:
            path = way
        fd = sys_open_beneath(above.fd, path, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)
        free(way)
        ref_drop(t, &above)
        mutex_lock(&t.lock)
        while child.changing:
            cond_wait(&t.settled, &t.lock)
        at = dir_index(child.dir, branch)
        if child.seq != seq or at < 0:
            stale += 1
            if fd >= 0:
                sys_close(fd)
            fd = 0
        elif fd >= 0:
            fd_keep_locked(t, &child.dir.fds[at], fd, False, &above, &doomed)
            if child == n:
                ref[0] = above
            elif above.cached != NULL:
                above.cached.users -= 1     # found again on the next round
            elif above.own:
                sys_close(above.fd)
        node_unpin_locked(t, a, &doomed)
        a = child
        node_unpin_locked(t, child, &doomed)
        mutex_unlock(&t.lock)
        fd_close_doomed(t, doomed)
        doomed = NULL
        if fd < 0:
            return fd
        if fd > 0 and a == n:
            return 0
    return -ESTALE
