# cython: language_level=3
"""Nodes, names and descriptors: what is known of the union, and how a file is reached.

A file is reached by one name relative to a descriptor of its directory, never by an absolute
path: renames above it, deep trees and links planted in a branch then need no special case.
"""
from libc.errno cimport EACCES, EIO, ENODATA, ENOTDIR, EPERM, EROFS, ESTALE, ETXTBSY
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, strdup, strncmp

from unionfs._idmap cimport id_show_owner
from unionfs._override cimport Override, override_show, override_show_at
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    O_DIRECTORY,
    O_NOATIME,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    S_IFREG,
    Stat,
    cond_broadcast,
    cond_destroy,
    cond_init,
    cond_wait,
    mutex_destroy,
    mutex_init,
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
from unionfs._tree cimport WOULD_WAIT

cdef enum:
    FIRST_NODES = 1024
    FIRST_NAMES = 1024
    FIRST_KEYS = 64
    # A rename can meet every attempt to reach a node by its name; not this often.
    ATTEMPTS = 100
    # A deleted file takes a descriptor until it is forgotten. With more of them who removes files
    # waits for the filesystem, lest descriptors run out.
    MANY_ORPHANS = 256


# --- the table -----------------------------------------------------------------------------

cdef Table *table_new(uint16_t branches) noexcept nogil:
    """A table for that many branches (the upper's place included); NULL without memory."""
    cdef Table *t = <Table *>calloc(1, sizeof(Table))
    cdef uint16_t i
    if t == NULL:
        return NULL
    mutex_init(&t.lock, NULL)
    cond_init(&t.settled, NULL)
    t.branches = branches
    t.work_fd = t.state_fd = t.links_fd = t.origins_fd = -1
    t.fd_limit = 256
    t.handle_free = 0
    t.newest.newer = t.newest.older = &t.newest
    t.branch = <Branch *>calloc(branches, sizeof(Branch))
    t.nodes = <Node **>calloc(FIRST_NODES, sizeof(Node *))
    t.free_ids = <uint64_t *>calloc(FIRST_NODES, sizeof(uint64_t))
    t.names = <Name **>calloc(FIRST_NAMES, sizeof(Name *))
    t.keys = <Node **>calloc(FIRST_KEYS, sizeof(Node *))
    if (t.branch == NULL or t.nodes == NULL or t.free_ids == NULL or t.names == NULL
            or t.keys == NULL):
        table_free(t)
        return NULL
    for i in range(branches):
        t.branch[i].fd = -1
    t.nodes_size = 1            # id 0 is nobody's
    t.name_slots = FIRST_NAMES
    t.key_slots = FIRST_KEYS
    return t


cdef void table_free(Table *t) noexcept nogil:
    """Everything back to the system. Nobody may use the table any more."""
    cdef uint64_t i
    cdef Node *n
    cdef Name *name
    cdef Fd *doomed = NULL
    if t.nodes != NULL:
        for i in range(t.nodes_size):
            n = t.nodes[i]
            if n == NULL:
                continue
            while n.names != NULL:
                name = n.names
                n.names = name.alias
                free(name)
            node_release_parts(t, n, &doomed)
            free(n)
    fd_close_doomed(t, doomed)
    for i in range(t.handle_count):
        if t.handles[i].node != 0:
            sys_close(t.handles[i].fd)
    if t.branch != NULL:
        for i in range(t.branches):
            if t.branch[i].fd >= 0:
                sys_close(t.branch[i].fd)
    if t.work_fd >= 0:
        sys_close(t.work_fd)
    if t.state_fd >= 0:
        sys_close(t.state_fd)
    if t.links_fd >= 0:
        sys_close(t.links_fd)
    free(t.uids.ranges)
    free(t.gids.ranges)
    if t.origins_fd >= 0:
        sys_close(t.origins_fd)
    free(t.handles)
    free(t.branch)
    free(t.nodes)
    free(t.free_ids)
    free(t.names)
    free(t.keys)
    mutex_destroy(&t.lock)
    cond_destroy(&t.settled)
    free(t)


# --- nodes ---------------------------------------------------------------------------------

