# cython: language_level=3
"""Creating names, in the order of steps that a crash cannot tear.

Where the upper hides a lower name, the formats differ. ``.wh.`` format: the whiteout goes down
before the name goes, and comes away after the name has come; between the two both are there, and a
name beside its own whiteout is visible. Overlay format: the new state is built in the work
directory and takes its place with one rename. docs/format.md has the table of steps.
"""
from libc.errno cimport (
    EEXIST,
    EINVAL,
    EISDIR,
    ENOENT,
    ENOMEM,
    ENOTDIR,
    EOPNOTSUPP,
    EPERM,
    EROFS,
)
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport strlen

from unionfs._closed cimport Opened, closed_begin, closed_finish, closed_forget
from unionfs._descriptors cimport fd_close_doomed, node_adopt_fd_locked, ref_drop
from unionfs._directories cimport dir_new, dir_ref
from unionfs._guard cimport guard_adding
from unionfs._identity cimport mark_impure, show_ino
from unionfs._idmap cimport acl_names_unknown
from unionfs._links cimport links_set_count
from unionfs._listing cimport listing_put_locked
from unionfs._lookup cimport check_name, child_find, need_upper, shown_below
from unionfs._marks cimport (
    WORK_NAME,
    mark_beside,
    mark_clear_directory,
    mark_is_whiteout,
    mark_set_plain,
    mark_remove,
    mark_reserved,
    mark_set_opaque,
    work_new_name,
)
from unionfs._nodes cimport (
    FORMAT_AUFS,
    UPPER,
    Fd,
    Node,
    Ref,
    Table,
    name_add_locked,
    node_new_locked,
    node_set_key_locked,
    node_unpin,
    node_unpin_locked,
)
from unionfs._operations cimport WHOLE_SIZE, Op
from unionfs._owner cimport (
    owner_first_mode,
    owner_give,
    owner_of_new,
    owner_record,
    owner_stat,
    owner_stored_type,
)
from unionfs._reach cimport node_path_ref, node_show
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    AT_REMOVEDIR,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOFOLLOW,
    O_PATH,
    O_RDWR,
    O_TMPFILE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_ISGID,
    S_ISUID,
    Stat,
    mutex_lock,
    mutex_unlock,
    sys_chmodfd,
    sys_close,
    sys_fchownat,
    sys_getxattr,
    sys_linkfd,
    sys_major,
    sys_minor,
    sys_mkdirat,
    sys_mknodat,
    sys_open_beneath,
    sys_renameat2,
    sys_setxattr,
    sys_statx,
    sys_symlinkat,
    sys_unlinkat,
)

cdef const char *DEFAULT_ACL = "system.posix_acl_default"

cdef enum:
    ACL_SIZE = 4096
    PREFIX_SIZE = 8             # of ".wh..wh."

cdef struct Born:
    # A file that has just been created.
    int fd                  # O_RDWR for a regular file, O_PATH otherwise
    Stat st


cdef int open_parent(Table *t, Op *op, Node *parent, Ref *ref) noexcept nogil:
    """The upper directory in which a name changes, brought up if need be."""
    cdef int r
    if parent.dir == NULL:
        return -ENOTDIR
    if not t.writable:
        return -EROFS
    if parent.removed:
        return -ENOENT
    r = guard_adding(parent)
    if r == 0:
        r = need_upper(t, op, parent, 0)
    return r if r != 0 else dir_ref(t, parent, 0, ref)


cdef int check_new_name(const Table *t, const char *name, size_t length) noexcept nogil:
    cdef int r = check_name(name, length)
    if r == 0 and t.format == FORMAT_AUFS and mark_reserved(name, length):
        return -EPERM           # it would say something about another name
    return r


# --- creating ------------------------------------------------------------------------------

cdef bint has_default_acl(Table *t, Node *parent, int dirfd) noexcept nogil:
    """Does the branch give new files an ACL?"""
    cdef uint32_t seq
    cdef bint known, has
    mutex_lock(&t.lock)
    known = parent.dir.inherit_known
    has = parent.dir.has_default_acl
    seq = parent.seq
    mutex_unlock(&t.lock)
    if known:
        return has
    has = sys_getxattr(dirfd, DEFAULT_ACL, NULL, 0) > 0
    mutex_lock(&t.lock)
    if parent.seq == seq:       # else it has been set meanwhile, perhaps
        parent.dir.has_default_acl = has
        parent.dir.inherit_known = True
    mutex_unlock(&t.lock)
    return has


