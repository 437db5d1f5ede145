# cython: language_level=3
"""Directories whose lower content lies under another name.

A directory that was renamed in one step says in the xattr ``overlay.redirect`` where in the
branches below its content is: ``/a/b`` from the root of the union of those branches, or ``b``
beside where it would have been (overlayfs.rst, "redirect_dir"). A redirect outranks whiteouts, an
opaque mark outranks a redirect. The way is walked component by component as a look-up goes, and
never leaves a branch.
"""
from libc.errno cimport (
    EACCES, EBADMSG, EIO, ENAMETOOLONG, ENODATA, ENOENT, ENOMEM, EOPNOTSUPP, ESTALE,
)
from libc.stdint cimport int64_t, uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, strchr, strdup, strlen, strrchr

import os

from unionfs import log

from unionfs._descriptors cimport ref_drop
from unionfs._directories cimport dir_index, dir_ref
from unionfs._marks cimport mark_beside, mark_find, mark_is_opaque
from unionfs._nodes cimport NAME_LIMIT, ROOT_ID, Name, Node, Ref, Table, node_unpin
from unionfs._reach cimport fd_metacopy
from unionfs._sys cimport (
    O_DIRECTORY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_PATH,
    O_RDONLY,
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    Stat,
    mutex_lock,
    mutex_unlock,
    sys_close,
    sys_getxattr,
    sys_open_beneath,
    sys_setxattr,
)
from unionfs._xattrs cimport xattr_is_listed

cdef enum:
    # The kernel's struct ovl_metacopy without a digest (fs/overlayfs/overlayfs.h).
    METACOPY_HEADER = 4

cdef struct Way:
    # A directory in some of the branches, while a path is walked.
    uint16_t count
    uint16_t *branch
    char **path             # relative to the branch's root, "" for the root


cdef Node *root_of(Table *t) noexcept nogil:
    cdef Node *root
    mutex_lock(&t.lock)
    root = t.nodes[ROOT_ID]     # it stays as long as the table
    mutex_unlock(&t.lock)
    return root


cdef inline const char *attribute(const Table *t) noexcept nogil:
    # Where trusted attributes cannot be had, user's have to do (the kernel's "userxattr").
    return b"trusted.overlay.redirect" if t.trusted else b"user.overlay.redirect"


cdef int is_metacopy(const Table *t, int fd) noexcept nogil:
    """1 if the file's data is elsewhere; -EBADMSG where it says what digest that must have:
    fs-verity is not asked here, and unchecked data is not what was wanted."""
    cdef int64_t length = fd_metacopy(t, fd)
    if length > METACOPY_HEADER:
        return -EBADMSG
    return length >= 0


cdef int redirect_read(Table *t, int dirfd, char *value) noexcept nogil:
    cdef int64_t length = sys_getxattr(dirfd, attribute(t), value, REDIRECT_SIZE - 1)
    if length == -EACCES and not xattr_is_listed(dirfd, attribute(t)):
        return 0                # so said of a directory that its owner may not read
    if length == -ENODATA or length == -EOPNOTSUPP:
        return 0
    if length > 0:
        value[length] = 0
    return <int>length


cdef int redirect_write(Table *t, int dirfd, const char *value) noexcept nogil:
    return sys_setxattr(dirfd, attribute(t), value, strlen(value), 0)


cdef int redirect_location(Table *t, Node *n, uint16_t branch, char *path) noexcept nogil:
    """Walks up to the root or to a directory that knows its place, writing from the end."""
    cdef size_t at = REDIRECT_SIZE - 2, length      # a caller puts a slash before it
    cdef Name *name
    cdef const char *base = b""
    cdef int i, r = 0
    path[at] = 0
    mutex_lock(&t.lock)
    while n.id != ROOT_ID:
        i = dir_index(n.dir, branch)
        if i >= 0 and n.dir.redirect[i] != NULL:
            base = n.dir.redirect[i]
            break
        name = n.names
        if i < 0 or name == NULL:
            r = -ESTALE
            break
        if at < <size_t>name.length + 1:
            r = -ENAMETOOLONG
            break
        at -= name.length
        memcpy(path + at, name.text, name.length)
        at -= 1
        path[at] = b"/"
        n = name.parent
    length = strlen(base)
    if r == 0 and length > at:
        r = -ENAMETOOLONG
    if r == 0:
        at -= length
        memcpy(path + at, base, length)
        if path[at] == b"/":
            at += 1
        length = REDIRECT_SIZE - 2 - at
        memmove(path, path + at, length + 1)
        r = <int>length
    mutex_unlock(&t.lock)
    return r


