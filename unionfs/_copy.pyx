# cython: language_level=3
"""Copy-up of one node.

A copy is built where nobody sees it (without a name, or in the work directory), complete with
owner, mode, attributes and times, synced, and only then given its name: a crash leaves the name as
it was or as it is after. Reading the node goes on meanwhile; what changes it waits in `settle`.
"""
from libc.errno cimport (
    EACCES,
    EINVAL,
    EISDIR,
    ENOENT,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    ESTALE,
)
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from unionfs._blocks cimport blocks_copy
from unionfs._closed cimport (
    Opened,
    closed_again,
    closed_begin,
    closed_finish,
    closed_forget,
    closed_open,
)
from unionfs._descriptors cimport fd_close_doomed, fd_retire_locked, node_adopt_fd_locked, ref_drop
from unionfs._directories cimport dir_add_upper_locked, dir_changes, dir_hide_ctime, dir_ref
from unionfs._identity cimport keep_origin, mark_impure, record_origin, unrecord_origin
from unionfs._links cimport links_directory, links_drop, links_set_count, links_sync
from unionfs._listing cimport listing_put_locked
from unionfs._marks cimport mark_reserved, mark_set_plain, work_new_name
from unionfs._nodes cimport (
    COPYING,
    LINK_NAME,
    LOWER,
    NAME_LIMIT,
    UPPER,
    Fd,
    Name,
    Node,
    Ref,
    Table,
    change_begin,
    change_end_locked,
    link_name,
    name_find_locked,
    node_set_key_locked,
    node_unpin,
    node_unpin_locked,
)
from unionfs._operations cimport WOULD_WAIT
from unionfs._overlay cimport overlay_copy
from unionfs._owner cimport (
    owner_give,
    owner_is_unknown,
    owner_record,
    owner_stat,
    owner_stored_type,
)
from unionfs._reach cimport fd_metacopy, fd_with_data, node_path_ref
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    AT_REMOVEDIR,
    O_CREAT,
    O_EXCL,
    O_NOATIME,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    O_TMPFILE,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    Stat,
    TimeSpec,
    cond_broadcast,
    cond_wait,
    mutex_lock,
    mutex_unlock,
    sys_chmodfd,
    sys_close,
    sys_dup,
    sys_dup_over,
    sys_fsync,
    sys_linkfd,
    sys_makedev,
    sys_mkdirat,
    sys_mknodat,
    sys_open_beneath,
    sys_readlinkat,
    sys_renameat2,
    sys_statx,
    sys_symlinkat,
    sys_times,
    sys_unlinkat,
    sys_utimens,
)
from unionfs._xattrs cimport xattr_copy_all

cdef enum:
    LINK_LIMIT = 4096           # PATH_MAX


# --- one node ------------------------------------------------------------------------------

cdef struct Copy:
    # One copy-up on its way.
    Table *t
    Node *n
    uint16_t branch         # where the node is
    uint64_t keep           # bytes of data wanted
    uint64_t copied         # bytes of data the copy has
    int source              # descriptor of the lower file (O_PATH but for regular files)
    int data                # descriptor of its data, which may be another file's; -1: `source`
    int target              # descriptor of the copy, -1 before it exists
    char name[24]           # its name in the work directory, empty: it has none
    bint may_wait
    bint has_acls           # the copy was made with its ACLs
    bint named              # it has its name in the upper
    Opened opened           # a directory that gets its mode when it has its name
    Stat st


cdef int copy_attributes(Copy *c) noexcept nogil:
    """Owner, mode, xattrs, origin, times: in the order in which none undoes another."""
    cdef bint records = c.t.branch[0].override.name != NULL
    cdef TimeSpec times[2]
    cdef int r = 0
    # A chown clears set-id bits and capabilities, so it comes first.
    if not records and (c.st.stx_uid != c.t.uid or c.st.stx_gid != c.t.gid):
        r = owner_give(c.t, c.target, c.st.stx_uid, c.st.stx_gid)
    # user.* can be set only by who may write the file, and an ACL sets bits of the mode.
    if r == 0:
        # Where records decide who may do what, an ACL would only mislead those who look past us.
        r = xattr_copy_all(c.t, c.source, c.target, not (records or c.has_acls))
    if r == 0 and (c.n.names != NULL or c.n.linked):
        r = record_origin(c.t, c.n, c.target)
        if r == 0 and c.n.type != S_IFLNK and not records:
            r = keep_origin(c.t, c.n, c.target, c.st.stx_mode)
    if r == 0 and records:
        r = owner_record(c.t, c.target, &c.st)
    elif r == 0 and c.n.type != S_IFLNK:
        r = sys_chmodfd(c.target, c.st.stx_mode & 0o7777)
    if r == 0:
        sys_times(&c.st, times)
        r = sys_utimens(c.target, b"", times)
    return r


