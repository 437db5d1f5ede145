# cython: language_level=3
"""Renaming, in the order of steps that a crash cannot tear (docs/format.md)."""
from libc.errno cimport EACCES, EEXIST, EINVAL, EISDIR, ENOENT, ENOMEM, ENOTDIR, EPERM, EXDEV
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport strdup

from unionfs._closed cimport Opened, closed_again, closed_open
from unionfs._copy cimport bring_names, settle
from unionfs._descriptors cimport fd_close_doomed, ref_drop
from unionfs._directories cimport dir_keep_upper_only_locked, dir_ref
from unionfs._guard cimport guard_adding, guard_change, guard_removing
from unionfs._identity cimport forget_origin, is_impure, mark_impure
from unionfs._listing cimport (
    listing_forget_below_locked,
    listing_get,
    listing_put_locked,
    listing_remove_locked,
)
from unionfs._lookup cimport child_get, dir_look_again, need_upper
from unionfs._make cimport check_new_name
from unionfs._marks cimport (
    mark_clear_directory,
    mark_format,
    mark_is_whiteout,
    mark_remove,
    mark_reserved,
    mark_set_opaque,
    mark_set_plain,
)
from unionfs._nodes cimport (
    ENTRY_DEAD,
    ENTRY_WHITEOUT,
    FORMAT_OVERLAY,
    RENAME_DIR_EXDEV,
    RENAME_DIR_REDIRECT,
    Fd,
    Listing,
    Name,
    Node,
    Ref,
    Table,
    change_end_locked,
    listing_release_locked,
    name_add_locked,
    name_find_locked,
    name_remove_locked,
    node_unpin,
)
from unionfs._operations cimport NEEDS_PREPARE, PREPARE_WHOLE, WHOLE_SIZE, Op
from unionfs._reach cimport node_path_ref
from unionfs._redirect cimport REDIRECT_SIZE, redirect_location, redirect_place, redirect_write
from unionfs._remove cimport (
    Spot,
    check_removable,
    empty_out,
    hold_names,
    keep_names,
    name_in_upper,
    spot_mark,
    spot_open,
    spot_unmark,
    uncount,
)
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    Stat,
    TimeSpec,
    mutex_lock,
    mutex_unlock,
    sys_close,
    sys_renameat2,
    sys_statx,
    sys_times,
    sys_unlinkat,
    sys_utimens,
)


cdef inline bint is_whole(const Node *n) noexcept nogil:
    return n.branch == 0 and n.dir.count == 1


cdef int need_whole(Table *t, Op *op, Node *n) noexcept nogil:
    """A directory moves only when all of it is in the upper."""
    cdef int r
    if n.dir == NULL:
        r = need_upper(t, op, n, WHOLE_SIZE)
        return r if r != 0 else settle(t, n, op.may_wait)
    if is_whole(n):
        return 0
    if t.rename_dir == RENAME_DIR_EXDEV:
        return -EXDEV
    if t.rename_dir == RENAME_DIR_REDIRECT:
        # Only the directory itself comes up; `redirect` says where the rest of it is.
        r = need_upper(t, op, n, 0)
        return r if r != 0 else settle(t, n, op.may_wait)
    op.prepare_kind = PREPARE_WHOLE
    op.prepare_node = n.id
    return NEEDS_PREPARE


cdef int check_types(Table *t, Node *source, Node *target, uint32_t flags) noexcept nogil:
    """What rename(2) demands of the two files."""
    if target == NULL:
        return -ENOENT if flags & RENAME_EXCHANGE else 0
    if flags & RENAME_NOREPLACE:
        return -EEXIST
    if flags & RENAME_EXCHANGE:
        return 0
    if source.dir != NULL and target.dir == NULL:
        return -ENOTDIR
    if source.dir == NULL and target.dir != NULL:
        return -EISDIR
    if target.dir == NULL:
        return 0
    if t.rename_dir == RENAME_DIR_EXDEV and not is_whole(source):
        return -EXDEV           # overlayfs says so before it looks into the target
    return check_removable(t, target)


