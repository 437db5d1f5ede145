# cython: language_level=3
"""The merged index of a directory.

Entries are only ever appended, each with an offset ("cookie") that is never given twice, and a
removed one stays as a tombstone until tombstones outnumber the living. Cookies descend and a
listing is read from its newest entry to its oldest, so a new name stands before every name that
was there: a reader never meets a name that came after it began, and therefore ends, whatever is
created or renamed meanwhile. It finds its place again by searching the cookies.

Branches below the upper do not change while they are mounted and the upper changes through the
union alone, so the index answers look-ups as well: which branch has a name, and that none has.
"""
from libc.errno cimport ENOENT, ENOMEM, EPERM
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strlen

from unionfs._descriptors cimport ref_drop
from unionfs._directories cimport dir_ref
from unionfs._identity cimport is_impure, show_ino
from unionfs._marks cimport MARK_PREFIX, mark_is_plain, mark_is_whiteout, mark_reserved
from unionfs._nodes cimport (
    ENTRY_BELOW,
    ENTRY_CLOSED,
    ENTRY_DEAD,
    ENTRY_ORIGIN,
    ENTRY_WHITEOUT,
    Dir,
    Entry,
    Listing,
    Node,
    Ref,
    Table,
    listing_drop_locked,
    name_hash,
)
from unionfs._override cimport override_show_at
from unionfs._sys cimport (
    DT_CHR,
    DT_REG,
    DT_UNKNOWN,
    O_DIRECTORY,
    O_NOATIME,
    O_RDONLY,
    S_IFMT,
    DirEntry,
    Stat,
    mutex_lock,
    mutex_unlock,
    sys_close,
    sys_getdents,
    sys_monotonic_ns,
    sys_open_beneath,
    sys_statx,
)

cdef enum:
    DENTS_SIZE = 65536
    FIRST_COOKIE = 3        # 1 and 2 continue after "." and ".."
    # Of the oldest entry. 31 bits: readdir(3) of 32-bit programs fails where an offset has more.
    LAST_COOKIE = 0x7fffffff
    FIRST_ENTRIES = 16
    # About 100 MB. Beyond it, and when memory is short, listings that nobody has read for a minute
    # go: without OPENDIR nobody says when he has finished reading, and a listing built anew has
    # other offsets.
    ENTRIES_LIMIT = 2000000
    IDLE_NS = 60000000000
    BREATH = 4096           # nodes that are looked at while others wait for the lock


cdef Listing *listing_new() noexcept nogil:
    cdef Listing *l = <Listing *>calloc(1, sizeof(Listing))
    if l != NULL:
        l.users = 1
        l.next_cookie = LAST_COOKIE
    return l


cdef void listing_free(Listing *l) noexcept nogil:
    free(l.table)
    free(l.entries)
    free(l.arena)
    free(l)


cdef Entry *listing_find_locked(Listing *l, const char *text, size_t length) noexcept nogil:
    """The entry of a name, a whiteout's included; NULL if there is none."""
    cdef uint32_t h = name_hash(text, length)
    cdef uint32_t slot, number
    cdef Entry *e
    cdef const char *name
    if l.slots == 0:
        return NULL
    slot = h & (l.slots - 1)
    while l.table[slot] != 0:
        number = l.table[slot] - 1
        e = &l.entries[number]
        if e.hash == h and not e.flags & ENTRY_DEAD:
            name = l.arena + e.name
            if memcmp(name, text, length) == 0 and name[length] == 0:
                return e
        slot = (slot + 1) & (l.slots - 1)
    return NULL


cdef void rehash(Listing *l) noexcept nogil:
    cdef uint32_t i, slot
    memset(l.table, 0, l.slots * sizeof(uint32_t))
    for i in range(l.count):
        if l.entries[i].flags & ENTRY_DEAD:
            continue
        slot = l.entries[i].hash & (l.slots - 1)
        while l.table[slot] != 0:
            slot = (slot + 1) & (l.slots - 1)
        l.table[slot] = i + 1