cdef int redirect_over(Table *t, int dirfd, char *text) noexcept nogil:
    """Puts a directory's redirect in the place of its name, if it has one."""
    cdef char value[REDIRECT_SIZE]
    cdef int r = redirect_read(t, dirfd, value)
    if r > 0:
        memcpy(text, value, <size_t>r + 1)
    return min(r, 0)


cdef int prepend(char *path, size_t *at, const char *text) noexcept nogil:
    cdef size_t length = strlen(text)
    if at[0] < length:
        return -ENAMETOOLONG
    at[0] -= length
    memcpy(path + at[0], text, length)
    return 0


cdef int redirect_place(Table *t, Node *n, char *path) noexcept nogil:
    """Walks up to the root, or to a directory whose redirect starts there, writing from the end."""
    cdef char text[REDIRECT_SIZE]
    cdef size_t at = REDIRECT_SIZE - 1
    cdef Node *above
    cdef Ref ref
    cdef int r
    path[at] = 0
    text[0] = 0
    mutex_lock(&t.lock)
    n.pins += 1
    while n.id != ROOT_ID and text[0] != b"/":
        if n.names == NULL:
            r = -ESTALE
            break
        above = n.names.parent
        above.pins += 1
        # The name before the redirect: a rename sets the redirect first, so whoever sees the name
        # after it sees the redirect, too.
        memcpy(text, n.names.text, n.names.length + 1)
        mutex_unlock(&t.lock)
        r = dir_ref(t, n, 0, &ref)
        if r == 0:
            r = redirect_over(t, ref.fd, text)
            ref_drop(t, &ref)
        if r == 0:
            r = prepend(path, &at, text)
        if r == 0 and text[0] != b"/":
            r = prepend(path, &at, b"/")
        node_unpin(t, n)
        n = above
        mutex_lock(&t.lock)
        if r < 0:
            break
    else:
        r = <int>(REDIRECT_SIZE - 1 - at)
    mutex_unlock(&t.lock)
    node_unpin(t, n)
    if r > 0:
        memmove(path, path + at, <size_t>r + 1)
    return r


# --- walking -------------------------------------------------------------------------------

cdef struct Trail:
    # What the branches further down are searched for. A redirect on the way changes it.
    Node *start             # the root, or the directory that a relative redirect stands in
    char path[REDIRECT_SIZE]     # from there


cdef void way_free(Way *w) noexcept nogil:
    cdef uint16_t i
    if w.path != NULL:
        for i in range(w.count):
            free(w.path[i])
    free(w.path)
    free(w.branch)


cdef bint way_new(Table *t, Way *w) noexcept nogil:
    w.count = 0
    w.branch = <uint16_t *>calloc(t.branches + 1, sizeof(uint16_t))
    w.path = <char **>calloc(t.branches + 1, sizeof(char *))
    if w.branch == NULL or w.path == NULL:
        way_free(w)
        return False
    return True


cdef int way_add(Way *w, uint16_t branch, const char *path) noexcept nogil:
    w.path[w.count] = strdup(path)
    if w.path[w.count] == NULL:
        return -ENOMEM
    w.branch[w.count] = branch
    w.count += 1
    return 0


cdef int join(char *out, const char *above, const char *below) noexcept nogil:
    """Two paths, of which the first is "" for a branch's root, as one."""
    cdef size_t n = strlen(above), length = strlen(below)
    if n + length + 2 > REDIRECT_SIZE:
        return -ENAMETOOLONG
    memcpy(out, above, n)
    if n and length:
        out[n] = b"/"
        n += 1
    memcpy(out + n, below, length + 1)
    return 0


cdef int open_place(Table *t, uint16_t branch, const char *path) noexcept nogil:
    """A directory of a branch by its path from the root, which is "" for the root itself."""
    cdef const char *way = b"."
    if path[0]:
        way = path
    return sys_open_beneath(t.branch[branch].fd, way, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)


cdef int redirect_trail(Table *t, Trail *trail, const char *value, size_t before,
                        size_t after) noexcept nogil:
    """A name on the trail has a redirect, which takes its place: `before` bytes of the trail are
    above it, the last `after` bytes are below it."""
    cdef char path[REDIRECT_SIZE]
    cdef const char *below = trail.path + strlen(trail.path) - after
    cdef size_t length
    if value[0] == b"/":
        before = 0
        trail.start = root_of(t)
        while value[0] == b"/":
            value += 1
    length = strlen(value)
    if before + length + after + 1 > REDIRECT_SIZE:
        return -ENAMETOOLONG
    memcpy(path, trail.path, before)
    memcpy(path + before, value, length)
    memcpy(path + before + length, below, after + 1)
    memcpy(trail.path, path, before + length + after + 1)
    return 0