cdef int redirect(Table *t, Node *n, int fd) noexcept nogil:
    """A merged directory is about to move: notes, on disk and here, where its lower parts lie."""
    cdef char path[REDIRECT_SIZE]
    cdef char *stays
    cdef uint16_t i
    cdef int r = redirect_place(t, n, path)
    if r >= 0:
        r = redirect_write(t, fd, path)
    if r < 0:
        return r
    for i in range(1, n.dir.count):
        r = redirect_location(t, n, n.dir.branch[i], path)
        if r < 0:
            return r
        if n.dir.redirect[i] == NULL:
            stays = strdup(path)
            if stays == NULL:
                return -ENOMEM
            mutex_lock(&t.lock)
            n.dir.redirect[i] = stays
            mutex_unlock(&t.lock)
    return 0


cdef int set_apart(Table *t, Node *n, int fd) noexcept nogil:
    return mark_set_opaque(t, fd) if n.dir.count == 1 else redirect(t, n, fd)


cdef int close_off(Table *t, Node *n, bint below) noexcept nogil:
    """A directory that comes to stand over a lower one must not be merged with it."""
    cdef Opened opened
    cdef Ref ref
    cdef int r
    if n.dir == NULL or (not below and n.dir.count == 1):
        return 0
    r = dir_ref(t, n, 0, &ref)
    if r < 0:
        return r
    r = set_apart(t, n, ref.fd)
    if r == -EACCES and closed_open(t, n, ref.fd, &opened) == 0:
        r = set_apart(t, n, ref.fd)
        closed_again(t, n, ref.fd, &opened)
    ref_drop(t, &ref)
    return r


cdef int know_branches(Table *t, Node *n) noexcept nogil:
    """A directory whose owner may not search it could leave content behind in a lower."""
    cdef Opened opened
    cdef Ref ref
    cdef int r
    if n.dir == NULL or not n.dir.unread or n.branch != 0:
        return 0
    r = dir_ref(t, n, 0, &ref)
    if r < 0:
        return r
    r = closed_open(t, n, ref.fd, &opened)
    if r == 0:
        r = dir_look_again(t, n)
        closed_again(t, n, ref.fd, &opened)
    ref_drop(t, &ref)
    return -EACCES if r == 0 and n.dir.unread else r


cdef int clear_target(Table *t, Spot *s, Node *n) noexcept nogil:
    """What a directory is renamed over has no marks inside then."""
    cdef Opened opened
    cdef Ref ref
    cdef bint open_
    cdef int r = dir_ref(t, n, 0, &ref)
    if r < 0:
        return r
    open_ = closed_open(t, n, ref.fd, &opened) == 0
    r = empty_out(t, s, n)
    if open_:
        closed_again(t, n, ref.fd, &opened)
    ref_drop(t, &ref)
    return r


cdef int carry_impure(Table *t, Spot *source, Spot *target) noexcept nogil:
    """A file may bring its origin with it."""
    cdef int r
    if source.parent == target.parent or not is_impure(t, source.parent, source.directory.fd):
        return 0
    r = mark_impure(t, target.parent, target.directory.fd)
    return 0 if r == -EPERM else r


cdef int move(Table *t, Spot *source, Spot *target, bint is_dir) noexcept nogil:
    """One rename on disk, with the source's whiteout where it is needed."""
    cdef bint by_device = source.below and mark_format(t, source.length) == FORMAT_OVERLAY
    cdef uint32_t flags = RENAME_WHITEOUT if by_device else 0
    cdef bint swapped
    cdef Stat st
    cdef int r = spot_mark(t, source)
    if r < 0:
        return r
    # A directory cannot replace a whiteout device, but change places with it.
    swapped = (is_dir and sys_statx(target.directory.fd, target.name, 0, &st) == 0
               and mark_is_whiteout(&st))
    if swapped:
        flags = RENAME_EXCHANGE
    r = sys_renameat2(source.directory.fd, source.name, target.directory.fd, target.name, flags)
    if r < 0:
        spot_unmark(source)
    elif swapped and not by_device:
        sys_unlinkat(source.directory.fd, source.name, 0)
    return r


cdef int declare_plain(Table *t, Spot *s, Node *n) noexcept nogil:
    """A file is about to get a name that begins with ``.wh.`` (only format overlay allows it)."""
    cdef Ref ref
    cdef int r
    if not mark_reserved(s.name, s.length):
        return 0
    r = node_path_ref(t, n, &ref)
    if r == 0:
        r = mark_set_plain(t, ref.fd)
        ref_drop(t, &ref)
    return r