cdef bint listing_compact(Listing *l) noexcept nogil:
    """Drops the tombstones; the cookies of the living stay. False without memory."""
    cdef uint32_t i, count = 0, used = 0, length
    cdef char *arena = <char *>malloc(l.arena_size)
    if arena == NULL:
        return False
    for i in range(l.count):
        if l.entries[i].flags & ENTRY_DEAD:
            continue
        length = <uint32_t>strlen(l.arena + l.entries[i].name) + 1
        memcpy(arena + used, l.arena + l.entries[i].name, length)
        l.entries[count] = l.entries[i]
        l.entries[count].name = used
        used += length
        count += 1
    free(l.arena)
    l.arena = arena
    l.arena_used = used
    l.count = count
    l.dead = 0
    rehash(l)
    return True


cdef bint listing_reserve(Listing *l, size_t length) noexcept nogil:
    """Room for one more entry with a name of that length. False without memory or cookies."""
    cdef uint32_t capacity, size, slots
    cdef void *grown
    if l.next_cookie < FIRST_COOKIE:
        return False
    if l.count == l.capacity and l.dead > 64 and l.dead > l.count // 2:
        if not listing_compact(l):
            return False
    if l.count == l.capacity:
        capacity = l.capacity * 2 if l.capacity else FIRST_ENTRIES
        grown = realloc(l.entries, capacity * sizeof(Entry))
        if grown == NULL:
            return False
        l.entries = <Entry *>grown
        l.capacity = capacity
    if l.arena_used + length + 1 > l.arena_size:
        size = l.arena_size * 2 if l.arena_size else 512
        grown = realloc(l.arena, size)
        if grown == NULL:
            return False
        l.arena = <char *>grown
        l.arena_size = size
    if 2 * (l.count + 1) > l.slots:
        slots = 4 * FIRST_ENTRIES
        while slots < 4 * (l.count + 1):
            slots *= 2
        grown = malloc(slots * sizeof(uint32_t))
        if grown == NULL:
            return False
        free(l.table)
        l.table = <uint32_t *>grown
        l.slots = slots
        rehash(l)
    return True


cdef Entry *listing_append(Listing *l, const char *text, size_t length, uint64_t ino,
                           uint32_t dtype, uint16_t branch, uint32_t flags) noexcept nogil:
    cdef Entry *e
    cdef uint32_t slot
    if not listing_reserve(l, length):
        return NULL
    e = &l.entries[l.count]
    memcpy(l.arena + l.arena_used, text, length)
    l.arena[l.arena_used + length] = 0
    e.name = l.arena_used
    l.arena_used += <uint32_t>length + 1
    e.hash = name_hash(text, length)
    e.ino = ino
    e.dtype = <unsigned char>dtype
    e.branch = branch
    e.flags = <unsigned char>flags
    e.closed_by = branch
    e.cookie = l.next_cookie
    l.next_cookie -= 1
    slot = e.hash & (l.slots - 1)
    while l.table[slot] != 0:
        slot = (slot + 1) & (l.slots - 1)
    l.count += 1
    l.table[slot] = l.count
    if not flags & (ENTRY_WHITEOUT | ENTRY_DEAD):
        l.alive += 1
    return e


# --- building ------------------------------------------------------------------------------

cdef inline void close_below(Entry *e, uint16_t branch) noexcept nogil:
    """A whiteout of the name in this branch; the first one met counts."""
    if not e.flags & ENTRY_CLOSED:
        e.flags |= ENTRY_CLOSED
        e.closed_by = branch


