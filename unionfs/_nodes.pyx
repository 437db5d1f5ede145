# cython: language_level=3
"""Nodes and names: what is known of the union, and which node has which name or inode."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from unionfs._descriptors cimport fd_close_doomed, fd_retire_locked
from unionfs._operations cimport WOULD_WAIT
from unionfs._sys cimport (
    S_IFREG,
    cond_broadcast,
    cond_destroy,
    cond_init,
    cond_wait,
    mutex_destroy,
    mutex_init,
    mutex_lock,
    mutex_unlock,
    rwlock_destroy,
    rwlock_init,
    sys_close,
)
from unionfs._unmapped cimport unmapped_free

cdef enum:
    FIRST_NODES = 1024
    FIRST_NAMES = 1024
    FIRST_KEYS = 64
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
    mutex_init(&t.opening, NULL)
    rwlock_init(&t.privileges)
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
    unmapped_free(t.unmapped)
    free(t.work_path)
    if t.origins_fd >= 0:
        sys_close(t.origins_fd)
    free(t.handles)
    free(t.branch)
    free(t.nodes)
    free(t.free_ids)
    free(t.names)
    free(t.keys)
    mutex_destroy(&t.lock)
    mutex_destroy(&t.opening)
    rwlock_destroy(&t.privileges)
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


cdef int change_begin(Table *t, Node *n, Node *other, bint may_wait) noexcept nogil:
    """From here to `change_end_locked` whoever reaches for the nodes by name waits."""
    cdef bint copying
    cdef int r = 0
    mutex_lock(&t.lock)
    while r == 0:
        copying = n.state == COPYING or (other != NULL and other.state == COPYING)
        if copying and not may_wait:
            r = WOULD_WAIT
        elif copying or n.changing or (other != NULL and other.changing):
            cond_wait(&t.settled, &t.lock)
        else:
            break
    if r == 0:
        n.changing = True
        if other != NULL:
            other.changing = True
    mutex_unlock(&t.lock)
    return r


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