cdef Node *node_new_locked(Table *t) noexcept nogil:
    """A node with one pin; NULL without memory."""
    cdef uint64_t capacity
    cdef Node **nodes
    cdef uint64_t *ids
    cdef Node *n = <Node *>calloc(1, sizeof(Node))
    if n == NULL:
        return NULL
    if t.free_count:
        t.free_count -= 1
        n.id = t.free_ids[t.free_count]
    else:
        capacity = FIRST_NODES
        while capacity < t.nodes_size:
            capacity *= 2
        if t.nodes_size == capacity:
            nodes = <Node **>realloc(t.nodes, 2 * capacity * sizeof(Node *))
            if nodes == NULL:
                free(n)
                return NULL
            t.nodes = nodes
            ids = <uint64_t *>realloc(t.free_ids, 2 * capacity * sizeof(uint64_t))
            if ids == NULL:
                free(n)
                return NULL
            t.free_ids = ids
        n.id = t.nodes_size
        t.nodes_size += 1
    t.nodes[n.id] = n
    t.node_count += 1
    n.pins = 1
    n.orphan_fd = -1
    return n


cdef Node *node_pin(Table *t, uint64_t id) noexcept nogil:
    """The node of that id, pinned; NULL if there is none."""
    cdef Node *n = NULL
    mutex_lock(&t.lock)
    if 0 < id < t.nodes_size:
        n = t.nodes[id]
        if n != NULL:
            n.pins += 1
    mutex_unlock(&t.lock)
    return n


cdef void node_unpin(Table *t, Node *n) noexcept nogil:
    cdef Fd *doomed = NULL
    if n == NULL:
        return
    mutex_lock(&t.lock)
    node_unpin_locked(t, n, &doomed)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)


cdef void node_unpin_locked(Table *t, Node *n, Fd **doomed) noexcept nogil:
    n.pins -= 1
    if n.pins == 0 and n.references == 0 and n.id != ROOT_ID:
        node_free_locked(t, n, doomed)


cdef int node_forget(Table *t, uint64_t id, uint64_t references, bint may_wait) noexcept nogil:
    cdef Node *n
    cdef Fd *doomed = NULL
    mutex_lock(&t.lock)
    n = t.nodes[id] if 0 < id < t.nodes_size else NULL
    if (n != NULL and not may_wait and n.orphan_fd >= 0 and n.type == S_IFREG and n.branch == 0
            and references >= n.references and t.orphans <= MANY_ORPHANS):
        mutex_unlock(&t.lock)
        return WOULD_WAIT       # for the filesystem, which frees the blocks of a deleted file
    if n != NULL:
        n.references -= min(references, n.references)
        n.pins += 1
        node_unpin_locked(t, n, &doomed)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)
    return 0


cdef void node_free_locked(Table *t, Node *n, Fd **doomed) noexcept nogil:
    """Forgets a node and, upwards, the parents that only its names kept."""
    cdef Name *name
    cdef Node *parent
    while n != NULL:
        parent = NULL
        while n.names != NULL:
            name = n.names
            # Several names: all parents but the last are let go by recursion, which ends
            # at once, because only a directory has children and it has one name.
            if parent != NULL:
                node_unpin_locked(t, parent, doomed)
            parent = name.parent
            name_unhash_locked(t, name)
            n.names = name.alias
            free(name)
        node_set_key_locked(t, n, 0)
        node_release_parts(t, n, doomed)
        t.nodes[n.id] = NULL
        t.free_ids[t.free_count] = n.id
        t.free_count += 1
        t.node_count -= 1
        free(n)
        n = NULL
        if parent != NULL:
            parent.pins -= 1
            if parent.pins == 0 and parent.references == 0 and parent.id != ROOT_ID:
                n = parent