cdef int add_found(Table *t, Listing *l, int fd, uint16_t branch, uint32_t flags,
                   DirEntry *found) noexcept nogil:
    """Merges one name of one branch; the branches come topmost first."""
    cdef size_t length = strlen(found.d_name)
    cdef const char *name = found.d_name
    cdef bint whiteout = False
    cdef uint32_t dtype = found.d_type
    cdef Entry *e
    cdef Stat st
    cdef int r
    if mark_reserved(name, length) and not mark_is_plain(t, fd, name):
        if mark_reserved(name + MARK_PREFIX, length - MARK_PREFIX) or length == MARK_PREFIX:
            return 0            # .wh..wh.*: about this directory, not about a name
        name += MARK_PREFIX
        length -= MARK_PREFIX
        e = listing_find_locked(l, name, length)
        if e != NULL:
            close_below(e, branch)
            return 0
        return 0 if listing_append(l, name, length, 0, 0, branch,
                                   ENTRY_WHITEOUT | ENTRY_CLOSED) != NULL else -ENOMEM
    # A regular file may stand for a device or the like.
    if dtype in (DT_CHR, DT_UNKNOWN) or (
            dtype == DT_REG and t.branch[branch].override.name != NULL):
        r = sys_statx(fd, name, 0, &st)
        if r == -ENOENT:
            return 0
        if r < 0:
            return r
        whiteout = mark_is_whiteout(&st)
        if t.branch[branch].override.name != NULL:      # nobody asks who owns it
            override_show_at(&t.branch[branch].override, fd, name, &st)
        dtype = (st.stx_mode & S_IFMT) >> 12
    e = listing_find_locked(l, name, length)
    if e == NULL:
        return 0 if listing_append(
            l, name, length, show_ino(t, branch, found.d_ino), dtype, branch,
            (ENTRY_WHITEOUT | ENTRY_CLOSED) if whiteout else flags) != NULL else -ENOMEM
    if whiteout:
        close_below(e, branch)
    elif e.branch == branch and e.flags & ENTRY_WHITEOUT:
        # Its own whiteout beside it hides only what is below (the OCI rule).
        e.flags = <unsigned char>(ENTRY_CLOSED | flags)
        e.ino = show_ino(t, branch, found.d_ino)
        e.dtype = <unsigned char>dtype
        l.alive += 1
    elif e.branch != branch and (not e.flags & ENTRY_CLOSED or e.closed_by == branch):
        e.flags |= ENTRY_BELOW  # also beside its own whiteout, in whichever order they are read
    return 0


cdef int scan_branch(Table *t, Listing *l, Node *n, int dirfd, uint16_t branch,
                     char *buffer) noexcept nogil:
    cdef uint32_t flags = ENTRY_ORIGIN if branch == 0 and is_impure(t, n, dirfd) else 0
    cdef DirEntry *entry
    cdef int64_t size, at
    cdef int r = 0
    cdef int fd = sys_open_beneath(dirfd, b".", O_RDONLY | O_DIRECTORY | O_NOATIME, 0)
    if fd == -EPERM:
        fd = sys_open_beneath(dirfd, b".", O_RDONLY | O_DIRECTORY, 0)
    if fd < 0:
        return fd
    while r == 0:
        size = sys_getdents(fd, buffer, DENTS_SIZE)
        if size <= 0:
            r = <int>size
            break
        at = 0
        while at < size and r == 0:
            entry = <DirEntry *>(buffer + at)
            at += entry.d_reclen
            if entry.d_name[0] == b"." and (entry.d_name[1] == 0 or (
                    entry.d_name[1] == b"." and entry.d_name[2] == 0)):
                continue
            r = add_found(t, l, fd, branch, flags, entry)
    sys_close(fd)
    return r