cdef int step(Table *t, int above, const char *name, int *fd, char *value) noexcept nogil:
    """One name in one branch. *fd is its directory, or -1 if there is none, and `value` the
    directory's redirect, or "". 1 if the name hides what the branches below have, 0, -errno."""
    cdef Stat st
    cdef int r = mark_find(t, above, name, strlen(name), &st)
    fd[0] = -1
    value[0] = 0
    if r == 0 and st.stx_mode & S_IFMT != S_IFDIR:
        return 1                # a whiteout, or a file
    if r == 0:
        fd[0] = sys_open_beneath(above, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)
        if fd[0] < 0:
            return fd[0]
        r = mark_is_opaque(t, fd[0], False)
        if r != 0:
            return r
        r = redirect_read(t, fd[0], value)
        if r != 0:
            return min(r, 0)    # it outranks a whiteout beside it
    elif r != -ENOENT:
        return r
    return mark_beside(t, above, name, strlen(name))


cdef int try_branch(Table *t, Trail *trail, uint16_t branch, const char *base,
                    Way *to) noexcept nogil:
    """Follows the trail in one branch from `base` on, and adds the directory where it ends.

    The trail is then what to follow in the branches below: 1 if nothing there counts, 0, -errno.
    """
    cdef char path[REDIRECT_SIZE]
    cdef char place[REDIRECT_SIZE]
    cdef char value[REDIRECT_SIZE]
    cdef char *name = path
    cdef char *end
    cdef size_t left
    cdef int below, r, fd = open_place(t, branch, base)
    cdef bint ends = False
    if fd < 0:
        return fd
    memcpy(path, trail.path, strlen(trail.path) + 1)
    r = join(place, base, path)
    while r == 0 and name[0]:
        if name[0] == b"/":
            name += 1
            continue
        left = strlen(name)     # the end of the trail, too, whatever was above it
        end = strchr(name, b"/")
        if end != NULL:
            end[0] = 0
        r = step(t, fd, name, &below, value)
        if r == 1:
            ends = True
            r = 0
        sys_close(fd)
        fd = below
        if r == 0 and value[0]:
            # From the root it leads out of what is closed off above it (ovl_check_redirect).
            ends = ends and value[0] != b"/"
            r = redirect_trail(t, trail, value, strlen(trail.path) - left, left - strlen(name))
        if fd < 0 or r < 0:
            break
        name += strlen(name)
        if end != NULL:
            name += 1
    if fd >= 0:
        if r == 0:
            r = way_add(to, branch, place)
        sys_close(fd)
    return ends if r == 0 else r


cdef bint holds(Table *t, Node *directory, uint16_t branch) noexcept nogil:
    cdef bint r
    mutex_lock(&t.lock)
    r = dir_index(directory.dir, branch) >= 0
    mutex_unlock(&t.lock)
    return r


cdef int walk(Table *t, Trail *trail, uint16_t first, Way *to) noexcept nogil:
    """Where the trail leads in each of the branches from `first` on.

    Branch by branch, as overlayfs does (ovl_lookup_layer): a redirect in one branch counts from
    the next one on, and many that lead to each other take no more memory than one.
    """
    cdef char base[REDIRECT_SIZE]
    cdef uint16_t branch
    cdef int r
    for branch in range(first, t.branches):
        if not holds(t, trail.start, branch):
            continue            # closed off above, too
        r = redirect_location(t, trail.start, branch, base)
        if r >= 0:
            r = try_branch(t, trail, branch, base, to)
        if r != 0:
            return min(r, 0)
    return 0


cdef int redirect_follow(Table *t, Node *parent, uint16_t first, const char *value,
                         uint16_t *branch, char **path, uint16_t *count) noexcept nogil:
    cdef Trail trail
    cdef Way to
    cdef uint16_t i
    cdef int r
    if not way_new(t, &to):
        return -ENOMEM
    trail.start = parent        # beside where it would have been
    trail.path[0] = 0
    r = redirect_trail(t, &trail, value, 0, 0)
    if r == 0:
        r = walk(t, &trail, first, &to)
    for i in range(to.count):
        if r == 0 and count[0] <= t.branches:
            branch[count[0]] = to.branch[i]
            path[count[0]] = to.path[i]
            to.path[i] = NULL
            count[0] += 1
    way_free(&to)
    return r


# --- data in another layer -----------------------------------------------------------------

cdef int split(Table *t, Way *dirs, uint16_t first, char *value) noexcept nogil:
    """The directories of an absolute path's last name, which is left in `value`."""
    cdef Trail trail
    cdef char *slash = strrchr(value, b"/")
    cdef int r
    slash[0] = 0
    trail.start = root_of(t)
    trail.path[0] = 0
    r = redirect_trail(t, &trail, value, 0, 0)
    memmove(value, slash + 1, strlen(slash + 1) + 1)
    return walk(t, &trail, first, dirs) if r == 0 else r