cdef int copy_regular(Copy *c) noexcept nogil:
    """A file without a name or, on a filesystem without O_TMPFILE, in the work directory."""
    cdef uint64_t size = min(c.keep, c.st.stx_size)
    cdef int r
    if c.has_acls:
        c.target = sys_open_beneath(c.t.work_fd, c.name, O_RDWR | O_NOFOLLOW, 0)
    else:
        c.target = sys_open_beneath(c.t.work_fd, b".", O_TMPFILE | O_RDWR, 0o600)
        if c.target in (-EOPNOTSUPP, -EISDIR, -ENOENT, -EINVAL):
            work_new_name(c.t, c.name)
            c.target = sys_open_beneath(c.t.work_fd, c.name, O_CREAT | O_EXCL | O_RDWR, 0o600)
    if c.target < 0:
        c.name[0] = 0
        return c.target
    r = blocks_copy(c.data if c.data >= 0 else c.source, c.target, size,
                    c.st.stx_blocks * 512 < c.st.stx_size)
    if r == 0:
        r = copy_attributes(c)
    if r == 0 and size and not c.t.volatile_:
        # Before the name: with delayed allocation a crash would leave an empty file there.
        r = sys_fsync(c.target)
    c.copied = size
    return r


cdef int copy_other(Copy *c) noexcept nogil:
    """A directory (without its content), a symbolic link, a FIFO, a socket or a device."""
    cdef char link[LINK_LIMIT]
    cdef int64_t length
    cdef int r
    if not c.has_acls:
        work_new_name(c.t, c.name)
    if c.has_acls:
        r = 0
    elif c.n.type == S_IFDIR:
        r = sys_mkdirat(c.t.work_fd, c.name, 0o700)
    elif c.n.type == S_IFLNK:
        length = sys_readlinkat(c.source, b"", link, LINK_LIMIT - 1)
        r = <int>length
        if length >= 0:
            link[length] = 0
            r = sys_symlinkat(link, c.t.work_fd, c.name)
    else:
        r = sys_mknodat(c.t.work_fd, c.name, owner_stored_type(c.t, c.n.type) | 0o600,
                        sys_makedev(c.st.stx_rdev_major, c.st.stx_rdev_minor))
    if r < 0:
        c.name[0] = 0
        return r
    c.target = sys_open_beneath(c.t.work_fd, c.name, O_PATH | O_NOFOLLOW, 0)
    return copy_attributes(c) if c.target >= 0 else c.target


cdef int link_quietly(Table *t, Node *parent, int fd, const char *work_name, int dirfd,
                      const char *name) noexcept nogil:
    """Gives a file a name without a visible change of the directory's times: renames it out of the
    work directory, or, where work_name is empty, links it."""
    cdef uint32_t changes = dir_changes(t, parent)
    cdef TimeSpec times[2]
    cdef Stat before
    cdef int r = sys_statx(dirfd, b"", AT_EMPTY_PATH, &before)
    if r < 0:
        return r
    if work_name[0]:
        r = sys_renameat2(t.work_fd, work_name, dirfd, name, 0)
    else:
        r = sys_linkfd(fd, dirfd, name)
    # When names came or went meanwhile the times are theirs.
    if r < 0 or dir_changes(t, parent) != changes:
        return r
    sys_times(&before, times)
    if sys_utimens(dirfd, b"", times) == 0:
        dir_hide_ctime(t, parent, dirfd, &before)
    return 0


