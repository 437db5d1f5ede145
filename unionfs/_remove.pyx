# cython: language_level=3
"""Removing names, in the order of steps that a crash cannot tear (docs/format.md)."""
from libc.errno cimport EACCES, EISDIR, ENOTDIR, EPERM
from libc.stdint cimport uint16_t

from unionfs._closed cimport Opened, closed_again, closed_open
from unionfs._copy cimport settle
from unionfs._descriptors cimport fd_close_doomed, ref_drop
from unionfs._directories cimport dir_keep_upper_only_locked, dir_ref
from unionfs._guard cimport guard_removing
from unionfs._identity cimport forget_origin
from unionfs._links cimport links_drop, links_set_count
from unionfs._listing cimport listing_remove_locked
from unionfs._lookup cimport check_empty, child_get, dir_look_again, shown_below
from unionfs._make cimport open_parent
from unionfs._marks cimport (
    WORK_NAME,
    mark_clear_directory,
    mark_format,
    mark_hide_below,
    mark_make_device,
    mark_put,
    mark_remove,
    mark_reserved,
)
from unionfs._nodes cimport (
    FORMAT_AUFS,
    FORMAT_OVERLAY,
    Fd,
    Name,
    Node,
    Ref,
    Table,
    change_begin,
    change_end_locked,
    name_find_locked,
    name_remove_locked,
    node_unpin,
)
from unionfs._operations cimport Op
from unionfs._reach cimport node_open_orphan
from unionfs._sys cimport (
    AT_REMOVEDIR,
    RENAME_EXCHANGE,
    mutex_lock,
    mutex_unlock,
    sys_close,
    sys_renameat2,
    sys_unlinkat,
)


cdef int spot_open(Table *t, Op *op, Spot *s, Node *parent, const char *name,
                   size_t length) noexcept nogil:
    cdef int r
    s.parent = parent
    s.name = name
    s.length = length
    s.marked = False
    r = open_parent(t, op, parent, &s.directory)
    if r != 0:
        return r
    r = shown_below(t, parent, name, length)
    s.below = r == 1
    if s.below and mark_reserved(name, length):
        r = -EPERM              # hiding it would take a whiteout that looks like a mark itself
    if r < 0:
        ref_drop(t, &s.directory)
        return r
    return 0


cdef int spot_mark(Table *t, Spot *s) noexcept nogil:
    """The ``.wh.`` whiteout goes down before the name goes (format aufs, where it is needed)."""
    cdef int r
    if not s.below or mark_format(t, s.length) != FORMAT_AUFS:
        return 0
    r = mark_put(t, s.directory.fd, s.name, s.length)
    s.marked = r == 0
    return min(r, 0)


cdef void spot_unmark(Spot *s) noexcept nogil:
    """The operation failed: the tree is as it was."""
    if s.marked:
        mark_remove(s.directory.fd, s.name, s.length)


cdef int replace_with_device(Table *t, Spot *s, bint is_dir) noexcept nogil:
    """A whiteout device takes the place of the name in one step; what was there goes aside."""
    cdef char aside[WORK_NAME]
    cdef int r = mark_make_device(t, aside)
    if r < 0:
        return r
    r = sys_renameat2(t.work_fd, aside, s.directory.fd, s.name, RENAME_EXCHANGE if is_dir else 0)
    if r < 0:
        sys_unlinkat(t.work_fd, aside, 0)
    elif is_dir:
        sys_unlinkat(t.work_fd, aside, AT_REMOVEDIR)
    return r


cdef void forget_name(Table *t, Spot *s, Node *n, int orphan_fd) noexcept nogil:
    """The name is gone on disk: take it from the table. The node keeps its file by orphan_fd."""
    cdef Fd *doomed = NULL
    cdef Name *name
    forget_origin(t, n, orphan_fd)
    mutex_lock(&t.lock)
    name = name_find_locked(t, s.parent, s.name, s.length)
    if name != NULL and name.node == n:
        name_remove_locked(t, name, &doomed)
    if n.names == NULL:
        n.removed = True
        if n.orphan_fd < 0 and orphan_fd >= 0:
            n.orphan_fd = orphan_fd
            t.orphans += 1
            orphan_fd = -1
    listing_remove_locked(t, s.parent, s.name, s.length, s.below)
    change_end_locked(t, n)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)
    if orphan_fd >= 0:
        sys_close(orphan_fd)