cdef bint umask_counts(Table *t, const Make *make, Node *parent, int dirfd) noexcept nogil:
    """Not for links, nor where there is a default ACL (acl(5))."""
    return (make.source == NULL and (make.mode & S_IFMT) != S_IFLNK
            and not (t.acls and has_default_acl(t, parent, dirfd)))


cdef bint hides_acl(Table *t, Node *parent, int dirfd) noexcept nogil:
    """Would the branch give new files an ACL though here are none?"""
    return not t.acls and has_default_acl(t, parent, dirfd)


cdef int make_file(Table *t, Op *op, const Make *make, uint32_t mode, int dirfd, const char *name,
                   Born *born) noexcept nogil:
    """Creates one file under its name in a directory and opens it; on failure there is none."""
    cdef uint32_t type_ = owner_stored_type(t, make.mode & S_IFMT)
    cdef Ref source
    cdef int r
    born.fd = -1
    mode = owner_first_mode(t, mode)
    if make.source != NULL:
        r = node_path_ref(t, make.source, &source)
        if r < 0:
            return r
        r = sys_linkfd(source.fd, dirfd, name)
        ref_drop(t, &source)
    elif type_ == S_IFREG:
        r = sys_open_beneath(dirfd, name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW, mode)
        born.fd = r
    elif type_ == S_IFDIR:
        r = sys_mkdirat(dirfd, name, mode)
    elif type_ == S_IFLNK:
        r = sys_symlinkat(make.target, dirfd, name)
    else:
        r = sys_mknodat(dirfd, name, type_ | mode, make.rdev)
    if r < 0:
        return r
    if born.fd < 0:
        born.fd = sys_open_beneath(dirfd, name, O_PATH | O_NOFOLLOW, 0)
    r = owner_stat(t, 0, born.fd, &born.st) if born.fd >= 0 else born.fd
    if r < 0:
        sys_unlinkat(dirfd, name, AT_REMOVEDIR if type_ == S_IFDIR else 0)
    return r


cdef int record_owner(const Table *t, const Make *make, uint32_t mode, const Stat *above,
                      Born *born) noexcept nogil:
    """Everything that the branch would have done, where it keeps it in an attribute."""
    born.st.stx_uid = make.uid
    born.st.stx_gid = make.gid
    if above.stx_mode & S_ISGID:
        born.st.stx_gid = above.stx_gid
        if (mode & S_IFMT) == S_IFDIR:
            mode |= S_ISGID
    if (mode & S_IFMT) == S_IFCHR or (mode & S_IFMT) == S_IFBLK:
        born.st.stx_rdev_major = sys_major(make.rdev)
        born.st.stx_rdev_minor = sys_minor(make.rdev)
    born.st.stx_mode = <uint16_t>mode
    return owner_record(t, born.fd, &born.st)


cdef int give_owner(const Table *t, const Make *make, uint32_t mode, int parent_fd,
                    Born *born) noexcept nogil:
    """The caller's uid and gid, then the set-id bits, which a chown would have cleared."""
    cdef uint32_t special = mode & (S_ISUID | S_ISGID)
    cdef uint32_t gid = make.gid
    cdef Stat above
    cdef int r
    r = owner_stat(t, 0, parent_fd, &above)
    if r < 0:
        return r
    if t.branch[0].override.name != NULL:
        return record_owner(t, make, mode, &above, born)
    if above.stx_mode & S_ISGID:
        gid = born.st.stx_gid
    if born.st.stx_uid != make.uid or born.st.stx_gid != gid:
        r = owner_give(t, born.fd, make.uid, gid)
        if r < 0:
            return r
        born.st.stx_uid = make.uid
        born.st.stx_gid = gid
    if special and (make.mode & S_IFMT) != S_IFLNK and (born.st.stx_mode & special) != special:
        r = sys_chmodfd(born.fd, (born.st.stx_mode & 0o7777) | special)
        if r < 0:
            return r
        born.st.stx_mode |= <unsigned short>special
    return 0


cdef int make_owned(Table *t, Op *op, const Make *make, Node *parent, int parent_fd, int dirfd,
                    const char *name, Born *born) noexcept nogil:
    """A new file with its final owner and mode, or none."""
    cdef uint32_t mode = make.mode
    cdef int r
    if umask_counts(t, make, parent, parent_fd):
        mode &= ~op.umask
    r = make_file(t, op, make, mode, dirfd, name, born)
    if r == 0 and make.source == NULL:
        if (born.st.stx_uid != make.uid or born.st.stx_gid != make.gid
                or mode & (S_ISUID | S_ISGID) or t.branch[0].override.name != NULL):
            r = give_owner(t, make, mode, parent_fd, born)
        if r < 0:
            sys_unlinkat(dirfd, name, AT_REMOVEDIR if (mode & S_IFMT) == S_IFDIR else 0)
    if r < 0 and born.fd >= 0:
        sys_close(born.fd)
        born.fd = -1
    return r