cdef void node_release_parts(Table *t, Node *n, Fd **doomed) noexcept nogil:
    """Descriptors, listing and directory record of a node that goes away."""
    cdef uint16_t i
    cdef Fd *orphan
    if n.data != NULL:
        fd_retire_locked(t, n.data, doomed)
    if n.orphan_fd >= 0:
        # Among the doomed: the blocks of a deleted file are freed without the lock.
        orphan = <Fd *>calloc(1, sizeof(Fd))
        if orphan == NULL:
            sys_close(n.orphan_fd)
        else:
            orphan.fd = n.orphan_fd
            orphan.older = doomed[0]
            doomed[0] = orphan
        n.orphan_fd = -1
        t.orphans -= 1
    if n.dir != NULL:
        for i in range(n.dir.count):
            if n.dir.fds[i] != NULL:
                fd_retire_locked(t, n.dir.fds[i], doomed)
            free(n.dir.redirect[i])
        listing_drop_locked(t, n.dir)
        free(n.dir.redirect)
        free(n.dir.branch)
        free(n.dir.fds)
        free(n.dir)
        n.dir = NULL


# --- nodes by identity ---------------------------------------------------------------------

cdef inline uint64_t key_slot(const Table *t, uint64_t key) noexcept nogil:
    return (key * <uint64_t>0x9E3779B97F4A7C15 >> 20) & (t.key_slots - 1)


cdef Node *node_by_key_locked(Table *t, uint64_t key) noexcept nogil:
    """The node of that inode, if it was given the key."""
    cdef Node *n = t.keys[key_slot(t, key)]
    while n != NULL and n.key != key:
        n = n.key_next
    return n


cdef void node_set_key_locked(Table *t, Node *n, uint64_t key) noexcept nogil:
    """Makes a node findable by its inode (0: no longer). The number is of the inode that holds the
    data now, as `show_ino` shows it: unlike st_ino it changes at copy-up."""
    cdef Node **at
    cdef uint64_t slot
    if n.key != 0:
        at = &t.keys[key_slot(t, n.key)]
        while at[0] != n:
            at = &at[0].key_next
        at[0] = n.key_next
        n.key = 0
        t.key_count -= 1
    if key == 0:
        return
    if t.key_count >= t.key_slots:
        keys_grow_locked(t)
    slot = key_slot(t, key)
    n.key = key
    n.key_next = t.keys[slot]
    t.keys[slot] = n
    t.key_count += 1


cdef void keys_grow_locked(Table *t) noexcept nogil:
    cdef Node **old = t.keys
    cdef Node *n
    cdef Node *following
    cdef uint64_t i, slot, slots = t.key_slots
    cdef Node **grown = <Node **>calloc(2 * slots, sizeof(Node *))
    if grown == NULL:
        return                  # longer chains, nothing worse
    t.keys = grown
    t.key_slots = 2 * slots
    for i in range(slots):
        n = old[i]
        while n != NULL:
            following = n.key_next
            slot = key_slot(t, n.key)
            n.key_next = grown[slot]
            grown[slot] = n
            n = following
    free(old)


# --- names ---------------------------------------------------------------------------------

cdef void link_name(uint64_t ino, char *name) noexcept nogil:
    """The name of what is kept about an inode (LINK_NAME bytes)."""
    snprintf(name, LINK_NAME, "%016llx", <unsigned long long>ino)


cdef uint32_t name_hash(const char *text, size_t length) noexcept nogil:
    """FNV-1a: short names, no adversary (a directory's owner slows down only himself)."""
    cdef uint32_t h = 2166136261u
    cdef size_t i
    for i in range(length):
        h = (h ^ <unsigned char>text[i]) * 16777619u
    return h


cdef inline uint64_t name_slot(const Table *t, const Node *parent, uint32_t h) noexcept nogil:
    return (h ^ (parent.id * <uint64_t>0x9E3779B97F4A7C15 >> 24)) & (t.name_slots - 1)


cdef Name *name_find_locked(Table *t, Node *parent, const char *text, size_t length) noexcept nogil:
    cdef uint32_t h = name_hash(text, length)
    cdef Name *name = t.names[name_slot(t, parent, h)]
    while name != NULL:
        if (name.hash == h and name.parent == parent and name.length == length
                and memcmp(name.text, text, length) == 0):
            return name
        name = name.hash_next
    return NULL


