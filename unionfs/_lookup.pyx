# cython: language_level=3
"""Look-up: top-down, a component at a time.

The first branch that has a name decides what it is. A search ends at a whiteout, below an opaque
directory, and below anything that is no directory; a whiteout hides only what lies in the branches
below its own, so a name beside its own whiteout is visible.
"""
from libc.errno cimport (
    EACCES,
    EINVAL,
    EIO,
    ENAMETOOLONG,
    ENOENT,
    ENOMEM,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    EROFS,
    ESTALE,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcpy, memset

from unionfs._copy cimport copy_up
from unionfs._descriptors cimport fd_close_doomed, ref_drop
from unionfs._directories cimport dir_changes, dir_new, dir_ref, dir_replace_locked
from unionfs._guard cimport guard_change, guard_of
from unionfs._identity cimport find_ino, show_ino
from unionfs._links cimport links_find
from unionfs._listing cimport listing_find_locked, listing_get
from unionfs._marks cimport (
    mark_beside,
    mark_find,
    mark_is_opaque,
    mark_is_whiteout,
)
from unionfs._nodes cimport (
    ATTEMPTS,
    ENTRY_BELOW,
    ENTRY_CLOSED,
    ENTRY_WHITEOUT,
    LOWER,
    NAME_LIMIT,
    UPPER,
    Dir,
    Entry,
    Fd,
    Listing,
    Name,
    Node,
    Ref,
    Table,
    listing_release_locked,
    name_add_locked,
    name_find_locked,
    name_remove_locked,
    node_by_key_locked,
    node_new_locked,
    node_set_key_locked,
    node_unpin,
    node_unpin_locked,
)
from unionfs._operations cimport NEEDS_PREPARE, PREPARE_UPPER, WOULD_WAIT, Op
from unionfs._override cimport override_show_at
from unionfs._reach cimport node_show, node_stat
from unionfs._redirect cimport REDIRECT_SIZE, redirect_follow, redirect_read
from unionfs._sys cimport (
    O_DIRECTORY,
    O_NOFOLLOW,
    O_PATH,
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    STATX_ATTR_APPEND,
    STATX_ATTR_IMMUTABLE,
    Stat,
    mutex_lock,
    mutex_unlock,
    sys_close,
    sys_listxattrat,
    sys_open_beneath,
)

cdef enum:
    # So many look-ups (times branches) without a listing, and an index is worth building.
    INDEX_AFTER = 16

cdef uint64_t GUARDED = STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND

cdef struct Found:
    # What a name turned out to be.
    Stat st
    uint64_t ino
    uint64_t key            # see node_set_key_locked; 0 for a file of one name
    uint16_t data           # the branch that holds the data
    uint8_t guard           # see _guard.pyx
    bint linked             # its names are counted in the union
    uint32_t nlink
    uint16_t count          # branches that hold it, more than one for a directory
    bint unread             # whether further branches do is not to be known
    uint16_t *branch        # room for every branch
    char **redirect         # the same room: where a directory lies in the branch, if elsewhere


cdef int check_name(const char *name, size_t length) noexcept nogil:
    """0 if this can be a name in a directory."""
    if length > NAME_LIMIT:
        return -ENAMETOOLONG
    if length == 0 or memchr(name, b"/", length) != NULL or memchr(name, 0, length) != NULL:
        return -EINVAL
    if name[0] == b"." and (length == 1 or (length == 2 and name[1] == b".")):
        return -EINVAL
    return 0


# --- the search ----------------------------------------------------------------------------

cdef int index_branch(Table *t, Node *parent, const char *name, size_t length) noexcept nogil:
    """The branch in which the directory's index has a name; -1 without an index, -ENOENT."""
    cdef Dir *d = parent.dir
    cdef Listing *l = NULL
    cdef Entry *e
    cdef int r = -1, error = 0
    if d.count > 1 and d.listing == NULL:
        d.lookups += 1
        if <uint64_t>d.lookups * d.count > INDEX_AFTER:
            l = listing_get(t, parent, &error)
    mutex_lock(&t.lock)
    if d.listing != NULL:
        e = listing_find_locked(d.listing, name, length)
        r = -ENOENT if e == NULL or e.flags & ENTRY_WHITEOUT else e.branch
    if l != NULL:
        listing_release_locked(t, l)
    mutex_unlock(&t.lock)
    return r


cdef int ends_here(Table *t, Node *parent, uint16_t branch, int dirfd, const char *name,
                   size_t length, bint last, Found *found) noexcept nogil:
    """1 if no branch below adds to this directory under its own name; follows its redirect."""
    cdef char value[REDIRECT_SIZE]
    cdef int r, fd, opaque
    cdef bint bare
    if branch + 1 == t.branches:
        return 1
    fd = sys_open_beneath(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)
    if fd < 0:
        return fd
    # One call for what is mostly true, in the place of two for each attribute that might be there.
    bare = sys_listxattrat(dirfd, name, NULL, 0) == 0
    r = 0 if bare else redirect_read(t, fd, value)
    if r >= 0 and (r > 0 or not last):
        opaque = mark_is_opaque(t, fd, bare)
        if opaque != 0:
            r = opaque
        elif r > 0:
            r = redirect_follow(t, parent, branch + 1, value, found.branch, found.redirect,
                                &found.count)
            r = 1 if r == 0 else r
    sys_close(fd)
    if r == -EACCES:
        # Its owner may not read or search it: nobody reaches what is inside through a daemon that
        # has no more rights.
        found.unread = True
        return 1
    if r == 0 and not last:
        r = mark_beside(t, dirfd, name, length)
    return r


cdef int branch_at(Table *t, Node *parent, uint16_t i, bint *last) noexcept nogil:
    """The branch at place i of a directory's list, or -1 behind its end."""
    cdef int branch = -1
    mutex_lock(&t.lock)
    if i < parent.dir.count:
        branch = parent.dir.branch[i]
        last[0] = i + 1 == parent.dir.count
    mutex_unlock(&t.lock)
    return branch


cdef int find_links(Table *t, Found *found, uint16_t branch) noexcept nogil:
    """What is known of a file of several names: one node stands for all of them."""
    cdef Stat copy
    cdef uint32_t count = 0
    cdef bint shown = found.ino != found.st.stx_ino     # by an origin
    cdef int r = 0
    found.key = show_ino(t, branch, found.st.stx_ino)
    if branch != 0 or shown:
        r = links_find(t, found.ino, &copy, &count)
    if branch != 0:
        found.linked = True
        found.nlink = count if count else found.st.stx_nlink
        if r == 1:
            found.st = copy
            found.key = copy.stx_ino
            found.data = 0
    elif r == 1 and copy.stx_ino == found.st.stx_ino:
        found.linked = True
        found.nlink = count
    return min(r, 0)


cdef void note_guard(const Table *t, Found *found, uint16_t branch, const Stat *st) noexcept nogil:
    """The flags of the file that is shown, or that an upper's directory is the copy of."""
    if found.data == branch or found.count == 1 and found.data == 0 and (
            found.ino == show_ino(t, branch, st.stx_ino)):
        found.guard = guard_of(st)


cdef void found_clear(Found *found) noexcept nogil:
    """Nothing found: what an earlier search left is given back."""
    while found.count:
        found.count -= 1
        free(found.redirect[found.count])
        found.redirect[found.count] = NULL
    found.key = 0
    found.guard = 0
    found.linked = False
    found.unread = False


cdef bint found_new(Table *t, Found *found) noexcept nogil:
    """Room for every branch, and one: a copy-up meanwhile moves the places in the parent's list."""
    memset(found, 0, sizeof(Found))
    found.branch = <uint16_t *>calloc(t.branches + 1, sizeof(uint16_t))
    found.redirect = <char **>calloc(t.branches + 1, sizeof(char *))
    return found.branch != NULL and found.redirect != NULL


cdef void found_free(Found *found) noexcept nogil:
    found_clear(found)
    free(found.redirect)
    free(found.branch)


cdef int search(Table *t, Node *parent, const char *name, size_t length,
                Found *found) noexcept nogil:
    """Looks a name up in the branches; -ENOENT if none shows it."""
    cdef Ref ref
    cdef Stat st
    cdef uint16_t i = 0
    cdef bint last = True
    cdef int r, branch, start = index_branch(t, parent, name, length)
    found_clear(found)
    if start == -ENOENT:
        return -ENOENT
    while True:
        branch = branch_at(t, parent, i, &last)
        i += 1
        if branch < 0:
            break
        if branch < start:
            continue
        r = dir_ref(t, parent, <uint16_t>branch, &ref)
        if r < 0:
            return r
        r = mark_find(t, ref.fd, name, length, &st)
        if r == 0 and mark_is_whiteout(&st):
            r = 1
        elif r == 0 and found.count and st.stx_mode & S_IFMT != S_IFDIR:
            r = 1               # a file below a directory is hidden by it
        elif r == 0:
            if found.count == 0:
                override_show_at(&t.branch[branch].override, ref.fd, name, &st)
                found.st = st
                found.ino = find_ino(t, parent, ref.fd, name, <uint16_t>branch, st.stx_ino)
                found.data = <uint16_t>branch
                if st.stx_nlink > 1 and st.stx_mode & S_IFMT != S_IFDIR:
                    r = find_links(t, found, <uint16_t>branch)
            if branch != 0 and st.stx_attributes & GUARDED:
                note_guard(t, found, <uint16_t>branch, &st)
            found.branch[found.count] = <uint16_t>branch
            found.count += 1
            if st.stx_mode & S_IFMT != S_IFDIR:
                r = 1 if r == 0 else r
            elif r == 0:
                r = ends_here(t, parent, <uint16_t>branch, ref.fd, name, length, last, found)
        elif r == -ENOENT and not last and (start < 0 or found.count):
            r = mark_beside(t, ref.fd, name, length)
        elif r == -ENOENT:
            r = 0
        ref_drop(t, &ref)
        if r < 0:
            return r
        if r == 1:
            break
    return 0 if found.count else -ENOENT


cdef Node *adopt_locked(Table *t, Node *parent, const char *name, size_t length,
                        const Found *found) noexcept nogil:
    """The node of what was found, pinned: a known one under a further name, or a new one."""
    cdef uint32_t type_ = found.st.stx_mode & S_IFMT
    cdef Node *n = NULL
    cdef Fd *doomed = NULL
    if found.key:
        n = node_by_key_locked(t, found.key)
    elif found.data == 0 and type_ != S_IFDIR:
        # Of several names the others may be gone, while the node they led to is still in use.
        n = node_by_key_locked(t, found.st.stx_ino)
    if n != NULL:
        n.pins += 1
        n.removed = False
    else:
        n = node_new_locked(t)
        if n == NULL:
            return NULL
        n.type = type_
        n.ino = found.ino
        n.branch = found.data
        n.guard = found.guard
        n.linked = found.linked
        n.nlink = found.nlink
        n.state = UPPER if n.branch == 0 else LOWER
        if type_ == S_IFDIR:
            n.dir = dir_new(found.branch, found.redirect, found.count)
            if n.dir == NULL:
                node_unpin_locked(t, n, &doomed)
                return NULL
            n.dir.unread = found.unread
        node_set_key_locked(t, n, found.key)
    if name_add_locked(t, parent, name, length, n, found.branch[0]) == NULL:
        node_unpin_locked(t, n, &doomed)
        return NULL
    return n


cdef int known_child(Table *t, Node *parent, const char *name, size_t length, Node **out,
                     Stat *st) noexcept nogil:
    """The node that has this name already; -ENOENT if there is none or it went away underneath."""
    cdef Name *known
    cdef Node *n
    cdef Fd *doomed = NULL
    cdef int r
    mutex_lock(&t.lock)
    known = name_find_locked(t, parent, name, length)
    n = known.node if known != NULL else NULL
    if n != NULL:
        n.pins += 1
    mutex_unlock(&t.lock)
    if n == NULL:
        return -ENOENT
    r = node_stat(t, n, st)
    if r == 0 and st.stx_mode & S_IFMT == n.type:
        out[0] = n
        return 0
    mutex_lock(&t.lock)
    if r == 0 or r == -ENOENT or r == -ESTALE or r == -ENOTDIR:
        # A branch was changed from outside: look again.
        r = -ENOENT
        if name_find_locked(t, parent, name, length) == known and not n.changing:
            name_remove_locked(t, known, &doomed)
    node_unpin_locked(t, n, &doomed)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)
    return r


