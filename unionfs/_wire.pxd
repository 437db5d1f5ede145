# cython: language_level=3
"""The FUSE protocol up to 7.45 (Linux 6.18), as the kernel's include/uapi/linux/fuse.h defines it.

Declared here and not taken from <linux/fuse.h>, because a distribution's header is often older
than the kernel that runs.  Every structure is padded to 64 bits by its own fields, so natural
alignment gives the kernel's layout.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    PROTOCOL_MAJOR = 7
    PROTOCOL_MINOR = 45
    # Linux 5.4. Older kernels lay out some of the structures below differently.
    PROTOCOL_MINOR_LEAST = 31
    ROOT_NODE = 1
    # The kernel refuses to read into less than this, whatever is negotiated.
    LEAST_READ_BUFFER = 8192

cdef enum:
    OP_LOOKUP = 1
    OP_FORGET = 2
    OP_GETATTR = 3
    OP_SETATTR = 4
    OP_READLINK = 5
    OP_SYMLINK = 6
    OP_MKNOD = 8
    OP_MKDIR = 9
    OP_UNLINK = 10
    OP_RMDIR = 11
    OP_RENAME = 12
    OP_LINK = 13
    OP_OPEN = 14
    OP_READ = 15
    OP_WRITE = 16
    OP_STATFS = 17
    OP_RELEASE = 18
    OP_FSYNC = 20
    OP_SETXATTR = 21
    OP_GETXATTR = 22
    OP_LISTXATTR = 23
    OP_REMOVEXATTR = 24
    OP_FLUSH = 25
    OP_INIT = 26
    OP_OPENDIR = 27
    OP_READDIR = 28
    OP_RELEASEDIR = 29
    OP_FSYNCDIR = 30
    OP_GETLK = 31
    OP_SETLK = 32
    OP_SETLKW = 33
    OP_ACCESS = 34
    OP_CREATE = 35
    OP_INTERRUPT = 36
    OP_BMAP = 37
    OP_DESTROY = 38
    OP_IOCTL = 39
    OP_POLL = 40
    OP_NOTIFY_REPLY = 41
    OP_BATCH_FORGET = 42
    OP_FALLOCATE = 43
    OP_READDIRPLUS = 44
    OP_RENAME2 = 45
    OP_LSEEK = 46
    OP_COPY_FILE_RANGE = 47
    OP_SETUPMAPPING = 48
    OP_REMOVEMAPPING = 49
    OP_SYNCFS = 50
    OP_TMPFILE = 51
    OP_STATX = 52
    OP_COPY_FILE_RANGE_64 = 53
    OPCODES_END = 54

cdef enum InitFlag:
    INIT_ASYNC_READ = 1 << 0
    INIT_ATOMIC_O_TRUNC = 1 << 3
    INIT_BIG_WRITES = 1 << 5
    INIT_DONT_MASK = 1 << 6
    INIT_DO_READDIRPLUS = 1 << 13
    INIT_READDIRPLUS_AUTO = 1 << 14
    INIT_ASYNC_DIO = 1 << 15
    INIT_WRITEBACK_CACHE = 1 << 16
    INIT_NO_OPEN_SUPPORT = 1 << 17
    INIT_PARALLEL_DIROPS = 1 << 18
    INIT_POSIX_ACL = 1 << 20
    INIT_MAX_PAGES = 1 << 22
    INIT_CACHE_SYMLINKS = 1 << 23
    INIT_NO_OPENDIR_SUPPORT = 1 << 24
    INIT_HANDLE_KILLPRIV_V2 = 1 << 28
    INIT_SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30

# Bits 32 to 63 of the flags, which travel in flags2.
cdef enum InitFlag2:
    INIT2_NO_EXPORT_SUPPORT = 1 << (38 - 32)
    INIT2_PASSTHROUGH = 1 << (37 - 32)
    INIT2_OVER_IO_URING = 1 << (41 - 32)

cdef enum:
    ATTR_FH = 1 << 6                    # SetattrIn.valid: fh is valid
    WRITE_CACHE = 1 << 0                # WriteIn.write_flags: from the page cache
    READ_LOCKOWNER = 1 << 1             # ReadIn.read_flags

    OPEN_DIRECT_IO = 1 << 0             # OpenOut.open_flags
    OPEN_KEEP_CACHE = 1 << 1
    OPEN_PASSTHROUGH = 1 << 7
    FSYNC_DATA_ONLY = 1 << 0            # FsyncIn.fsync_flags
    SETXATTR_ACL_KILL_SGID = 1 << 0     # SetxattrIn.setxattr_flags
    SETXATTR_IN_SHORT = 8               # bytes of SetxattrIn without SETXATTR_EXT
    STATX_BASIC_AND_BTIME = 0xfff

cdef struct InHeader:
    uint32_t len
    uint32_t opcode
    uint64_t unique
    uint64_t nodeid
    uint32_t uid
    uint32_t gid
    uint32_t pid
    uint16_t total_extlen
    uint16_t padding

cdef struct OutHeader:
    uint32_t len
    int32_t error
    uint64_t unique

cdef struct Attr:
    uint64_t ino
    uint64_t size
    uint64_t blocks
    uint64_t atime
    uint64_t mtime
    uint64_t ctime
    uint32_t atimensec
    uint32_t mtimensec
    uint32_t ctimensec
    uint32_t mode
    uint32_t nlink
    uint32_t uid
    uint32_t gid
    uint32_t rdev
    uint32_t blksize
    uint32_t flags

cdef struct EntryOut:
    uint64_t nodeid
    uint64_t generation
    uint64_t entry_valid
    uint64_t attr_valid
    uint32_t entry_valid_nsec
    uint32_t attr_valid_nsec
    Attr attr

cdef struct AttrOut:
    uint64_t attr_valid
    uint32_t attr_valid_nsec
    uint32_t dummy
    Attr attr

cdef struct OpenOut:
    uint64_t fh
    uint32_t open_flags
    int32_t backing_id

cdef struct CreateOut:
    EntryOut entry
    OpenOut open

cdef struct InitIn:
    uint32_t major
    uint32_t minor
    uint32_t max_readahead
    uint32_t flags
    uint32_t flags2
    uint32_t unused[11]

cdef struct InitOut:
    uint32_t major
    uint32_t minor
    uint32_t max_readahead
    uint32_t flags
    uint16_t max_background
    uint16_t congestion_threshold
    uint32_t max_write
    uint32_t time_gran
    uint16_t max_pages
    uint16_t map_alignment
    uint32_t flags2
    uint32_t max_stack_depth
    uint32_t unused[6]

cdef struct ForgetIn:
    uint64_t nlookup

cdef struct ForgetOne:
    uint64_t nodeid
    uint64_t nlookup

cdef struct BatchForgetIn:
    uint32_t count
    uint32_t dummy

cdef struct SetattrIn:
    uint32_t valid
    uint32_t padding
    uint64_t fh
    uint64_t size
    uint64_t lock_owner
    uint64_t atime
    uint64_t mtime
    uint64_t ctime
    uint32_t atimensec
    uint32_t mtimensec
    uint32_t ctimensec
    uint32_t mode
    uint32_t unused4
    uint32_t uid
    uint32_t gid
    uint32_t unused5

cdef struct MknodIn:
    uint32_t mode
    uint32_t rdev
    uint32_t umask
    uint32_t padding

cdef struct MkdirIn:
    uint32_t mode
    uint32_t umask

cdef struct RenameIn:
    uint64_t newdir

cdef struct Rename2In:
    uint64_t newdir
    uint32_t flags
    uint32_t padding

cdef struct LinkIn:
    uint64_t oldnodeid

cdef struct OpenIn:
    uint32_t flags
    uint32_t open_flags

cdef struct CreateIn:
    uint32_t flags
    uint32_t mode
    uint32_t umask
    uint32_t open_flags

cdef struct ReleaseIn:
    uint64_t fh
    uint32_t flags
    uint32_t release_flags
    uint64_t lock_owner

cdef struct ReadIn:
    uint64_t fh
    uint64_t offset
    uint32_t size
    uint32_t read_flags
    uint64_t lock_owner
    uint32_t flags
    uint32_t padding

cdef struct WriteIn:
    uint64_t fh
    uint64_t offset
    uint32_t size
    uint32_t write_flags
    uint64_t lock_owner
    uint32_t flags
    uint32_t padding

cdef struct WriteOut:
    uint32_t size
    uint32_t padding

cdef struct FsyncIn:
    uint64_t fh
    uint32_t fsync_flags
    uint32_t padding

cdef struct SetxattrIn:
    uint32_t size
    uint32_t flags
    uint32_t setxattr_flags
    uint32_t padding

cdef struct GetxattrIn:
    uint32_t size
    uint32_t padding

cdef struct GetxattrOut:
    uint32_t size
    uint32_t padding

cdef struct StatfsOut:
    uint64_t blocks
    uint64_t bfree
    uint64_t bavail
    uint64_t files
    uint64_t ffree
    uint32_t bsize
    uint32_t namelen
    uint32_t frsize
    uint32_t padding
    uint32_t spare[6]

cdef struct InterruptIn:
    uint64_t unique

cdef struct FallocateIn:
    uint64_t fh
    uint64_t offset
    uint64_t length
    uint32_t mode
    uint32_t padding

cdef struct LseekIn:
    uint64_t fh
    uint64_t offset
    uint32_t whence
    uint32_t padding

cdef enum:
    NOTIFY_INVAL_INODE = 2      # in OutHeader.error, with unique 0

cdef struct NotifyInvalInode:
    uint64_t ino
    int64_t off
    int64_t len

cdef struct LseekOut:
    uint64_t offset

cdef struct CopyFileRangeIn:
    uint64_t fh_in
    uint64_t off_in
    uint64_t nodeid_out
    uint64_t fh_out
    uint64_t off_out
    uint64_t len
    uint64_t flags

cdef struct CopyFileRangeOut:
    uint64_t bytes_copied

cdef struct StatxIn:
    uint32_t getattr_flags
    uint32_t reserved
    uint64_t fh
    uint32_t sx_flags
    uint32_t sx_mask

# Followed by 256 bytes laid out as statx(2)'s structure.
cdef struct StatxOut:
    uint64_t attr_valid
    uint32_t attr_valid_nsec
    uint32_t flags
    uint64_t spare[2]

cdef struct Dirent:
    uint64_t ino
    uint64_t off
    uint32_t namelen
    uint32_t type
    # followed by the name, padded to 8 bytes

cdef struct DirentPlus:
    EntryOut entry
    Dirent dirent