cdef int keep_among_links(Copy *c) noexcept nogil:
    """The copy of a file of several names goes among the links first: from then on every name
    leads to it, whichever was used to change it."""
    cdef char name[LINK_NAME]
    cdef int r, directory = links_directory(c.t)
    if directory < 0:
        return directory
    r = links_set_count(c.t, c.n.ino, c.n.nlink)
    if r < 0:
        return r
    link_name(c.n.ino, name)
    if c.name[0]:
        r = sys_renameat2(c.t.work_fd, c.name, directory, name, 0)
    else:
        r = sys_linkfd(c.target, directory, name)
    if r == 0:
        c.name[0] = 0
    return r


cdef int put_name_as_is(Table *t, Node *parent, int fd, const char *work_name, int dirfd,
                        const char *name) noexcept nogil:
    cdef int r = mark_impure(t, parent, dirfd)
    if r == 0 and mark_reserved(name, strlen(name)):
        r = mark_set_plain(t, fd)
    return r if r < 0 else link_quietly(t, parent, fd, work_name, dirfd, name)


cdef int put_name(Table *t, Node *parent, int fd, const char *work_name, int dirfd,
                  const char *name) noexcept nogil:
    """The copy appears under a name; the directory's own times stay what they were."""
    cdef Opened opened
    cdef int r = put_name_as_is(t, parent, fd, work_name, dirfd, name)
    if r == -EACCES and closed_open(t, parent, dirfd, &opened) == 0:
        r = put_name_as_is(t, parent, fd, work_name, dirfd, name)
        closed_again(t, parent, dirfd, &opened)
    return r


cdef inline bint is_refused(int r) noexcept nogil:
    """May the daemon not add names to that directory? The links serve a name as well."""
    return r == -EACCES or r == -EPERM


cdef int give_name(Copy *c, Node *parent, int dirfd, const char *name) noexcept nogil:
    """The copy gets its name, or its place among the links and, if that may be, its name."""
    cdef int r = keep_among_links(c) if c.n.linked else 0
    if r < 0:
        return r
    if c.n.type == S_IFDIR:
        r = closed_begin(c.t, parent, name, c.target, &c.st, &c.opened)
    if r == 0:
        r = put_name(c.t, parent, c.target, c.name, dirfd, name)
    if r == 0:
        c.name[0] = 0
        c.named = True
        r = closed_finish(c.t, c.target, &c.opened)
    elif c.n.linked and is_refused(r):
        r = 0
    elif c.n.linked:
        # The lower file's own count needs no note.
        links_drop(c.t, c.n.ino, c.n.nlink != c.st.stx_nlink)
    return r


cdef int open_source(Copy *c, int dirfd, const char *name) noexcept nogil:
    cdef int flags = O_PATH | O_NOFOLLOW
    if c.n.type == S_IFREG:
        flags = O_RDONLY | O_NONBLOCK | O_NOFOLLOW
        c.source = sys_open_beneath(dirfd, name, flags | O_NOATIME, 0)
        if c.source == -EPERM:
            c.source = sys_open_beneath(dirfd, name, flags, 0)
        if c.source >= 0 and fd_metacopy(c.t, c.source) >= 0:
            c.data = fd_with_data(c.t, c.n, sys_dup(c.source))
            if c.data < 0:
                return c.data
    else:
        c.source = sys_open_beneath(dirfd, name, flags, 0)
    if c.source < 0:
        return c.source
    return owner_stat(c.t, c.branch, c.source, &c.st)


cdef int make_copy(Copy *c) noexcept nogil:
    if c.st.stx_mode & S_IFMT != c.n.type:
        return -ESTALE          # the branch was changed from outside
    if owner_is_unknown(c.t, &c.st):
        return -EOVERFLOW       # nobody here can make a file of his
    return copy_regular(c) if c.n.type == S_IFREG else copy_other(c)


cdef int copy_named(Copy *c, Node *parent, const char *name) noexcept nogil:
    cdef Ref lower, upper
    cdef int r = dir_ref(c.t, parent, c.branch, &lower)
    if r < 0:
        return r
    r = open_source(c, lower.fd, name)
    if r == 0:
        r = overlay_copy(c.t, lower.fd, name, c.source, c.n.type, c.may_wait, c.name)
        c.has_acls = r > 0
    ref_drop(c.t, &lower)
    if r < 0:
        return r
    r = dir_ref(c.t, parent, 0, &upper)
    if r < 0:
        return -ENOENT if r == -ESTALE else r
    r = make_copy(c)
    if r == 0:
        r = give_name(c, parent, upper.fd, name)
    ref_drop(c.t, &upper)
    return r