cdef int child_find(Table *t, Node *parent, const char *name, size_t length, Node **out,
                    Stat *st) noexcept nogil:
    """The node of a name, pinned, with its attributes. The parent must be pinned."""
    cdef Found found
    cdef Name *known
    cdef Node *n = NULL
    cdef uint32_t changes
    cdef int r = check_name(name, length), _attempt
    if r < 0:
        return r
    if parent.dir == NULL:
        return -ENOTDIR
    if parent.removed:
        return -ENOENT
    memset(&found, 0, sizeof(found))
    for _attempt in range(ATTEMPTS):
        r = known_child(t, parent, name, length, out, st)
        if r != -ENOENT:
            break
        if found.branch == NULL and not found_new(t, &found):
            r = -ENOMEM
            break
        changes = dir_changes(t, parent)
        r = search(t, parent, name, length, &found)
        if r < 0:
            if r == -ENOENT and dir_changes(t, parent) != changes:
                continue
            break
        mutex_lock(&t.lock)
        known = name_find_locked(t, parent, name, length)
        if known == NULL and parent.dir.changes == changes:
            n = adopt_locked(t, parent, name, length, &found)
            r = 0 if n != NULL else -ENOMEM
        mutex_unlock(&t.lock)
        if r < 0:
            break
        if n != NULL:
            st[0] = found.st
            node_show(t, n, st)
            out[0] = n
            break
        r = -EIO                # after ATTEMPTS rounds; otherwise another thread was quicker
    found_free(&found)
    return r


