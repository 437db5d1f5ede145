# cython: language_level=3
"""The layout of a union in memory: branches, nodes, names, descriptors; and its locks.

Locks, in the order in which they may be taken:

1. ``Table.lock`` guards every structure declared here. It is held for look-ups in memory
   only, never across a system call that can block on a branch.
2. ``Table.settled`` (a condition of the same mutex) is signalled whenever a copy-up or a change
   of a node's names ends.

What the kernel serialises (changes within one directory) is not locked again. What it does
not serialise is caught by counters: ``Node.seq`` changes with a node's names, ``Dir.changes``
with the names in a directory; who worked from names without the lock compares and tries again.
A node in state COPYING may be looked up and read; what changes it or its names waits.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from unionfs._idmap cimport IdMap
from unionfs._override cimport Override
from unionfs._sys cimport Cond, Mutex, RwLock, Stat, StatTime
from unionfs._unmapped cimport Unmapped

cdef enum:
    ROOT_ID = 1
    NAME_LIMIT = 255
    LINK_NAME = 24          # bytes for a name made of an inode number
    STREAMS = 16            # so many large files are watched while they are read
    # A rename can meet every attempt to reach a node by its name; not this often.
    ATTEMPTS = 100

cdef enum State:
    LOWER = 0
    COPYING = 1
    UPPER = 2

cdef enum Format:
    FORMAT_AUFS = 0         # .wh.NAME and .wh..wh..opq
    FORMAT_OVERLAY = 1      # 0/0 devices and the overlay.opaque xattr

cdef enum RenameDir:
    RENAME_DIR_COPY = 0
    RENAME_DIR_REDIRECT = 1
    RENAME_DIR_EXDEV = 2

cdef struct Fd:
    # A cached descriptor. It is closed when it has left the cache and nobody uses it.
    int fd
    uint32_t users
    bint writable
    Fd *newer               # the LRU list; a descriptor out of the cache is in none
    Fd *older
    Fd **slot               # where its owner points to it, NULL when out of the cache

cdef struct Ref:
    # A descriptor in use by one operation.
    int fd
    Fd *cached              # borrowed from the cache
    bint own                # private: closed on release

cdef struct Entry:
    # One name in a listing.
    uint64_t cookie         # the offset that continues after it
    uint64_t ino            # st_ino, 0 until it is known
    uint32_t name           # where the name starts in Listing.arena
    uint32_t hash
    uint16_t branch
    uint8_t dtype
    uint8_t flags
    uint16_t closed_by      # with ENTRY_CLOSED: the branch of that whiteout

cdef enum:
    # Entry.flags
    ENTRY_DEAD = 1          # removed: only its cookie is still needed
    ENTRY_WHITEOUT = 2      # no file: a whiteout of this name, in whichever branch
    ENTRY_BELOW = 4         # a lower branch shows this name too
    ENTRY_CLOSED = 8        # a whiteout hides what lies below this name
    ENTRY_ORIGIN = 16       # copied up, perhaps: its st_ino may be an origin's

cdef struct Listing:
    # All names of a directory, the oldest first; their cookies descend: the merged index.
    uint32_t users
    uint32_t count
    uint32_t capacity
    uint32_t alive          # neither DEAD nor WHITEOUT
    uint32_t dead
    uint32_t slots          # a power of two
    uint32_t *table         # hash -> entry number + 1
    Entry *entries
    char *arena             # zero-terminated names
    uint32_t arena_used
    uint32_t arena_size
    uint64_t next_cookie
    uint64_t last_used      # nanoseconds, monotonic

cdef struct Dir:
    uint16_t count          # branches that hold this directory, topmost first
    uint16_t *branch
    Fd **fds                # one slot each
    char **redirect         # where it lies in the branch, NULL: under its own name
    Listing *listing
    uint32_t lookups        # since the mount, without a listing
    uint32_t changes        # counts changes of its names
    # A copy-up into the directory changes its ctime, which cannot be set back: while it is
    # `made_ctime`, `shown_ctime` is shown.
    StatTime made_ctime
    StatTime shown_ctime
    # While the daemon has opened the directory (_closed.pyx) this mode is shown, not its own.
    uint32_t held_mode
    uint32_t openings       # counts when that begins and ends
    bint unread             # the daemon may not look whether more branches hold it
    bint impure_known
    bint impure             # the upper directory may hold files with a recorded origin
    bint inherit_known
    bint has_default_acl

cdef struct Name:
    # A dentry: one name of a node.
    Name *hash_next
    Name *alias             # the node's next name
    Node *node
    Node *parent
    uint32_t hash
    uint16_t branch         # where this name stands
    uint16_t length
    char text[1]

cdef struct Node:
    uint64_t id
    uint64_t references     # the kernel's
    uint32_t pins           # operations under way, names of children, handles
    uint32_t seq            # counts changes of its names, its branch, its xattrs
    uint64_t ino            # st_ino as the union shows it
    uint64_t key            # the number of its inode when it is found by that, else 0
    Node *key_next
    Name *names             # NULL for the root and for a file without a name
    Dir *dir
    Fd *data
    int orphan_fd           # keeps a file whose last name is gone, else -1
    # With passthrough, while a file is open: the id of the file that the kernel reads and
    # writes by itself, or 0: it asks us. Never both for one node.
    int32_t backing
    uint32_t opens          # handles
    uint32_t type           # S_IFMT bits
    uint32_t nlink          # how many names it has in the union
    uint16_t branch         # where its data and attributes are: 0 is the upper
    uint8_t state
    uint8_t removed         # its last name was removed through the mount
    uint8_t linked          # a lower inode of several names, or the copy of one: nlink counts
    uint8_t bare            # it has no xattrs at all
    uint8_t metacopy        # its data is another file's: `data` says nothing about its attributes
    uint8_t told            # that its data cannot be had has been logged
    uint8_t backed_lower    # `backing` is the lower file
    uint8_t parted          # its name has gone to another node: see _backing.pyx
    uint8_t guard           # of a lower's file: see _guard.pyx
    uint8_t unseen          # the kernel may change it without us: see tree_unseen()
    uint8_t synced          # fsync(2) has made it and its name durable
    uint8_t cached          # the kernel may have whole pages of its data: tree_take_stores()
    uint8_t mappable        # and a descriptor for reading and writing was seen, or may have been
    uint8_t changing        # its names are being changed: by-name access waits on Table.settled

cdef struct Branch:
    int fd
    uint64_t dev
    uint32_t fs             # branches on one filesystem share a number; the upper's is 0
    Override override       # whether and how it keeps owners and modes in an attribute

cdef struct Stream:
    # A large file that is being read (_dropbehind.pyx).
    uint64_t node
    uint64_t offset         # of the last request
    uint64_t dropped        # up to here
    bint cold               # the branch did not have the file in memory

cdef struct Handle:
    # An open file where OPEN is kept: the rights of the moment of opening.
    uint64_t node           # 0: free
    int fd
    uint16_t branch         # where the node was then
    bint writable
    bint counted            # in Node.opens
    uint32_t generation     # the upper half of the handle's number
    uint32_t next_free

cdef struct Table:
    Mutex lock
    Mutex opening           # held while a directory is open to its owner (_closed.pyx)
    # Held while a file's capability or set-id bits change; shared by WRITEs that are to leave them
    # alone (late_write() in _content.pyx).
    RwLock privileges
    Cond settled
    # the branches
    uint16_t branches       # how many, the upper's place counted also when there is none
    Branch *branch          # [0] is the upper, fd -1 without one
    int work_fd             # scratch directory, -1 without an upper
    char *work_path         # the same where it is mounted, NULL: unknown
    int state_fd            # where what a later mount needs is kept, -1 without
    int links_fd            # see _links.pyx; -1 as long as there is none
    int origins_fd          # see _identity.pyx; -1 as long as there is none
    bint writable
    bint volatile_
    bint trusted            # trusted.* xattrs may be written
    uint32_t uid            # who owns what the daemon creates
    uint32_t gid
    Unmapped *unmapped      # whom the daemon's user namespace does not know; NULL: it knows all
    IdMap uids              # ids on the branches and on the mount
    IdMap gids
    bint maps_ids           # some of them differ
    bint acls               # POSIX ACLs exist here
    bint static_nlink       # st_nlink of every directory is 1
    bint keep_open
    bint passthrough        # the kernel writes files of the upper without asking
    bint noatime            # reading leaves times of access alone in the upper too
    Format format
    RenameDir rename_dir
    uint64_t inline_limit   # files up to this size are copied up without the slow path
    uint64_t serial         # names in the work directory
    uint32_t copying
    Stream streams[STREAMS]  # by node id; of two with the same place the latter
    # nodes
    Node **nodes            # by id
    uint64_t nodes_size
    uint64_t *free_ids
    uint64_t free_count
    uint64_t node_count
    # names by (parent, name), and nodes by (branch, inode)
    Name **names
    uint64_t name_slots
    uint64_t name_count
    Node **keys
    uint64_t key_slots
    uint64_t key_count
    # descriptors
    Fd newest               # list head: newest.older is the newest, newest.newer the oldest
    uint32_t fd_count
    uint32_t fd_limit
    uint64_t orphans
    # listings
    uint64_t listings
    uint64_t listing_entries
    uint64_t memory
    # handles
    Handle *handles
    uint32_t handle_count
    uint32_t handle_free
    # statistics
    uint64_t copy_ups
    uint64_t copy_up_bytes
    # Where the data of a metacopy is: a descriptor (set by Tree, for it takes look-ups).
    int (*find_data)(Table *t, Node *n, int fd) noexcept nogil

cdef Table *table_new(uint16_t branches) noexcept nogil
cdef void table_free(Table *t) noexcept nogil

# Nodes. A pinned node stays; unpin may free it.
cdef Node *node_pin(Table *t, uint64_t id) noexcept nogil
cdef void node_unpin(Table *t, Node *n) noexcept nogil
# 0 or a Verdict.
cdef int node_forget(Table *t, uint64_t id, uint64_t references, bint may_wait) noexcept nogil
cdef Node *node_new_locked(Table *t) noexcept nogil
cdef void node_unpin_locked(Table *t, Node *n, Fd **doomed) noexcept nogil
cdef Node *node_by_key_locked(Table *t, uint64_t key) noexcept nogil
cdef void node_set_key_locked(Table *t, Node *n, uint64_t key) noexcept nogil

# Names.
cdef void link_name(uint64_t ino, char *name) noexcept nogil
cdef uint32_t name_hash(const char *text, size_t length) noexcept nogil
cdef Name *name_find_locked(Table *t, Node *parent, const char *text, size_t length) noexcept nogil
cdef Name *name_add_locked(Table *t, Node *parent, const char *text, size_t length, Node *n,
                           uint16_t branch) noexcept nogil
# The names of one node, or of two, are about to change on the branch (other may be NULL).
# WOULD_WAIT if one of them is being copied up and the caller may not wait for that.
cdef int change_begin(Table *t, Node *n, Node *other, bint may_wait) noexcept nogil
cdef void change_end_locked(Table *t, Node *n) noexcept nogil
cdef void name_remove_locked(Table *t, Name *name, Fd **doomed) noexcept nogil


# Listings (see _listing.pyx, which owns their content).
cdef void listing_release_locked(Table *t, Listing *l) noexcept nogil
cdef void listing_drop_locked(Table *t, Dir *d) noexcept nogil