cdef int hold_names(Table *t, Op *op, Node *n, Node *other, Node *losing,
                    int *orphan_fd) noexcept nogil:
    """From here on the names of the nodes (other may be NULL) are ours, and no copy-up is under
    way. `losing`, if there is one, loses a name: *orphan_fd is to keep its file, else it is -1."""
    cdef uint16_t branch
    cdef int r
    while True:
        orphan_fd[0] = -1
        if losing != NULL:
            branch = losing.branch
            orphan_fd[0] = node_open_orphan(t, losing)
            if orphan_fd[0] < 0:
                return orphan_fd[0]
        r = change_begin(t, n, other, op.may_wait)
        if r != 0:
            if orphan_fd[0] >= 0:
                sys_close(orphan_fd[0])
            return r
        if losing == NULL or losing.branch == branch:
            return 0
        keep_names(t, n, other, orphan_fd[0])   # copied up meanwhile: it is another file now


cdef void keep_names(Table *t, Node *n, Node *other, int orphan_fd) noexcept nogil:
    """The change did not happen."""
    mutex_lock(&t.lock)
    change_end_locked(t, n)
    if other != NULL:
        change_end_locked(t, other)
    mutex_unlock(&t.lock)
    if orphan_fd >= 0:
        sys_close(orphan_fd)


cdef bint name_in_upper(Table *t, Spot *s) noexcept nogil:
    """A file of several names can be in the upper while one of its names is not."""
    cdef Name *name
    cdef bint r
    mutex_lock(&t.lock)
    name = name_find_locked(t, s.parent, s.name, s.length)
    r = name != NULL and name.branch == 0
    mutex_unlock(&t.lock)
    return r


cdef void uncount(Table *t, Node *n) noexcept nogil:
    """A file of several names has lost one."""
    if not n.linked:
        return
    mutex_lock(&t.lock)
    n.nlink -= 1 if n.nlink else 0
    mutex_unlock(&t.lock)
    if n.nlink:
        links_set_count(t, n.ino, n.nlink)
    else:
        links_drop(t, n.ino, False)


cdef int remove_file(Table *t, Spot *s, Node *n) noexcept nogil:
    cdef int r
    if not name_in_upper(t, s):
        r = mark_put(t, s.directory.fd, s.name, s.length)
        return min(r, 0)
    if s.below and mark_format(t, s.length) == FORMAT_OVERLAY:
        return replace_with_device(t, s, False)
    r = spot_mark(t, s)
    if r == 0:
        r = sys_unlinkat(s.directory.fd, s.name, 0)
        if r < 0:
            spot_unmark(s)
    return r


cdef int change_unlink(Table *t, Op *op, Node *parent, const char *name,
                       size_t length) noexcept nogil:
    """unlink(2)."""
    cdef Node *n = NULL
    cdef Spot s
    cdef int orphan_fd, r = child_get(t, parent, name, length, &n)
    if r < 0:
        return r
    r = -EISDIR if n.dir != NULL else guard_removing(parent, n)
    if r == 0:
        r = settle(t, n, op.may_wait)
    if r == 0:
        r = spot_open(t, op, &s, parent, name, length)
    if r == 0:
        r = hold_names(t, op, n, NULL, n, &orphan_fd)
        if r == 0:
            r = remove_file(t, &s, n)
            if r == 0:
                uncount(t, n)
                forget_name(t, &s, n, orphan_fd)
            else:
                keep_names(t, n, NULL, orphan_fd)
        ref_drop(t, &s.directory)
    node_unpin(t, n)
    return r