cdef int dir_look_again(Table *t, Node *n) noexcept nogil:
    """Nobody has been inside the directory yet: what holds it can be put in place of what did."""
    cdef char text[NAME_LIMIT + 1]
    cdef size_t length
    cdef Found found
    cdef Dir *d = NULL
    cdef Fd *doomed = NULL
    cdef Node *parent
    cdef int r
    mutex_lock(&t.lock)
    if not n.dir.unread or n.names == NULL:
        mutex_unlock(&t.lock)
        return 0
    parent = n.names.parent
    parent.pins += 1
    length = n.names.length
    memcpy(text, n.names.text, length + 1)
    mutex_unlock(&t.lock)
    r = search(t, parent, text, length, &found) if found_new(t, &found) else -ENOMEM
    if r == 0:
        d = dir_new(found.branch, found.redirect, found.count)
        r = 0 if d != NULL else -ENOMEM
    mutex_lock(&t.lock)
    if d != NULL:
        d.unread = found.unread
        dir_replace_locked(t, n, d, &doomed)
    node_unpin_locked(t, parent, &doomed)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)
    found_free(&found)
    return r


cdef int child_get(Table *t, Node *parent, const char *name, size_t length,
                   Node **out) noexcept nogil:
    """The node of a name, pinned. The parent must be pinned."""
    cdef Name *known
    cdef Stat st
    mutex_lock(&t.lock)
    known = name_find_locked(t, parent, name, length)
    if known != NULL:
        known.node.pins += 1
        out[0] = known.node
    mutex_unlock(&t.lock)
    return 0 if known != NULL else child_find(t, parent, name, length, out, &st)