cdef bint takes_several_steps(Table *t, const Make *make, Node *parent,
                              int parent_fd) noexcept nogil:
    """Is the file not what it has to be as soon as it is created?"""
    return make.source == NULL and (
        make.uid != t.uid or make.gid != t.gid or make.mode & (S_ISUID | S_ISGID)
        or t.branch[0].override.name != NULL or hides_acl(t, parent, parent_fd))


cdef int make_unnamed(Table *t, const Op *op, const Make *make, Node *parent,
                      int parent_fd, Born *born) noexcept nogil:
    """A regular file in its final state but without a name; -EOPNOTSUPP where there are none."""
    cdef uint32_t mode = make.mode
    cdef int r
    if hides_acl(t, parent, parent_fd):
        return -EOPNOTSUPP      # it would be born with it
    if umask_counts(t, make, parent, parent_fd):
        mode &= ~op.umask
    born.fd = sys_open_beneath(parent_fd, b".", O_TMPFILE | O_RDWR, owner_first_mode(t, mode))
    if born.fd in (-EISDIR, -EINVAL, -ENOENT):
        return -EOPNOTSUPP      # how filesystems and kernels without O_TMPFILE say so (open(2))
    if born.fd < 0:
        return born.fd
    r = owner_stat(t, 0, born.fd, &born.st)
    if r == 0:
        r = give_owner(t, make, mode, parent_fd, born)
    if r < 0:
        sys_close(born.fd)
    return r


cdef int make_complete(Table *t, Op *op, const Make *make, Node *parent, int dirfd,
                       const char *name, Born *born) noexcept nogil:
    """A new file that appears under its name only when it is complete."""
    cdef int r = -EOPNOTSUPP
    if (make.mode & S_IFMT) == S_IFREG:
        r = make_unnamed(t, op, make, parent, dirfd, born)
    if r == -EOPNOTSUPP:
        return make_aside(t, op, make, parent, dirfd, name, False, born)
    if r < 0:
        return r
    r = sys_linkfd(born.fd, dirfd, name)
    if r == 0:
        r = owner_stat(t, 0, born.fd, &born.st)
    if r < 0:
        sys_close(born.fd)
    return r


cdef int bear_nursery(Table *t, int parent_fd, const char *nursery) noexcept nogil:
    """Makes a directory that inherits what the branch gives, where an ACL cannot be written because
    it names ids that the user namespace has not. The name is never shown, and gone at once."""
    cdef char name[PREFIX_SIZE + WORK_NAME]
    cdef int r
    snprintf(name, sizeof(name), b".wh..wh.%s", nursery)
    r = sys_mkdirat(parent_fd, name, 0o700)
    if r == 0:
        r = sys_renameat2(parent_fd, name, t.work_fd, nursery, RENAME_NOREPLACE)
        if r < 0:
            sys_unlinkat(parent_fd, name, AT_REMOVEDIR)
    return r


cdef int open_nursery(Table *t, Node *parent, int parent_fd, char *nursery) noexcept nogil:
    """A directory in the work directory in which files are born as they would be in `parent`.

    With its group if it is set-group-id, and its default ACL: nothing of what ACLs inherit is
    written here again.
    """
    cdef char acl[ACL_SIZE]
    cdef int64_t size = 0
    cdef Stat st
    cdef int fd, r
    cdef bint born = False
    work_new_name(t, nursery)
    r = sys_statx(parent_fd, b"", AT_EMPTY_PATH, &st)
    if r == 0 and t.acls and has_default_acl(t, parent, parent_fd):
        size = sys_getxattr(parent_fd, DEFAULT_ACL, acl, ACL_SIZE)
        r = <int>min(size, 0)
        born = size > 0 and t.unmapped != NULL and acl_names_unknown(acl, size)
    if r == 0 and born:
        r = bear_nursery(t, parent_fd, nursery)
    elif r == 0:
        r = sys_mkdirat(t.work_fd, nursery, 0o700)
    if r < 0:
        return r
    fd = sys_open_beneath(t.work_fd, nursery, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)
    if fd < 0:
        sys_unlinkat(t.work_fd, nursery, AT_REMOVEDIR)
        return fd
    if st.stx_mode & S_ISGID:
        r = sys_fchownat(fd, b"", t.uid, st.stx_gid)
        if r == 0:
            r = sys_chmodfd(fd, 0o2700)
    if r == 0 and size > 0 and not born:
        r = sys_setxattr(fd, DEFAULT_ACL, acl, <size_t>size, 0)
    if r < 0:
        sys_close(fd)
        sys_unlinkat(t.work_fd, nursery, AT_REMOVEDIR)
        return r
    return fd