cdef int copy_orphan(Copy *c) noexcept nogil:
    """A lower file whose name is gone but which somebody has open: its copy has no name either."""
    cdef int r
    c.source = c.n.orphan_fd
    r = owner_stat(c.t, c.branch, c.source, &c.st)
    if r == 0:
        r = make_copy(c)
    if r == 0 and c.n.linked and c.n.nlink:
        r = keep_among_links(c)     # it has names still, only none that is known here
    if r == 0:
        # In place: whoever reads through this descriptor number meanwhile sees the same bytes.
        r = sys_dup_over(c.target, c.n.orphan_fd)
    if r >= 0 and c.name[0]:
        r = sys_unlinkat(c.t.work_fd, c.name, AT_REMOVEDIR if c.n.type == S_IFDIR else 0)
        c.name[0] = 0
    c.source = -1
    return min(r, 0)


cdef void finish(Copy *c, Node *parent, const char *text, size_t length, int r) noexcept nogil:
    """Publishes the result in the table and wakes who waits for it."""
    cdef Table *t = c.t
    cdef Node *n = c.n
    cdef Name *name
    cdef Fd *doomed = NULL
    mutex_lock(&t.lock)
    n.state = LOWER
    if r == 0:
        node_set_key_locked(t, n, c.st.stx_ino if n.linked else 0)
        if n.dir != NULL:
            dir_add_upper_locked(n)
        if n.data != NULL:
            fd_retire_locked(t, n.data, &doomed)
        if n.type == S_IFREG and n.orphan_fd < 0:
            # What was copied up is about to be changed: its descriptor is wanted next.
            node_adopt_fd_locked(t, n, c.target, &doomed)
            c.target = -1
        n.branch = 0
        n.metacopy = False
        n.bare = False          # an origin, perhaps
        n.state = UPPER
        n.seq += 1
        t.copy_ups += 1
        t.copy_up_bytes += c.copied
        if c.named:
            name = name_find_locked(t, parent, text, length)
            if name != NULL and name.node == n:
                name.branch = 0
            listing_put_locked(t, parent, text, length, n.ino, n.type >> 12, 0, True)
    t.copying -= 1
    cond_broadcast(&t.settled)
    if parent != NULL:
        node_unpin_locked(t, parent, &doomed)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)


cdef Name *name_to_bring_locked(Node *n, uint32_t skip) noexcept nogil:
    """A name of a node that is not in the upper though its directory is, but for so many."""
    cdef Name *name = n.names
    while name != NULL:
        if name.branch != 0 and name.parent.state == UPPER:
            if skip == 0:
                break
            skip -= 1
        name = name.alias
    return name


cdef int copy_up(Table *t, Node *n, uint64_t keep, bint may_wait) noexcept nogil:
    """Brings one node into the upper; see the declaration. The node must be pinned."""
    cdef char text[NAME_LIMIT + 1]
    cdef size_t length = 0
    cdef uint16_t branch
    cdef Name *name
    cdef Node *parent = NULL
    cdef Copy c
    cdef int r, synced = 0
    mutex_lock(&t.lock)
    while n.state == COPYING or n.changing:
        if not may_wait and n.state == COPYING:
            mutex_unlock(&t.lock)
            return WOULD_WAIT
        cond_wait(&t.settled, &t.lock)
    if n.state == UPPER:
        mutex_unlock(&t.lock)
        return bring_names(t, n)
    if n.names == NULL and n.orphan_fd < 0:
        mutex_unlock(&t.lock)
        return -ESTALE
    if n.names != NULL:
        name = name_to_bring_locked(n, 0)
        if name == NULL:
            mutex_unlock(&t.lock)
            return -ENOENT
        parent = name.parent
        parent.pins += 1
        length = name.length
        memcpy(text, name.text, length + 1)
    branch = n.branch
    n.state = COPYING
    t.copying += 1
    mutex_unlock(&t.lock)
    c.t = t
    c.n = n
    c.branch = branch
    c.keep = keep
    c.copied = 0
    c.source = c.target = c.data = -1
    c.name[0] = 0
    c.may_wait = may_wait
    c.has_acls = False
    c.named = False
    c.opened.record[0] = 0
    if parent != NULL:
        r = copy_named(&c, parent, text)
    else:
        r = copy_orphan(&c)
    if r < 0 and c.target >= 0:
        unrecord_origin(t, n, c.target)
    if c.name[0]:
        sys_unlinkat(t.work_fd, c.name, AT_REMOVEDIR if n.type == S_IFDIR else 0)
        closed_forget(t, &c.opened)
    if r == 0 and n.linked:
        r = sys_statx(c.target, b"", AT_EMPTY_PATH, &c.st)
    if r == 0 and t.passthrough and c.copied and not t.volatile_:
        # The kernel will not ask before it makes data durable (msync, O_DSYNC).
        synced = copy_sync(t, n, c.target)
    finish(&c, parent, text, length, r)
    if c.source >= 0:
        sys_close(c.source)
    if c.target >= 0:
        sys_close(c.target)
    if c.data >= 0:
        sys_close(c.data)
    if r == 0:
        r = synced              # the copy stays, as good as the lower file
    return r if r < 0 else bring_names(t, n)


