# cython: language_level=3
"""How a file is reached: where it is now, its attributes, its data.

By a descriptor that is open already, else by its name, again and again while it is renamed.
"""
from libc.errno cimport EACCES, EIO, ENODATA, EPERM, EROFS, ESTALE, ETXTBSY
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcpy, strncmp

from unionfs._descriptors cimport (
    fd_close_doomed,
    fd_keep_locked,
    fd_use_locked,
    ref_borrow,
    ref_drop,
)
from unionfs._directories cimport dir_ref
from unionfs._idmap cimport NO_ID, id_show_owner
from unionfs._nodes cimport (
    ATTEMPTS,
    NAME_LIMIT,
    ROOT_ID,
    Fd,
    Name,
    Node,
    Ref,
    Table,
    link_name,
    node_unpin,
)
from unionfs._override cimport Override, override_show, override_show_at
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    O_NOATIME,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    S_IFREG,
    Stat,
    cond_wait,
    mutex_lock,
    mutex_unlock,
    sys_close,
    sys_dup,
    sys_getxattr,
    sys_getxattrat,
    sys_listxattr,
    sys_listxattrat,
    sys_open_beneath,
    sys_statx,
)
from unionfs._unmapped cimport unmapped_show_group


cdef int node_place(Table *t, Node *n, Ref *directory, char *text, uint32_t *seq) noexcept nogil:
    """Where a node's data is: a directory, and its name there (NAME_LIMIT + 1 bytes).

    The name is right as long as `Node.seq` still is *seq. -ESTALE for a node without a name.
    """
    cdef Name *name
    cdef Node *parent
    cdef uint16_t branch
    cdef int r
    mutex_lock(&t.lock)
    while n.changing:
        cond_wait(&t.settled, &t.lock)
    name = n.names
    while name != NULL and name.branch != n.branch:
        name = name.alias
    if name == NULL and n.linked and n.branch == 0 and n.names != NULL:
        # No name of the copy is in the upper; the copy itself is among the links.
        link_name(n.ino, text)
        ref_borrow(directory, t.links_fd)
        seq[0] = n.seq
        mutex_unlock(&t.lock)
        return 0
    if name == NULL:
        mutex_unlock(&t.lock)
        return -ESTALE
    memcpy(text, name.text, name.length + 1)
    parent = name.parent
    branch = name.branch
    parent.pins += 1
    seq[0] = n.seq
    mutex_unlock(&t.lock)
    r = dir_ref(t, parent, branch, directory)
    if r == 0 and directory.cached == NULL and not directory.own and parent.orphan_fd >= 0:
        # Lent by the parent, which nothing pins from here on.
        r = -ESTALE
    node_unpin(t, parent)
    return r


cdef int node_stat(Table *t, Node *n, Stat *st) noexcept nogil:
    """The node's attributes as the union shows them. The node must be pinned."""
    cdef Ref ref
    cdef char text[NAME_LIMIT + 1]
    cdef const Override *override
    cdef uint32_t seq = 0, openings = 0
    cdef int r = -ESTALE, _attempt
    for _attempt in range(ATTEMPTS):
        mutex_lock(&t.lock)
        ref.fd = -1
        if n.dir != NULL:
            openings = n.dir.openings
        override = &t.branch[n.branch].override
        if n.orphan_fd >= 0:
            ref_borrow(&ref, n.orphan_fd)
        elif n.id == ROOT_ID:
            ref_borrow(&ref, t.branch[n.branch].fd)
        elif n.data != NULL and not n.metacopy:
            fd_use_locked(t, n.data, &ref)
        elif n.dir != NULL and n.dir.fds[0] != NULL:
            fd_use_locked(t, n.dir.fds[0], &ref)
        mutex_unlock(&t.lock)
        if ref.fd >= 0:
            r = sys_statx(ref.fd, "", AT_EMPTY_PATH, st)
            if r == 0:
                override_show(override, ref.fd, st)
            ref_drop(t, &ref)
            if n.dir == NULL or n.dir.openings == openings:
                break
            continue            # its mode was perhaps another one for that moment
        r = node_place(t, n, &ref, text, &seq)
        if r == 0:
            r = sys_statx(ref.fd, text, 0, st)
            if r == 0:
                override_show_at(override, ref.fd, text, st)
            ref_drop(t, &ref)
        if n.seq == seq and not n.changing and (r != -ESTALE or n.names == NULL) and (
                n.dir == NULL or n.dir.openings == openings):
            break
    if r == 0:
        node_show(t, n, st)
    return r