# --- before a change -----------------------------------------------------------------------

cdef int shown_below(Table *t, Node *parent, const char *name, size_t length) noexcept nogil:
    """Does a lower branch show this name where the upper has none, or has hidden it?"""
    cdef Entry *e
    cdef Ref ref
    cdef Stat st
    cdef uint16_t i = 0
    cdef bint last = True
    cdef int r = -1, branch
    if parent.dir.count < 2:
        return 0
    mutex_lock(&t.lock)
    if parent.dir.listing != NULL:
        e = listing_find_locked(parent.dir.listing, name, length)
        if e == NULL:
            r = 0
        elif e.branch != 0 or e.flags & ENTRY_BELOW:
            r = -1 if e.flags & ENTRY_WHITEOUT else 1
        elif not e.flags & (ENTRY_WHITEOUT | ENTRY_CLOSED):
            r = 0
        # Else a whiteout in the upper hides what there may be, beside a name if a crash came
        # between the two: it is asked for because that whiteout may go.
    mutex_unlock(&t.lock)
    if r >= 0:
        return r
    while True:
        branch = branch_at(t, parent, i, &last)
        i += 1
        if branch < 0:
            return 0
        if branch == 0:
            continue
        r = dir_ref(t, parent, <uint16_t>branch, &ref)
        if r < 0:
            return r
        r = mark_find(t, ref.fd, name, length, &st)
        if r == 0:
            r = 2 if mark_is_whiteout(&st) else 1
        elif r == -ENOENT:
            r = 2 if mark_beside(t, ref.fd, name, length) == 1 else 0
        ref_drop(t, &ref)
        if r != 0:
            return 0 if r == 2 else r