cdef Name *name_add_locked(Table *t, Node *parent, const char *text, size_t length, Node *n,
                           uint16_t branch) noexcept nogil:
    """Gives a node a name; the name pins the parent. NULL without memory."""
    cdef Name *name = <Name *>malloc(sizeof(Name) + length)
    cdef uint64_t slot
    if name == NULL:
        return NULL
    if t.name_count >= t.name_slots:
        names_grow_locked(t)
    memcpy(name.text, text, length)
    name.text[length] = 0
    name.length = <uint16_t>length
    name.hash = name_hash(text, length)
    name.branch = branch
    name.node = n
    name.parent = parent
    parent.pins += 1
    name.alias = n.names
    n.names = name
    n.seq += 1
    slot = name_slot(t, parent, name.hash)
    name.hash_next = t.names[slot]
    t.names[slot] = name
    t.name_count += 1
    return name


cdef void name_unhash_locked(Table *t, Name *name) noexcept nogil:
    cdef Name **at = &t.names[name_slot(t, name.parent, name.hash)]
    while at[0] != name:
        at = &at[0].hash_next
    at[0] = name.hash_next
    t.name_count -= 1


cdef void name_remove_locked(Table *t, Name *name, Fd **doomed) noexcept nogil:
    """Takes a name from its node. The node must be pinned by the caller."""
    cdef Name **at = &name.node.names
    name_unhash_locked(t, name)
    while at[0] != name:
        at = &at[0].alias
    at[0] = name.alias
    name.node.seq += 1
    node_unpin_locked(t, name.parent, doomed)
    free(name)


cdef inline bint is_busy(const Node *n) noexcept nogil:
    return n.changing or n.state == COPYING


cdef void change_begin(Table *t, Node *n, Node *other) noexcept nogil:
    """From here to `change_end_locked` whoever reaches for the nodes by name waits."""
    mutex_lock(&t.lock)
    while is_busy(n) or (other != NULL and is_busy(other)):
        cond_wait(&t.settled, &t.lock)
    n.changing = True
    if other != NULL:
        other.changing = True
    mutex_unlock(&t.lock)


cdef void change_end_locked(Table *t, Node *n) noexcept nogil:
    n.changing = False
    n.seq += 1
    cond_broadcast(&t.settled)


cdef void names_grow_locked(Table *t) noexcept nogil:
    cdef Name **old = t.names
    cdef Name *name
    cdef Name *following
    cdef uint64_t i, slot, slots = t.name_slots
    cdef Name **grown = <Name **>calloc(2 * slots, sizeof(Name *))
    if grown == NULL:
        return                  # longer chains, nothing worse
    t.names = grown
    t.name_slots = 2 * slots
    for i in range(slots):
        name = old[i]
        while name != NULL:
            following = name.hash_next
            slot = name_slot(t, name.parent, name.hash)
            name.hash_next = grown[slot]
            grown[slot] = name
            name = following
    free(old)


# --- descriptors ---------------------------------------------------------------------------

cdef inline void lru_insert(Table *t, Fd *fd) noexcept nogil:
    fd.newer = &t.newest
    fd.older = t.newest.older
    fd.older.newer = fd
    t.newest.older = fd


cdef inline void lru_remove(Fd *fd) noexcept nogil:
    fd.newer.older = fd.older
    fd.older.newer = fd.newer


cdef inline void fd_use_locked(Table *t, Fd *fd, Ref *ref) noexcept nogil:
    fd.users += 1
    lru_remove(fd)
    lru_insert(t, fd)
    ref.fd = fd.fd
    ref.cached = fd
    ref.own = False


cdef void fd_retire_locked(Table *t, Fd *fd, Fd **doomed) noexcept nogil:
    """Takes a descriptor out of the cache; it is closed now or by its last user."""
    fd.slot[0] = NULL
    fd.slot = NULL
    lru_remove(fd)
    t.fd_count -= 1
    if fd.users == 0:
        fd.older = doomed[0]
        doomed[0] = fd


cdef void fd_close_doomed(Table *t, Fd *doomed) noexcept nogil:
    cdef Fd *following
    while doomed != NULL:
        following = doomed.older
        sys_close(doomed.fd)
        free(doomed)
        doomed = following


cdef void fd_evict_locked(Table *t, uint32_t keep, Fd **doomed) noexcept nogil:
    cdef Fd *fd = t.newest.newer
    cdef Fd *newer
    while t.fd_count > keep and fd != &t.newest:
        newer = fd.newer
        if fd.users == 0:
            fd_retire_locked(t, fd, doomed)
        fd = newer