cdef int data_in(Table *t, uint16_t branch, const char *above, const char *name) noexcept nogil:
    """The regular file of that name in one branch; -ENOENT: perhaps in one below, -errno."""
    cdef Stat st
    cdef int r, parent = open_place(t, branch, above)
    if parent < 0:
        return parent
    r = mark_find(t, parent, name, strlen(name), &st)
    if r == 0:
        # A directory, a link or a whiteout there: the data is gone.
        r = -EIO
        if st.stx_mode & S_IFMT == S_IFREG:
            r = sys_open_beneath(parent, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0)
    elif r == -ENOENT and mark_beside(t, parent, name, strlen(name)) != 0:
        r = -EIO
    sys_close(parent)
    return r


cdef int follow_data(Table *t, Way *dirs, uint16_t first, char *value) noexcept nogil:
    """From metacopy to metacopy, each below the last one, to a file with data. A descriptor."""
    cdef Way other
    cdef char further[REDIRECT_SIZE]
    cdef uint16_t i = 0
    cdef int fd, r
    while i < dirs.count:
        if dirs.branch[i] < first:
            i += 1
            continue
        if value[0] == 0 or strchr(value, b"/") != NULL:
            return -EIO         # nothing that a redirect may say
        fd = data_in(t, dirs.branch[i], dirs.path[i], value)
        first = dirs.branch[i] + 1
        i += 1
        if fd == -ENOENT:
            continue
        r = is_metacopy(t, fd) if fd >= 0 else 0
        if r == 0:
            return fd
        if r > 0:
            r = redirect_read(t, fd, further)
        sys_close(fd)
        if r < 0:
            return r
        if r == 0:
            continue
        if further[0] == b"/":
            if not way_new(t, &other):
                return -ENOMEM
            r = split(t, &other, first, further)
            way_free(dirs)
            dirs[0] = other
            i = 0
            if r < 0:
                return r
        memcpy(value, further, strlen(further) + 1)
    return -EIO


cdef void report(uint16_t branch, const char *directory, const char *name,
                 int error) noexcept with gil:
    path = os.path.join(os.fsdecode(directory), os.fsdecode(name))
    if error == -EBADMSG:
        why = ("names a digest of its data (verity), which is not checked here; read it by kernel "
               "overlayfs, or copy it whole into that layer")
    elif error == -EIO:
        why = "has no data in the branches below; is a layer missing, or in the wrong place?"
    else:
        why = f"has data that cannot be opened: {os.strerror(-error)}"
    log.error(f"{path} of lower {branch} is a metacopy and {why}")


cdef void tell(Table *t, Node *n, int error) noexcept nogil:
    """Once for a node: the application sees an error that says nothing."""
    cdef char text[NAME_LIMIT + 1]
    cdef char above[REDIRECT_SIZE]
    cdef Node *parent = NULL
    mutex_lock(&t.lock)
    if not n.told and n.names != NULL:
        n.told = True
        memcpy(text, n.names.text, n.names.length + 1)
        parent = n.names.parent
        parent.pins += 1
    mutex_unlock(&t.lock)
    if parent == NULL:
        return
    if redirect_location(t, parent, n.branch, above) >= 0:
        report(n.branch, above, text, error)
    node_unpin(t, parent)


cdef int open_data(Table *t, Node *n, int fd) noexcept nogil:
    cdef char value[REDIRECT_SIZE]
    cdef char above[REDIRECT_SIZE]
    cdef Node *parent = NULL
    cdef Name *name
    cdef Way dirs
    cdef uint16_t i
    cdef int r = is_metacopy(t, fd)
    if r > 0:
        r = redirect_read(t, fd, value)
    if r < 0:
        return r
    mutex_lock(&t.lock)
    name = n.names
    if name != NULL:
        parent = name.parent
        parent.pins += 1
        if r == 0:
            memcpy(value, name.text, name.length + 1)
    mutex_unlock(&t.lock)
    if parent == NULL:
        return -EIO
    if not way_new(t, &dirs):
        node_unpin(t, parent)
        return -ENOMEM
    if value[0] == b"/":
        r = split(t, &dirs, n.branch + 1, value)
    else:
        r = 0
        for i in range(parent.dir.count):
            if r >= 0 and parent.dir.branch[i] > n.branch:
                r = redirect_location(t, parent, parent.dir.branch[i], above)
                if r >= 0:
                    r = way_add(&dirs, parent.dir.branch[i], above)
    node_unpin(t, parent)
    if r >= 0:
        r = follow_data(t, &dirs, n.branch + 1, value)
    way_free(&dirs)
    return r


cdef int redirect_data(Table *t, Node *n, int fd) noexcept nogil:
    cdef int r = open_data(t, n, fd)
    if r >= 0 or r == -ENOMEM:
        return r
    tell(t, n, r)
    return -EIO