cdef Node *highest_below_upper_locked(Node *n) noexcept nogil:
    """The first directory on the way down to a node that is not in the upper; NULL: all are."""
    cdef Node *found = NULL
    while n.names != NULL and n.names.parent.state != UPPER:
        n = n.names.parent
        found = n
    return found


cdef int need_parent(Table *t, Op *op, Node *n) noexcept nogil:
    """The directories above a node in the upper, topmost first: 0, a Verdict, -errno.

    A copy of a directory is four small system calls without an fsync: not worth a round through
    the slow path, however many there are.
    """
    cdef Node *parent
    cdef int r = 0
    while r == 0:
        mutex_lock(&t.lock)
        parent = highest_below_upper_locked(n)
        if parent != NULL:
            parent.pins += 1
        mutex_unlock(&t.lock)
        if parent == NULL:
            break
        r = copy_up(t, parent, 0, op.may_wait)
        node_unpin(t, parent)
    return r


cdef int need_upper(Table *t, Op *op, Node *n, uint64_t keep) noexcept nogil:
    """See the declaration. The node must be pinned."""
    cdef Stat st
    cdef uint64_t size = 0
    cdef int r
    if n.state == UPPER:
        return 0
    if not t.writable:
        return -EROFS
    if n.dir == NULL and guard_change(n) < 0:
        return -EPERM
    if n.type == S_IFREG:
        r = node_stat(t, n, &st)
        if r < 0:
            return r
        size = min(st.stx_size, keep)
        if size > t.inline_limit:
            op.prepare_kind = PREPARE_UPPER
            op.prepare_node = n.id
            op.prepare_keep = keep
            return NEEDS_PREPARE
    r = need_parent(t, op, n)
    if r != 0:
        return r
    if size and not t.volatile_ and not op.may_wait:
        return WOULD_WAIT       # for an fsync
    return copy_up(t, n, keep, op.may_wait)


cdef int check_empty(Table *t, Node *n) noexcept nogil:
    cdef int error = 0
    cdef bint empty
    cdef Listing *l = listing_get(t, n, &error)
    if l == NULL:
        return error
    mutex_lock(&t.lock)
    empty = l.alive == 0
    listing_release_locked(t, l)
    mutex_unlock(&t.lock)
    return 0 if empty else -ENOTEMPTY