cdef int empty_out(Table *t, Spot *s, Node *n) noexcept nogil:
    """Removes the marks in an upper directory that shows nothing, so that rmdir or a rename over it
    can succeed; hides what is below it first, so that nothing visible changes at any moment."""
    cdef Ref ref
    cdef Fd *doomed = NULL
    cdef int r = dir_ref(t, n, 0, &ref)
    if r < 0:
        return r
    if n.dir.count > 1:
        if mark_format(t, s.length) == FORMAT_AUFS and n.dir.redirect[1] == NULL:
            s.below = True
            r = spot_mark(t, s)
        else:
            r = mark_hide_below(t, ref.fd)      # which outranks a redirect
    if r == 0:
        r = mark_clear_directory(t, ref.fd, False)
    if r == 0:
        mutex_lock(&t.lock)
        dir_keep_upper_only_locked(t, n, &doomed)
        mutex_unlock(&t.lock)
        fd_close_doomed(t, doomed)
    ref_drop(t, &ref)
    return r


cdef int look_inside(Table *t, Node *n) noexcept nogil:
    cdef int r = dir_look_again(t, n)
    if r == 0 and n.dir.unread:
        r = -EACCES             # what cannot be read is not known
    return r if r < 0 else check_empty(t, n)


cdef int check_removable(Table *t, Node *n) noexcept nogil:
    """0 for a directory that shows nothing. It may be one that its owner may not read: that of the
    upper is read all the same, as rmdir(2) would look into it."""
    cdef Opened opened
    cdef Ref ref
    cdef int r = -EACCES
    if not n.dir.unread:
        r = check_empty(t, n)
    if r != -EACCES or n.branch != 0 or dir_ref(t, n, 0, &ref) < 0:
        return r
    if closed_open(t, n, ref.fd, &opened) == 0:
        r = look_inside(t, n)
        closed_again(t, n, ref.fd, &opened)
    ref_drop(t, &ref)
    return r


cdef int remove_upper(Table *t, Spot *s, Node *n, bint by_device) noexcept nogil:
    cdef int r = spot_mark(t, s)
    if r == 0:
        r = empty_out(t, s, n)
    if r == 0:
        if by_device:
            r = replace_with_device(t, s, True)
        else:
            r = sys_unlinkat(s.directory.fd, s.name, AT_REMOVEDIR)
    # On failure the whiteout stays: the directory beside it is empty, and what it hides was hidden.
    return r


cdef int remove_directory(Table *t, Spot *s, Node *n) noexcept nogil:
    """Removes a directory that shows nothing."""
    cdef bint by_device = s.below and mark_format(t, s.length) == FORMAT_OVERLAY
    cdef Opened opened
    cdef Ref ref
    cdef bint open_
    cdef int r
    if n.branch != 0:
        r = mark_put(t, s.directory.fd, s.name, s.length)
        return min(r, 0)
    r = dir_ref(t, n, 0, &ref)
    if r < 0:
        return r
    # Its marks go first, and by_device it moves to the work directory.
    open_ = closed_open(t, n, ref.fd, &opened) == 0
    r = remove_upper(t, s, n, by_device)
    if open_:
        closed_again(t, n, ref.fd, &opened)
    ref_drop(t, &ref)
    return r


cdef int change_rmdir(Table *t, Op *op, Node *parent, const char *name,
                      size_t length) noexcept nogil:
    """rmdir(2)."""
    cdef Node *n = NULL
    cdef Spot s
    cdef int orphan_fd, r = child_get(t, parent, name, length, &n)
    if r < 0:
        return r
    r = -ENOTDIR if n.dir == NULL else guard_removing(parent, n)
    if r == 0:
        r = settle(t, n, op.may_wait)
    if r == 0:
        r = check_removable(t, n)
    if r == 0:
        r = spot_open(t, op, &s, parent, name, length)
    if r == 0:
        orphan_fd = node_open_orphan(t, n)
        if orphan_fd < 0:
            r = orphan_fd
        else:
            r = remove_directory(t, &s, n)
            change_begin(t, n, NULL, True)  # a directory: no copy-up of it takes long
            if r == 0:
                forget_name(t, &s, n, orphan_fd)
            else:
                keep_names(t, n, NULL, orphan_fd)
        ref_drop(t, &s.directory)
    node_unpin(t, n)
    return r