cdef void fd_shrink(Table *t, uint32_t keep) noexcept nogil:
    """Closes the descriptors that were not used for the longest time."""
    cdef Fd *doomed = NULL
    mutex_lock(&t.lock)
    fd_evict_locked(t, keep, &doomed)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)


cdef void fd_keep_locked(Table *t, Fd **slot, int fd, bint writable, Ref *ref,
                         Fd **doomed) noexcept nogil:
    """Puts a new descriptor into a slot of the cache and lends it out."""
    cdef Fd *kept = <Fd *>calloc(1, sizeof(Fd))
    if kept == NULL:
        ref.fd = fd
        ref.cached = NULL
        ref.own = True
        return
    if slot[0] != NULL:
        fd_retire_locked(t, slot[0], doomed)
    if t.fd_count >= t.fd_limit:
        fd_evict_locked(t, t.fd_limit - 1, doomed)
    kept.fd = fd
    kept.writable = writable
    kept.slot = slot
    slot[0] = kept
    lru_insert(t, kept)
    t.fd_count += 1
    fd_use_locked(t, kept, ref)


cdef void node_adopt_fd_locked(Table *t, Node *n, int fd, Fd **doomed) noexcept nogil:
    cdef Ref ref
    fd_keep_locked(t, &n.data, fd, True, &ref, doomed)
    if ref.cached != NULL:
        ref.cached.users -= 1
    else:
        sys_close(fd)


cdef void ref_drop(Table *t, Ref *ref) noexcept nogil:
    cdef Fd *fd = ref.cached
    cdef bint last = False
    if fd != NULL:
        mutex_lock(&t.lock)
        fd.users -= 1
        last = fd.users == 0 and fd.slot == NULL
        mutex_unlock(&t.lock)
        if last:
            sys_close(fd.fd)
            free(fd)
    elif ref.own:
        sys_close(ref.fd)
    ref.fd = -1
    ref.cached = NULL
    ref.own = False


cdef inline void ref_borrow(Ref *ref, int fd) noexcept nogil:
    """A descriptor that outlives the operation: a branch's, or a pinned node's orphan."""
    ref.fd = fd
    ref.cached = NULL
    ref.own = False


# --- directories ---------------------------------------------------------------------------

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


# --- reaching a node -----------------------------------------------------------------------

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
    cdef uint32_t seq = 0
    cdef int r = -ESTALE, _attempt
    for _attempt in range(ATTEMPTS):
        mutex_lock(&t.lock)
        ref.fd = -1
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
            break
        r = node_place(t, n, &ref, text, &seq)
        if r == 0:
            r = sys_statx(ref.fd, text, 0, st)
            if r == 0:
                override_show_at(override, ref.fd, text, st)
            ref_drop(t, &ref)
        if n.seq == seq and not n.changing and (r != -ESTALE or n.names == NULL):
            break
    if r == 0:
        node_show(t, n, st)
    return r


cdef void node_show(Table *t, const Node *n, Stat *st) noexcept nogil:
    if t.maps_ids:
        st.stx_uid = id_show_owner(&t.uids, st.stx_uid)
        st.stx_gid = id_show_owner(&t.gids, st.stx_gid)
    mutex_lock(&t.lock)
    st.stx_ino = n.ino
    if (n.dir != NULL and st.stx_ctime.tv_nsec == n.dir.made_ctime.tv_nsec
            and st.stx_ctime.tv_sec == n.dir.made_ctime.tv_sec and n.dir.made_ctime.tv_sec):
        st.stx_ctime = n.dir.shown_ctime
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


# --- listings ------------------------------------------------------------------------------

cdef void listing_release_locked(Table *t, Listing *l) noexcept nogil:
    l.users -= 1
    if l.users:
        return
    t.listings -= 1
    t.listing_entries -= l.count
    free(l.table)
    free(l.entries)
    free(l.arena)
    free(l)


cdef void listing_drop_locked(Table *t, Dir *d) noexcept nogil:
    """The directory forgets its listing; who reads it finishes first."""
    if d.listing != NULL:
        listing_release_locked(t, d.listing)
        d.listing = NULL