cdef void node_show(Table *t, const Node *n, Stat *st) noexcept nogil:
    cdef bint no_group = st.stx_gid == NO_ID and t.unmapped != NULL
    if t.maps_ids:
        st.stx_uid = id_show_owner(&t.uids, st.stx_uid)
        st.stx_gid = id_show_owner(&t.gids, st.stx_gid)
    if no_group and st.stx_gid == NO_ID:
        unmapped_show_group(t.unmapped, st)
    mutex_lock(&t.lock)
    st.stx_ino = n.ino
    if (n.dir != NULL and st.stx_ctime.tv_nsec == n.dir.made_ctime.tv_nsec
            and st.stx_ctime.tv_sec == n.dir.made_ctime.tv_sec and n.dir.made_ctime.tv_sec):
        st.stx_ctime = n.dir.shown_ctime
    if n.dir != NULL and n.dir.held_mode:
        st.stx_mode = <uint16_t>n.dir.held_mode
    if n.dir != NULL and (n.dir.count > 1 or t.static_nlink):
        st.stx_nlink = 1        # as overlayfs: the number of subdirectories is not counted
    if n.linked:
        st.stx_nlink = n.nlink
    elif n.removed and n.branch != 0:
        st.stx_nlink = 0
    mutex_unlock(&t.lock)


cdef int node_open(Table *t, Node *n, int flags, uint32_t *seq) noexcept nogil:
    """A private descriptor of the node's file by its name; retries while it is renamed."""
    cdef Ref directory
    cdef char text[NAME_LIMIT + 1]
    cdef int fd = -ESTALE, _attempt
    for _attempt in range(ATTEMPTS):
        fd = node_place(t, n, &directory, text, seq)
        if fd < 0:
            if fd == -ESTALE and n.names != NULL:
                continue
            return fd
        fd = sys_open_beneath(directory.fd, text, flags | O_NOFOLLOW, 0)
        ref_drop(t, &directory)
        if n.seq == seq[0] and not n.changing:
            return fd
        if fd >= 0:
            sys_close(fd)
    return -ESTALE


cdef int node_path_ref(Table *t, Node *n, Ref *ref) noexcept nogil:
    """A descriptor for attributes and xattrs, of any type of file (it may be O_PATH)."""
    cdef uint32_t seq = 0
    cdef int fd
    if n.dir != NULL:
        return dir_ref(t, n, n.branch, ref)
    mutex_lock(&t.lock)
    ref.fd = -1
    if n.orphan_fd >= 0:
        ref_borrow(ref, n.orphan_fd)
    elif n.data != NULL and not n.metacopy:
        fd_use_locked(t, n.data, ref)
    mutex_unlock(&t.lock)
    if ref.fd >= 0:
        return 0
    fd = node_open(t, n, O_PATH, &seq)
    if fd < 0:
        return fd
    ref.fd = fd
    ref.cached = NULL
    ref.own = True
    return 0


cdef int64_t fd_metacopy(const Table *t, int fd) noexcept nogil:
    cdef const char *name = b"trusted.overlay.metacopy"
    if not t.trusted:
        name = b"user.overlay.metacopy"
    return sys_getxattr(fd, name, NULL, 0)


cdef int fd_with_data(Table *t, Node *n, int fd) noexcept nogil:
    cdef int r
    if fd < 0 or fd_metacopy(t, fd) < 0:
        return fd
    mutex_lock(&t.lock)
    n.metacopy = n.branch != 0      # not if it has just been copied up
    mutex_unlock(&t.lock)
    r = t.find_data(t, n, fd)
    sys_close(fd)
    return r


cdef int node_open_data(Table *t, Node *n, bint write, uint32_t *seq,
                        bint *writable) noexcept nogil:
    cdef int fd
    writable[0] = n.branch == 0
    if writable[0]:
        fd = node_open(t, n, O_RDWR | O_NONBLOCK, seq)
        if write or fd not in (-EACCES, -EPERM, -EROFS, -ETXTBSY):
            return fd
        writable[0] = False
    elif write:
        return -EROFS
    # Reading must leave no trace in a lower; O_NOATIME is the owner's and root's alone.
    fd = node_open(t, n, O_RDONLY | O_NONBLOCK | O_NOATIME, seq)
    if fd == -EPERM:
        fd = node_open(t, n, O_RDONLY | O_NONBLOCK, seq)
    return fd_with_data(t, n, fd) if n.branch != 0 else fd


