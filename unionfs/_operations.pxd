# cython: language_level=3
"""The union as the wire sees it: one C function per operation, none of which knows FUSE.

Every ``tree_*`` function runs without the GIL on any thread and returns

* zero or more on success (a count where the operation has one),
* ``-errno`` on failure, with the tree as it was before, or
* one of the two verdicts below, with nothing done yet.  The caller keeps the
  request and calls again when the condition is met (prepare, then retry). They are
  negative, beyond every errno, because a count can have any value from zero up.

A function that takes an `Op` may read the caller's identity from it and may
write the verdict's details into it.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from unionfs._nodes cimport Table
from unionfs._sys cimport Stat, StatFs, TimeSpec

cdef enum Verdict:
    # The operation would wait (a copy under way, an fsync, large I/O): call it
    # again from a thread that may wait, with Op.may_wait set.
    WOULD_WAIT = -10001
    # The operation needs the slow path to prepare what Op.prepare_* says; call
    # it again afterwards with Op.prepared increased by one.
    NEEDS_PREPARE = -10002

cdef enum:
    WHOLE_SIZE = 0x7FFFFFFFFFFFFFFF     # the largest a file can be: all of it

cdef enum Prepare:
    PREPARE_UPPER = 1       # bring node prepare_node (and its parents) into the upper
    PREPARE_WHOLE = 2       # make directory prepare_node whole in the upper, and opaque

cdef enum:
    # SetAttr.valid
    SET_MODE = 1 << 0
    SET_UID = 1 << 1
    SET_GID = 1 << 2
    SET_SIZE = 1 << 3
    SET_ATIME = 1 << 4
    SET_MTIME = 1 << 5
    SET_BY_FD = 1 << 6      # the size, by ftruncate(2)
    SET_ATIME_NOW = 1 << 7
    SET_MTIME_NOW = 1 << 8
    SET_KILL_SUIDGID = 1 << 11

    # tree_write flags
    WRITE_KILL_SUIDGID = 1 << 2
    WRITE_APPEND = 1 << 16      # at the end, by a descriptor with O_APPEND: write(2), no page
    WRITE_LATE = 1 << 17        # written out by the page cache: data, and nothing else
    WRITE_MAPPABLE = 1 << 18    # by a descriptor that a shared mapping can be made of

cdef struct Op:
    uint32_t uid            # the caller, as the channel's user namespace names it
    uint32_t gid
    uint32_t pid            # 0: not visible in the daemon's pid namespace
    uint32_t umask
    bint may_wait           # this thread may block (a pool thread, a worker, a test)
    int prepared            # how often the slow path has answered for this request
    int prepare_kind        # out, with NEEDS_PREPARE: a Prepare
    uint64_t prepare_node   # out, with NEEDS_PREPARE
    uint64_t prepare_keep   # out, with PREPARE_UPPER: how much of the file's data is wanted

cdef struct SetAttr:
    uint32_t valid
    uint32_t mode
    uint32_t uid
    uint32_t gid
    uint64_t size
    TimeSpec atime
    TimeSpec mtime

cdef struct TreeStats:
    uint64_t nodes          # nodes alive
    uint64_t names          # names (dentries) known
    uint64_t fds            # descriptors held in the caches
    uint64_t pinned_fds     # descriptors of files without a name
    uint64_t listings       # directory listings in memory
    uint64_t listing_entries
    uint64_t copy_ups       # files brought into the upper since the mount
    uint64_t copy_up_bytes
    uint64_t memory         # bytes of the tables above, roughly

# One entry of a listing. `dtype` is DT_*, `cookie` the offset that continues
# after this entry. A result other than 0 stops the listing before this entry.
ctypedef int (*Fill)(void *arg, const char *name, size_t length, uint64_t ino,
                     uint32_t dtype, uint64_t cookie) noexcept nogil

# Nodes are named by ids: the root is 1; an id is valid from the reply that
# hands it out until tree_forget has taken back every reference. An invalid id
# (a malformed request) is ESTALE, never a crash. Functions that return a node
# through `node` take one reference to it for the caller.
cdef int tree_lookup(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                     uint64_t *node, Stat *st) noexcept nogil
cdef int tree_forget(Table *t, Op *op, uint64_t node, uint64_t references) noexcept nogil
# A parked request keeps its nodes: -ESTALE when there is no such node.
cdef int tree_pin(Table *t, uint64_t node) noexcept nogil
cdef void tree_unpin(Table *t, uint64_t node) noexcept nogil
cdef int tree_getattr(Table *t, Op *op, uint64_t node, Stat *st) noexcept nogil
cdef int tree_setattr(Table *t, Op *op, uint64_t node, uint64_t handle, const SetAttr *wanted,
                      Stat *st) noexcept nogil
# Readable through `buffer`; the result is the length (no terminating zero).
cdef int tree_readlink(Table *t, Op *op, uint64_t node, char *buffer, size_t size) noexcept nogil
cdef int tree_statfs(Table *t, Op *op, StatFs *st) noexcept nogil

# `mode` is the mode the application asked for (with its type bits for
# tree_mknod); the umask in Op is applied here, unless a default ACL says otherwise.
cdef int tree_mknod(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                    uint32_t mode, uint64_t rdev, uint64_t *node, Stat *st) noexcept nogil
cdef int tree_mkdir(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                    uint32_t mode, uint64_t *node, Stat *st) noexcept nogil
cdef int tree_symlink(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                      const char *target, uint64_t *node, Stat *st) noexcept nogil
cdef int tree_link(Table *t, Op *op, uint64_t source, uint64_t parent, const char *name,
                   size_t length, uint64_t *node, Stat *st) noexcept nogil
# Creates and opens; `flags` are open(2)'s.
cdef int tree_create(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                     uint32_t flags, uint32_t mode, uint64_t *node, uint64_t *handle,
                     Stat *st) noexcept nogil
cdef int tree_tmpfile(Table *t, Op *op, uint64_t parent, uint32_t flags, uint32_t mode,
                      uint64_t *node, uint64_t *handle, Stat *st) noexcept nogil
cdef int tree_unlink(Table *t, Op *op, uint64_t parent, const char *name,
                     size_t length) noexcept nogil
cdef int tree_rmdir(Table *t, Op *op, uint64_t parent, const char *name,
                    size_t length) noexcept nogil
cdef int tree_rename(Table *t, Op *op, uint64_t parent, const char *name, size_t length,
                     uint64_t new_parent, const char *new_name, size_t new_length,
                     uint32_t flags) noexcept nogil

# Handles exist only where OPEN is kept (copyup=open, an ordinary user's mount)
# and after tree_create and tree_tmpfile; everywhere else pass handle 0: I/O
# goes by node. tree_open with a mode that writes brings the node into the upper
# first. An unknown handle is EBADF.
cdef int tree_open(Table *t, Op *op, uint64_t node, uint32_t flags,
                   uint64_t *handle) noexcept nogil
# `backing` becomes the id of the backing file that nobody needs any more, or 0.
cdef int tree_release(Table *t, uint64_t handle, int32_t *backing) noexcept nogil
# Passthrough. How a handle just opened is to be served: the descriptor of a file that the kernel
# has to be given, and then tree_set_backing() with the number that the kernel gave it (0: it took
# it not); or 0, and `backing` is the number to use, 0 for none: it may not be passed through.
# One at a time, for one node; releasing is not in the way.
cdef int tree_backing(Table *t, uint64_t handle, int32_t *backing) noexcept nogil
cdef void tree_set_backing(Table *t, uint64_t handle, int32_t backing) noexcept nogil
# Whether a node is passed through now.
cdef bint tree_passed(Table *t, uint64_t node) noexcept nogil
# Whether the kernel may change the node's data and times without telling us. So it is as soon as a
# handle that may write is passed through: tree_begin_unseen() says so, and returns True the first
# time. It ends with FORGET, not with RELEASE: a mapping outlives the descriptor that it was made
# of, and is reported by nothing. (It keeps the kernel's inode, and so the node, as long as it is.)
cdef bint tree_begin_unseen(Table *t, uint64_t node) noexcept nogil
cdef bint tree_unseen(Table *t, uint64_t node) noexcept nogil
# Whether the kernel may have pages of the file that a mapping has changed. A page was read, or
# written as a whole, before it is mapped, and the mapping is made of a descriptor for reading and
# writing: who only writes (tar, cp, dpkg) pays nothing. On a thread that may wait the answer is
# given once: it is for the caller to have the pages written out and dropped.
cdef bint tree_take_stores(Table *t, const Op *op, uint64_t node) noexcept nogil
# `flags`: of the reader's open(2); O_NOATIME counts.
cdef int64_t tree_read(Table *t, Op *op, uint64_t node, uint64_t handle, char *buffer,
                       size_t size, uint64_t offset, uint32_t flags) noexcept nogil
# The same into a pipe. After an error, which may come from the pipe, something can be in it.
cdef int64_t tree_splice(Table *t, Op *op, uint64_t node, uint64_t handle, int pipe, size_t size,
                         uint64_t offset, uint32_t flags) noexcept nogil
# `flags`: WRITE_*. Short writes only together with an error later.
cdef int64_t tree_write(Table *t, Op *op, uint64_t node, uint64_t handle, const char *data,
                        size_t size, uint64_t offset, uint32_t flags) noexcept nogil
cdef int tree_fsync(Table *t, Op *op, uint64_t node, uint64_t handle,
                    bint datasync) noexcept nogil
cdef int tree_fsyncdir(Table *t, Op *op, uint64_t node, bint datasync) noexcept nogil
cdef int64_t tree_lseek(Table *t, Op *op, uint64_t node, uint64_t handle, int64_t offset,
                        int whence) noexcept nogil
cdef int tree_fallocate(Table *t, Op *op, uint64_t node, uint64_t handle, int mode,
                        uint64_t offset, uint64_t length) noexcept nogil
cdef int64_t tree_copy_file_range(Table *t, Op *op, uint64_t node_in, uint64_t handle_in,
                                  uint64_t offset_in, uint64_t node_out, uint64_t handle_out,
                                  uint64_t offset_out, uint64_t length,
                                  uint32_t flags) noexcept nogil

# size 0 asks for the length, as getxattr(2) does.
cdef int64_t tree_getxattr(Table *t, Op *op, uint64_t node, const char *name, char *buffer,
                           size_t size) noexcept nogil
cdef int64_t tree_listxattr(Table *t, Op *op, uint64_t node, char *buffer,
                            size_t size) noexcept nogil
cdef int tree_setxattr(Table *t, Op *op, uint64_t node, const char *name, const char *value,
                       size_t size, int flags, bint kill_sgid) noexcept nogil
cdef int tree_removexattr(Table *t, Op *op, uint64_t node, const char *name) noexcept nogil

# Calls `fill` for the entries after cookie `offset` (0: from the start, "." and
# ".." included, with cookies 1 and 2). Offsets stay valid while names come and go.
cdef int tree_readdir(Table *t, Op *op, uint64_t node, uint64_t offset, Fill fill,
                      void *arg) noexcept nogil

# What the slow path calls, with may_wait set: one step of a ladder that Python
# decides. The parent must be in the upper already. `keep`: of a file, how many bytes are wanted.
cdef int tree_copy_up(Table *t, Op *op, uint64_t node, uint64_t keep) noexcept nogil

# "BRANCH\0RELATIVE PATH" of the node as it is now; the result is the length.
cdef int64_t tree_where(Table *t, uint64_t node, int *branch, char *buffer,
                        size_t size) noexcept nogil
cdef void tree_stats(Table *t, TreeStats *out) noexcept nogil
# Gives back what is kept for later; with `everything` also the listings that may be being read.
cdef void tree_shrink(Table *t, bint everything) noexcept nogil