cdef int bring_name(Table *t, Spot *s, Node *n) noexcept nogil:
    """A file of several names can be in the upper without the one that is about to move."""
    cdef int r = bring_names(t, n)
    if not n.linked or name_in_upper(t, s):
        return 0
    return r if r < 0 else -EACCES


cdef int clear_way(Table *t, Spot *source, Spot *target, Node *n, Node *other,
                   bint swapped) noexcept nogil:
    """The steps before the rename; each leaves everything visible as it is."""
    cdef int r = bring_name(t, source, n)
    if r == 0 and swapped:
        r = bring_name(t, target, other)
    if r == 0:
        r = declare_plain(t, target, n)
    if r == 0 and swapped:
        r = declare_plain(t, source, other)
    if r == 0:
        r = carry_impure(t, source, target)
    if r == 0 and swapped:
        r = carry_impure(t, target, source)
    if r == 0:
        r = close_off(t, n, target.below)
    if r == 0 and swapped:
        r = close_off(t, other, source.below)
    elif r == 0 and other != NULL and other.dir != NULL and other.branch == 0:
        r = clear_target(t, target, other)
    return r


cdef void place_name_locked(Table *t, Spot *s, Node *n, Fd **doomed) noexcept nogil:
    """The node has come to this spot; whoever had the name has lost it before."""
    if name_add_locked(t, s.parent, s.name, s.length, n, 0) != NULL:
        listing_put_locked(t, s.parent, s.name, s.length, n.ino, n.type >> 12, 0, s.below)
        return
    # Without memory for the name the node is unreachable until it is looked up again.
    listing_remove_locked(t, s.parent, s.name, s.length, False)


cdef void drop_name_locked(Table *t, Spot *s, Node *n, Fd **doomed) noexcept nogil:
    cdef Name *name = name_find_locked(t, s.parent, s.name, s.length)
    if name != NULL and name.node == n:
        name_remove_locked(t, name, doomed)


cdef void renamed(Table *t, Spot *source, Spot *target, Node *n, Node *other, int orphan_fd,
                  bint swapped) noexcept nogil:
    """The rename has happened on disk: the table follows, in one step for everybody."""
    cdef Fd *doomed = NULL
    if other != NULL and not swapped:
        forget_origin(t, other, orphan_fd)
    mutex_lock(&t.lock)
    drop_name_locked(t, source, n, &doomed)
    if other != NULL:
        drop_name_locked(t, target, other, &doomed)
    place_name_locked(t, target, n, &doomed)
    if swapped:
        place_name_locked(t, source, other, &doomed)
    else:
        listing_remove_locked(t, source.parent, source.name, source.length, source.below)
        if other != NULL and other.names == NULL:
            other.removed = True
            if other.orphan_fd < 0 and orphan_fd >= 0:
                other.orphan_fd = orphan_fd
                t.orphans += 1
                orphan_fd = -1
    change_end_locked(t, n)
    if other != NULL:
        change_end_locked(t, other)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)
    if orphan_fd >= 0:
        sys_close(orphan_fd)


cdef int rename_ready(Table *t, Op *op, Spot *source, Spot *target, Node *n, Node *other,
                      uint32_t flags) noexcept nogil:
    """The change itself; everything is in the upper that has to be."""
    cdef bint swapped = (flags & RENAME_EXCHANGE) != 0
    cdef int orphan_fd
    cdef int r = clear_way(t, source, target, n, other, swapped)
    if r == 0:
        r = hold_names(t, op, n, other, NULL if swapped else other, &orphan_fd)
    if r != 0:
        return r
    if swapped:
        r = sys_renameat2(source.directory.fd, source.name, target.directory.fd, target.name,
                          RENAME_EXCHANGE)
    else:
        r = move(t, source, target, n.dir != NULL)
    if r == 0 and not swapped and target.parent.dir.count > 1:
        mark_remove(target.directory.fd, target.name, target.length)
    if r == 0:
        if other != NULL and not swapped:
            uncount(t, other)
        renamed(t, source, target, n, other, orphan_fd, swapped)
    else:
        keep_names(t, n, other, orphan_fd)
    return r


cdef int check_guards(const Spot *source, const Spot *target, const Node *n,
                      const Node *other) noexcept nogil:
    cdef int r = guard_removing(source.parent, n)
    if r == 0:
        r = guard_adding(target.parent)
    if r == 0 and other != NULL:
        r = guard_removing(target.parent, other)
    return r