cdef int make_aside(Table *t, Op *op, const Make *make, Node *parent, int dirfd,
                    const char *name, bint whiteout, Born *born) noexcept nogil:
    """Creates a file where the upper has a whiteout device, or under a name that begins with
    ``.wh.``: built aside, put in place in one step."""
    cdef char nursery[WORK_NAME]
    cdef Opened opened
    cdef bint is_dir = (make.mode & S_IFMT) == S_IFDIR and make.source == NULL
    cdef int r, fd = open_nursery(t, parent, dirfd, nursery)
    if fd < 0:
        return fd
    r = make_owned(t, op, make, parent, dirfd, fd, b"new", born)
    opened.record[0] = 0
    if r == 0:
        if is_dir:
            r = closed_begin(t, parent, name, born.fd, &born.st, &opened)
        if r == 0 and is_dir and whiteout:
            r = mark_set_opaque(t, born.fd)
        if r == 0 and mark_reserved(name, strlen(name)):
            r = mark_set_plain(t, born.fd)
        if r == 0 and not whiteout:
            r = sys_renameat2(fd, b"new", dirfd, name, RENAME_NOREPLACE)
        elif r == 0:
            # A directory cannot be renamed over a device, but change places with it.
            r = sys_renameat2(fd, b"new", dirfd, name, RENAME_EXCHANGE if is_dir else 0)
        if r < 0:
            if is_dir:
                mark_clear_directory(t, born.fd, False)
            sys_close(born.fd)
            sys_unlinkat(fd, b"new", AT_REMOVEDIR if is_dir else 0)
            closed_forget(t, &opened)
        else:
            if is_dir and whiteout:
                sys_unlinkat(fd, b"new", 0)
            r = closed_finish(t, born.fd, &opened)
            if r < 0:
                sys_close(born.fd)
    sys_close(fd)
    sys_unlinkat(t.work_fd, nursery, AT_REMOVEDIR)
    return r


cdef int take_whiteout_away(Table *t, Node *parent, int dirfd, const char *name, size_t length,
                            uint32_t type_, const Born *born) noexcept nogil:
    """A name has come beside its ``.wh.`` whiteout: 1 if there was one, 0, -errno without it."""
    cdef bint is_dir = type_ == S_IFDIR
    cdef Opened opened
    cdef int r
    if parent.dir.count < 2:
        return 0
    r = mark_beside(t, dirfd, name, length)
    if r == 0:
        return 0
    opened.record[0] = 0
    if r == 1 and is_dir:
        r = closed_begin(t, parent, name, born.fd, &born.st, &opened)
        if r == 0:
            r = mark_set_opaque(t, born.fd)
    if r >= 0:
        r = mark_remove(dirfd, name, length)
    if r == 0:
        r = closed_finish(t, born.fd, &opened)
        return 1 if r == 0 else r
    if is_dir:
        mark_clear_directory(t, born.fd, False)
    sys_unlinkat(dirfd, name, AT_REMOVEDIR if is_dir else 0)
    closed_forget(t, &opened)
    return r


cdef int enter(Table *t, Node *parent, const char *name, size_t length, const Make *make,
               Born *born, bint below, Node **out, Stat *st) noexcept nogil:
    """Puts a new name into the table and gives the node its first descriptor."""
    cdef uint32_t type_ = born.st.stx_mode & S_IFMT
    cdef Fd *doomed = NULL
    cdef Node *n = make.source
    cdef uint16_t upper = 0
    mutex_lock(&t.lock)
    if n != NULL:
        n.pins += 1
        n.nlink += n.linked
        if n.key == 0:
            node_set_key_locked(t, n, born.st.stx_ino)
    else:
        n = node_new_locked(t)
        if n != NULL:
            n.type = type_
            n.ino = show_ino(t, 0, born.st.stx_ino)
            n.state = UPPER
            if type_ == S_IFDIR:
                n.dir = dir_new(&upper, NULL, 1)
    if n == NULL or (type_ == S_IFDIR and n.dir == NULL) or name_add_locked(
            t, parent, name, length, n, 0) == NULL:
        if n != NULL:
            node_unpin_locked(t, n, &doomed)
        mutex_unlock(&t.lock)
        fd_close_doomed(t, doomed)
        sys_close(born.fd)
        return -ENOMEM          # the file is there; the next look-up finds it
    if type_ == S_IFREG and make.source == NULL:
        node_adopt_fd_locked(t, n, born.fd, &doomed)
        born.fd = -1
    n.removed = False
    listing_put_locked(t, parent, name, length, n.ino, type_ >> 12, 0, below)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)
    if born.fd >= 0:
        sys_close(born.fd)
    out[0] = n
    st[0] = born.st
    node_show(t, n, st)
    return 0