cdef int node_data_ref(Table *t, Node *n, bint write, Ref *ref) noexcept nogil:
    """A descriptor of a regular file's data where it is now. The node must be pinned."""
    cdef Fd *doomed = NULL
    cdef uint32_t seq = 0
    cdef uint16_t branch
    cdef bint writable
    cdef int fd, _attempt
    for _attempt in range(ATTEMPTS):
        mutex_lock(&t.lock)
        ref.fd = -1
        branch = n.branch
        if n.orphan_fd >= 0:
            ref_borrow(ref, n.orphan_fd)
        elif n.data != NULL and (n.data.writable or not write):
            fd_use_locked(t, n.data, ref)
        mutex_unlock(&t.lock)
        if ref.fd >= 0:
            return 0
        fd = node_open_data(t, n, write, &seq, &writable)
        if fd == -ESTALE and n.orphan_fd >= 0:
            continue            # its last name went in between
        if fd < 0:
            return fd
        mutex_lock(&t.lock)
        if n.branch == branch:
            fd_keep_locked(t, &n.data, fd, writable, ref, &doomed)
            mutex_unlock(&t.lock)
            fd_close_doomed(t, doomed)
            return 0
        mutex_unlock(&t.lock)
        sys_close(fd)           # copied up in between
    return -ESTALE


cdef void node_set_xattr(Table *t, Node *n) noexcept nogil:
    """An attribute of the node has been set, or removed."""
    mutex_lock(&t.lock)
    n.bare = False
    if n.dir != NULL:
        n.dir.inherit_known = False
    n.seq += 1
    mutex_unlock(&t.lock)


cdef bint node_is_bare(Table *t, Node *n, uint32_t seq, bint bare) noexcept nogil:
    """Remembers what was seen of a node that has not changed since `seq`; False if it has."""
    cdef bint valid
    mutex_lock(&t.lock)
    valid = n.seq == seq and not n.changing
    if valid:
        n.bare = bare
    mutex_unlock(&t.lock)
    return valid


cdef bint node_by_name(Table *t, Node *n, Ref *ref, char *text, uint32_t *seq) noexcept nogil:
    """Where no descriptor of the file is open: its directory and its name there."""
    return n.dir == NULL and (n.data == NULL or n.metacopy) and n.orphan_fd < 0 and (
        node_place(t, n, ref, text, seq) == 0)


cdef int64_t node_getxattr(Table *t, Node *n, const char *name, void *value,
                           size_t size) noexcept nogil:
    """By a descriptor that is open already, else by name; remembers files that have none."""
    cdef Ref ref
    cdef char text[NAME_LIMIT + 1]
    cdef uint32_t seq = n.seq
    cdef int64_t r, listed
    # Of the namespaces asked most often it is certain what the branch would say.
    cdef bint certain = strncmp(name, b"security.", 9) == 0 or strncmp(name, b"user.", 5) == 0
    if n.bare and certain:
        return -ENODATA
    if node_by_name(t, n, &ref, text, &seq):
        listed = sys_listxattrat(ref.fd, text, NULL, 0)
        if listed == 0 and certain:
            r = -ENODATA
        else:
            r = sys_getxattrat(ref.fd, text, name, value, size)
        ref_drop(t, &ref)
        if node_is_bare(t, n, seq, listed == 0):
            return r
    seq = n.seq
    r = node_path_ref(t, n, &ref)
    if r < 0:
        return r
    listed = sys_listxattr(ref.fd, NULL, 0)
    r = -ENODATA if listed == 0 and certain else sys_getxattr(ref.fd, name, value, size)
    node_is_bare(t, n, seq, listed == 0)
    ref_drop(t, &ref)
    return r


cdef int64_t node_listxattr(Table *t, Node *n, char *names, size_t size) noexcept nogil:
    """The same for the list: who asks for one attribute of every file asks for it as well."""
    cdef Ref ref
    cdef char text[NAME_LIMIT + 1]
    cdef uint32_t seq = n.seq
    cdef int64_t r
    if n.bare:
        return 0
    if node_by_name(t, n, &ref, text, &seq):
        r = sys_listxattrat(ref.fd, text, names, size)
        ref_drop(t, &ref)
        if node_is_bare(t, n, seq, r == 0):
            return r
    seq = n.seq
    r = node_path_ref(t, n, &ref)
    if r < 0:
        return r
    r = sys_listxattr(ref.fd, names, size)
    node_is_bare(t, n, seq, r == 0)
    ref_drop(t, &ref)
    return r


cdef int node_open_orphan(Table *t, Node *n) noexcept nogil:
    """A descriptor for `Node.orphan_fd`: of the data where that can be had, else O_PATH."""
    cdef Ref ref
    cdef uint32_t seq = 0
    cdef bint writable
    cdef int fd, r
    if n.type == S_IFREG and n.data == NULL and n.orphan_fd < 0:
        fd = node_open_data(t, n, False, &seq, &writable)
        if fd != -EACCES and fd != -EPERM and fd != -EIO:
            return fd
    r = node_path_ref(t, n, &ref)
    if r < 0:
        return r
    if not ref.own:
        fd = sys_dup(ref.fd)
        ref_drop(t, &ref)
        return fd
    return ref.fd