cdef void listing_turn(Listing *l) noexcept nogil:
    """Entries have been appended as the branches list them; they are to be read in that order."""
    cdef uint32_t i, other
    cdef Entry entry
    for i in range(l.count // 2):
        other = l.count - 1 - i
        entry = l.entries[i]
        l.entries[i] = l.entries[other]
        l.entries[other] = entry
    for i in range(l.count):
        l.entries[i].cookie = LAST_COOKIE - <uint64_t>i
    if l.count:
        rehash(l)


cdef Listing *listing_build(Table *t, Node *n, int *error) noexcept nogil:
    cdef char *buffer
    cdef Listing *l
    cdef Ref ref
    cdef uint16_t i, branch
    cdef int r = 0
    buffer = <char *>malloc(DENTS_SIZE)
    l = listing_new()
    if buffer == NULL or l == NULL:
        free(buffer)
        if l != NULL:
            listing_free(l)
        error[0] = -ENOMEM
        return NULL
    i = 0
    while r == 0:
        mutex_lock(&t.lock)
        if i >= n.dir.count:
            mutex_unlock(&t.lock)
            break
        branch = n.dir.branch[i]
        mutex_unlock(&t.lock)
        r = dir_ref(t, n, branch, &ref)
        if r == 0:
            r = scan_branch(t, l, n, ref.fd, branch, buffer)
            ref_drop(t, &ref)
        i += 1
    free(buffer)
    if r < 0:
        listing_free(l)
        error[0] = r
        return NULL
    listing_turn(l)
    return l


cdef Listing *listing_get(Table *t, Node *n, int *error) noexcept nogil:
    """The listing of a directory with one user more; see the declaration."""
    cdef Listing *l
    cdef uint32_t changes
    cdef bint crowded
    cdef uint64_t now = sys_monotonic_ns()
    while True:
        mutex_lock(&t.lock)
        l = n.dir.listing
        changes = n.dir.changes
        if l != NULL:
            l.users += 1
            l.last_used = now
        mutex_unlock(&t.lock)
        if l != NULL:
            return l
        if n.removed:
            l = listing_new()       # nothing is in a directory that is gone
            if l == NULL:
                error[0] = -ENOMEM
                return NULL
            mutex_lock(&t.lock)
            t.listings += 1         # until it is released
            mutex_unlock(&t.lock)
            return l
        l = listing_build(t, n, error)
        if l == NULL:
            return NULL
        mutex_lock(&t.lock)
        if n.dir.listing == NULL and n.dir.changes == changes:
            l.last_used = now
            l.users = 2             # the directory, and the caller
            n.dir.listing = l
            t.listings += 1
            t.listing_entries += l.count
            crowded = t.listing_entries > ENTRIES_LIMIT
            mutex_unlock(&t.lock)
            if crowded:
                listing_shrink(t, False)
            return l
        # A name came or went while the branches were read, or somebody was quicker.
        mutex_unlock(&t.lock)
        listing_free(l)


cdef void listing_shrink(Table *t, bint everything) noexcept nogil:
    cdef uint64_t i = 0, now, idle_ns = 0 if everything else IDLE_NS
    cdef Node *n
    mutex_lock(&t.lock)
    now = sys_monotonic_ns()    # under the lock: later than any use
    while t.listings and i < t.nodes_size:
        n = t.nodes[i]
        if n != NULL and n.dir != NULL and n.dir.listing != NULL and (
                n.dir.listing.users == 1 and now - n.dir.listing.last_used >= idle_ns):
            listing_drop_locked(t, n.dir)
            n.dir.lookups = 0
        i += 1
        if i % BREATH == 0:
            mutex_unlock(&t.lock)
            mutex_lock(&t.lock)
            now = sys_monotonic_ns()
    mutex_unlock(&t.lock)


# --- changing ------------------------------------------------------------------------------

cdef void listing_put_locked(Table *t, Node *directory, const char *text, size_t length,
                             uint64_t ino, uint32_t dtype, uint16_t branch,
                             bint below) noexcept nogil:
    cdef Listing *l = directory.dir.listing
    cdef Entry *e
    cdef uint32_t before
    directory.dir.changes += 1
    if l == NULL:
        return
    e = listing_find_locked(l, text, length)
    if e != NULL and not e.flags & ENTRY_WHITEOUT and e.dtype == dtype:
        e.branch = branch       # copied up, or replaced by a rename: its place stays
        e.ino = ino
        e.flags &= ~<unsigned char>ENTRY_ORIGIN
        if below:
            e.flags |= ENTRY_BELOW
        else:
            e.flags &= ~<unsigned char>ENTRY_BELOW
        return
    if e != NULL:
        if not e.flags & ENTRY_WHITEOUT:
            l.alive -= 1
        e.flags = ENTRY_DEAD
        l.dead += 1
    before = l.count
    if listing_append(l, text, length, ino, dtype, branch, ENTRY_BELOW if below else 0) == NULL:
        # Without memory or cookies there is no index; it is built again when it is needed.
        listing_drop_locked(t, directory.dir)
        return
    t.listing_entries += <uint64_t>l.count - before


cdef void listing_remove_locked(Table *t, Node *directory, const char *text, size_t length,
                                bint whiteout) noexcept nogil:
    cdef Listing *l = directory.dir.listing
    cdef Entry *e
    directory.dir.changes += 1
    if l == NULL:
        return
    e = listing_find_locked(l, text, length)
    if e == NULL:
        return
    if not e.flags & ENTRY_WHITEOUT:
        l.alive -= 1
    if whiteout or e.flags & ENTRY_CLOSED:
        e.flags = ENTRY_WHITEOUT | ENTRY_CLOSED
        e.branch = 0
        return
    e.flags = ENTRY_DEAD
    l.dead += 1


cdef void listing_forget_below_locked(Dir *d) noexcept nogil:
    cdef uint32_t i
    if d.listing != NULL:
        for i in range(d.listing.count):
            d.listing.entries[i].flags &= ~<unsigned char>ENTRY_BELOW