cdef int carry_origin(Table *t, Node *source, Node *parent, int parent_fd) noexcept nogil:
    """A directory that a link brings a copied-up file into is marked before the name is there."""
    cdef Ref ref
    cdef Stat st
    cdef int r = node_path_ref(t, source, &ref)
    if r < 0:
        return r
    r = sys_statx(ref.fd, b"", AT_EMPTY_PATH, &st)
    ref_drop(t, &ref)
    return r if r < 0 or st.stx_ino == source.ino else mark_impure(t, parent, parent_fd)


cdef int change_make(Table *t, Op *op, Node *parent, const char *name, size_t length,
                     Make *make, Node **out, Stat *st) noexcept nogil:
    """Creates a name; see the declaration."""
    cdef Born born
    cdef Ref ref
    cdef Stat there
    cdef bint below = False, counted = False
    cdef int r = check_new_name(t, name, length)
    if r < 0:
        return r
    make.uid = op.uid
    make.gid = op.gid
    owner_of_new(t, &make.uid, &make.gid)
    if make.source != NULL:
        r = guard_adding(parent)
        if r == 0:
            r = need_upper(t, op, make.source, WHOLE_SIZE)
        if r != 0:
            return r
    r = open_parent(t, op, parent, &ref)
    if r != 0:
        return r
    r = shown_below(t, parent, name, length)
    if r == 1:
        below = True
        r = child_find(t, parent, name, length, out, &there)
        if r == 0:
            node_unpin(t, out[0])
            ref_drop(t, &ref)
            return -EEXIST
        r = 0 if r == -ENOENT else r
    if r == 0 and make.source != NULL:
        r = carry_origin(t, make.source, parent, ref.fd)
    if r == 0 and make.source != NULL and make.source.linked:
        # First: a count that is too low would have the copy go before its last name.
        r = links_set_count(t, make.source.ino, make.source.nlink + 1)
        counted = r == 0
    if r == 0 and mark_reserved(name, length):
        r = make_aside(t, op, make, parent, ref.fd, name, False, &born)
    elif r == 0 and takes_several_steps(t, make, parent, ref.fd):
        r = make_complete(t, op, make, parent, ref.fd, name, &born)
    elif r == 0:
        r = make_owned(t, op, make, parent, ref.fd, ref.fd, name, &born)
    if r == -EEXIST and sys_statx(ref.fd, name, 0, &there) == 0 and mark_is_whiteout(&there):
        r = make_aside(t, op, make, parent, ref.fd, name, True, &born)
    elif r == 0:
        r = take_whiteout_away(t, parent, ref.fd, name, length, make.mode & S_IFMT, &born)
        if r < 0:
            sys_close(born.fd)
    if r < 0 and counted:
        links_set_count(t, make.source.ino, make.source.nlink)
    elif r >= 0:
        r = enter(t, parent, name, length, make, &born, below, out, st)
    ref_drop(t, &ref)
    return r


cdef int change_tmpfile(Table *t, Op *op, Node *parent, uint32_t mode, Node **out,
                        Stat *st) noexcept nogil:
    """A file without a name in the upper (O_TMPFILE), which a link may name later."""
    cdef Make make
    cdef Born born
    cdef Ref ref
    cdef Node *n
    cdef int r = open_parent(t, op, parent, &ref)
    if r != 0:
        return r
    make.mode = S_IFREG | mode
    make.source = NULL
    make.uid = op.uid
    make.gid = op.gid
    owner_of_new(t, &make.uid, &make.gid)
    r = make_unnamed(t, op, &make, parent, ref.fd, &born)
    ref_drop(t, &ref)
    if r < 0:
        return r
    mutex_lock(&t.lock)
    n = node_new_locked(t)
    if n != NULL:
        n.type = S_IFREG
        n.ino = show_ino(t, 0, born.st.stx_ino)
        n.state = UPPER
        n.orphan_fd = born.fd
        n.removed = True
        t.orphans += 1
    mutex_unlock(&t.lock)
    if n == NULL:
        sys_close(born.fd)
        return -ENOMEM
    out[0] = n
    st[0] = born.st
    node_show(t, n, st)
    return 0