cdef int bring_name(Table *t, Node *n, Node *parent, const char *text,
                    size_t length) noexcept nogil:
    """Links the copy under one of its names."""
    cdef Ref directory, file
    cdef Name *name
    cdef bint missing
    cdef int r = dir_ref(t, parent, 0, &directory)
    if r < 0:
        return r
    r = node_path_ref(t, n, &file)
    if r == 0:
        # Who removes or renames the name waits, lest the link comes after that.
        change_begin(t, n, NULL, True)
        mutex_lock(&t.lock)
        name = name_find_locked(t, parent, text, length)
        missing = name != NULL and name.node == n and name.branch != 0
        mutex_unlock(&t.lock)
        if missing:
            r = put_name(t, parent, file.fd, b"", directory.fd, text)
        mutex_lock(&t.lock)
        if missing and r == 0:
            name.branch = 0
            listing_put_locked(t, parent, text, length, n.ino, n.type >> 12, 0, True)
        change_end_locked(t, n)
        mutex_unlock(&t.lock)
        ref_drop(t, &file)
    ref_drop(t, &directory)
    return r


cdef int bring_names(Table *t, Node *n) noexcept nogil:
    """See the declaration. Read as a layer, what is in the upper then needs the links no more."""
    cdef char text[NAME_LIMIT + 1]
    cdef size_t length
    cdef uint32_t refused = 0
    cdef Name *name
    cdef Node *parent
    cdef int r = 0
    while r == 0 and n.linked and n.state == UPPER:
        mutex_lock(&t.lock)
        name = name_to_bring_locked(n, refused)
        if name == NULL:
            mutex_unlock(&t.lock)
            break
        length = name.length
        memcpy(text, name.text, length + 1)
        parent = name.parent
        parent.pins += 1
        mutex_unlock(&t.lock)
        r = bring_name(t, n, parent, text, length)
        node_unpin(t, parent)
        if is_refused(r):
            refused += 1
            r = 0
    return r


cdef int copy_sync(Table *t, Node *n, int fd) noexcept nogil:
    """See the declaration.

    A copy gets its name after its data is on the disk, and an fdatasync(2) after a change in
    place has ext4 commit nothing: it writes the blocks of a file that has no name yet. fsync(2)
    commits the transaction of the name, and with it what was done before: the directories above
    that were copied up, and the marks in them. xfs forces its log as far. btrfs logs the names of
    this one inode and the directories above it, but not the count of a file of several names.
    """
    cdef int r = links_sync(t) if n.linked else 0
    if r == 0:
        r = sys_fsync(fd)
    if r == 0:
        mutex_lock(&t.lock)
        n.synced = True
        mutex_unlock(&t.lock)
    return r


cdef int settle(Table *t, Node *n, bint may_wait) noexcept nogil:
    cdef int r = 0
    mutex_lock(&t.lock)
    while n.state == COPYING:
        if not may_wait:
            r = WOULD_WAIT
            break
        cond_wait(&t.settled, &t.lock)
    mutex_unlock(&t.lock)
    return r
