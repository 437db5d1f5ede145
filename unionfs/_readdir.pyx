# cython: language_level=3
"""Reading a directory: batches are taken from its listing with the lock, handed out without."""
from libc.errno cimport ENOTDIR
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from unionfs._descriptors cimport ref_drop
from unionfs._directories cimport dir_ref
from unionfs._identity cimport find_ino
from unionfs._listing cimport listing_find_locked, listing_get
from unionfs._nodes cimport (
    ENTRY_DEAD,
    ENTRY_ORIGIN,
    ENTRY_WHITEOUT,
    Entry,
    Listing,
    Name,
    Node,
    Ref,
    Table,
    listing_release_locked,
    name_find_locked,
)
from unionfs._operations cimport Fill
from unionfs._sys cimport DT_DIR, mutex_lock, mutex_unlock

cdef enum:
    BATCH_ENTRIES = 64
    BATCH_NAMES = 8192

cdef struct Item:
    uint64_t cookie
    uint64_t ino
    uint32_t name           # where it starts in Batch.names
    uint32_t dtype
    bint origin             # the number is not known yet

cdef struct Batch:
    Item items[64]
    char names[8192]


cdef uint32_t count_after(const Listing *l, uint64_t offset) noexcept nogil:
    """How many entries have a cookie greater than offset: so many are first (cookies descend)."""
    cdef uint32_t low = 0, high = l.count, middle
    while low < high:
        middle = low + (high - low) // 2
        if l.entries[middle].cookie > offset:
            low = middle + 1
        else:
            high = middle
    return low


cdef uint32_t take_batch(Table *t, Node *n, Listing *l, uint64_t offset, Batch *b) noexcept nogil:
    cdef uint32_t count = 0, used = 0, length, i
    cdef const Entry *e
    cdef Name *known
    mutex_lock(&t.lock)
    i = count_after(l, offset)
    while i > 0:
        i -= 1
        e = &l.entries[i]
        if e.flags & (ENTRY_DEAD | ENTRY_WHITEOUT):
            continue
        length = <uint32_t>strlen(l.arena + e.name) + 1
        if count == BATCH_ENTRIES or used + length > BATCH_NAMES:
            break
        memcpy(b.names + used, l.arena + e.name, length)
        b.items[count].name = used
        b.items[count].cookie = e.cookie
        b.items[count].ino = e.ino
        b.items[count].dtype = e.dtype
        b.items[count].origin = (e.flags & ENTRY_ORIGIN) != 0
        if b.items[count].origin:
            known = name_find_locked(t, n, l.arena + e.name, length - 1)
            if known != NULL:
                b.items[count].ino = known.node.ino
                b.items[count].origin = False
        used += length
        count += 1
    mutex_unlock(&t.lock)
    return count


cdef void resolve_origins(Table *t, Node *n, Listing *l, Batch *b, uint32_t count) noexcept nogil:
    """d_ino has to be st_ino: asks the copies in an impure directory for their number."""
    cdef uint32_t i
    cdef Entry *e
    cdef Ref ref
    cdef bint opened = False
    cdef const char *name
    for i in range(count):
        if not b.items[i].origin:
            continue
        if not opened and dir_ref(t, n, 0, &ref) < 0:
            return
        opened = True
        name = b.names + b.items[i].name
        b.items[i].ino = find_ino(t, n, ref.fd, name, 0, b.items[i].ino)
        mutex_lock(&t.lock)
        e = listing_find_locked(l, name, strlen(name))
        if e != NULL and e.flags & ENTRY_ORIGIN and e.cookie == b.items[i].cookie:
            e.ino = b.items[i].ino
            e.flags &= ~<unsigned char>ENTRY_ORIGIN
        mutex_unlock(&t.lock)
    if opened:
        ref_drop(t, &ref)


cdef uint64_t parent_ino(Table *t, Node *n) noexcept nogil:
    cdef uint64_t ino
    mutex_lock(&t.lock)
    ino = n.names.parent.ino if n.names != NULL else n.ino
    mutex_unlock(&t.lock)
    return ino


cdef int read_directory(Table *t, Node *n, uint64_t offset, Fill fill, void *arg) noexcept nogil:
    """Hands the entries after `offset` to `fill` until it has enough; 0 or -errno."""
    cdef Batch batch
    cdef Listing *l
    cdef const char *name
    cdef uint32_t count, i
    cdef int error = 0
    if n.dir == NULL:
        return -ENOTDIR
    if offset < 1 and fill(arg, b".", 1, n.ino, DT_DIR, 1) != 0:
        return 0
    if offset < 2 and fill(arg, b"..", 2, parent_ino(t, n), DT_DIR, 2) != 0:
        return 0
    l = listing_get(t, n, &error)
    if l == NULL:
        return error
    while True:
        count = take_batch(t, n, l, offset, &batch)
        if count == 0:
            break
        resolve_origins(t, n, l, &batch, count)
        for i in range(count):
            name = batch.names + batch.items[i].name
            if fill(arg, name, strlen(name), batch.items[i].ino, batch.items[i].dtype,
                    batch.items[i].cookie) != 0:
                count = 0
                break
            offset = batch.items[i].cookie
        if count == 0:
            break
    mutex_lock(&t.lock)
    listing_release_locked(t, l)
    mutex_unlock(&t.lock)
    return 0