cdef int rename_nodes(Table *t, Op *op, Spot *source, Spot *target, Node *n, Node *other,
                      uint32_t flags) noexcept nogil:
    """Brings up what a rename needs in the upper, then renames."""
    cdef int r = check_guards(source, target, n, other)
    if r == 0:
        r = check_types(t, n, other, flags)
    if r == 0:
        r = know_branches(t, n)
    if r == 0 and flags & RENAME_EXCHANGE:
        r = know_branches(t, other)
    if r == 0:
        r = need_whole(t, op, n)
    if r == 0 and other != NULL:
        r = need_whole(t, op, other) if flags & RENAME_EXCHANGE else settle(t, other, op.may_wait)
    if r == 0:
        r = spot_open(t, op, source, source.parent, source.name, source.length)
    if r != 0:
        return r
    r = spot_open(t, op, target, target.parent, target.name, target.length)
    if r == 0:
        r = rename_ready(t, op, source, target, n, other, flags)
        ref_drop(t, &target.directory)
    ref_drop(t, &source.directory)
    return r


cdef int change_rename(Table *t, Op *op, Node *from_dir, const char *name, size_t length,
                       Node *to_dir, const char *new_name, size_t new_length,
                       uint32_t flags) noexcept nogil:
    """renameat2(2); RENAME_WHITEOUT is refused, as kernel overlayfs does."""
    cdef Spot source, target
    cdef Node *n = NULL
    cdef Node *other = NULL
    cdef int r
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or (
            flags == (RENAME_NOREPLACE | RENAME_EXCHANGE)):
        return -EINVAL
    r = check_new_name(t, new_name, new_length)
    if r == 0:
        r = child_get(t, from_dir, name, length, &n)
    if r < 0:
        return r
    r = child_get(t, to_dir, new_name, new_length, &other)
    if r == -ENOENT:
        r = 0
    if r == 0 and n != other:
        source.parent = from_dir
        source.name = name
        source.length = length
        target.parent = to_dir
        target.name = new_name
        target.length = new_length
        r = rename_nodes(t, op, &source, &target, n, other, flags)
    elif r == 0 and flags & RENAME_NOREPLACE:
        r = -EEXIST
    node_unpin(t, n)
    if other != NULL:
        node_unpin(t, other)
    return r


cdef int check_brought(Table *t, Node *n) noexcept nogil:
    """-EACCES where a name has not come to the upper directory, though its file may have."""
    cdef uint32_t i
    cdef int r = 0
    cdef Listing *l = listing_get(t, n, &r)
    if l == NULL:
        return r
    mutex_lock(&t.lock)
    for i in range(l.count):
        if l.entries[i].branch != 0 and not l.entries[i].flags & (ENTRY_DEAD | ENTRY_WHITEOUT):
            r = -EACCES
    listing_release_locked(t, l)
    mutex_unlock(&t.lock)
    return r


cdef int make_opaque(Table *t, int fd) noexcept nogil:
    cdef TimeSpec times[2]
    cdef Stat st
    cdef int r = sys_statx(fd, b"", AT_EMPTY_PATH, &st)
    if r == 0:
        r = mark_set_opaque(t, fd)
    if r == 0:
        r = mark_clear_directory(t, fd, True)
        sys_times(&st, times)
        sys_utimens(fd, b"", times)
    return r


cdef int change_make_whole(Table *t, Node *n) noexcept nogil:
    """Marks an upper directory opaque; the caller has brought all its children up."""
    cdef Fd *doomed = NULL
    cdef Opened opened
    cdef Ref ref
    cdef int r
    if n.dir == NULL:
        return -ENOTDIR
    r = guard_change(n)         # it could not be told from any other directory then
    if r == 0:
        r = check_brought(t, n)
    if r == 0:
        r = dir_ref(t, n, 0, &ref)
    if r < 0:
        return r
    r = make_opaque(t, ref.fd)
    if r == -EACCES and closed_open(t, n, ref.fd, &opened) == 0:
        r = make_opaque(t, ref.fd)
        closed_again(t, n, ref.fd, &opened)
    ref_drop(t, &ref)
    if r < 0:
        return r
    mutex_lock(&t.lock)
    dir_keep_upper_only_locked(t, n, &doomed)
    listing_forget_below_locked(n.dir)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)
    return 0
