# cython: language_level=3, boundscheck=False, wraparound=False
"""How each request of the protocol is answered: the one table of all opcodes.

A request that is not in the table (a newer kernel's) gets ENOSYS, which is how the protocol grows.
"""
from libc.errno cimport ENOSYS, ENOTTY, EPROTO
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport usleep

from typing import NamedTuple

from unionfs._channel cimport (
    MAX_WRITE,
    NO_NODE,
    NO_OTHER_NODE,
    RESULT_SILENT,
    RESULT_WAIT,
    Call,
    Channel,
    name_opcode,
)
from unionfs._on_dirs cimport on_readdir, on_readdirplus
from unionfs._on_files cimport (
    on_copy_file_range,
    on_copy_file_range_64,
    on_create,
    on_fallocate,
    on_fsync,
    on_fsyncdir,
    on_getxattr,
    on_listxattr,
    on_open,
    on_read,
    on_release,
    on_removexattr,
    on_setxattr,
    on_tmpfile,
    on_write,
)
from unionfs._on_names cimport (
    on_batch_forget,
    on_forget,
    on_getattr,
    on_link,
    on_lookup,
    on_mkdir,
    on_mknod,
    on_readlink,
    on_rename,
    on_rename2,
    on_rmdir,
    on_setattr,
    on_statfs,
    on_statx,
    on_symlink,
    on_unlink,
)
from unionfs._on_seek cimport on_lseek
from unionfs._parking cimport interrupt
from unionfs._uring cimport uring_prepare
from unionfs._wire cimport *

cdef enum:
    WATCH_MICROSECONDS = 20000

cdef Route ROUTES[OPCODES_END]


cdef const Route *route(unsigned opcode) noexcept nogil:
    return &ROUTES[opcode] if opcode < OPCODES_END else NULL


cdef bint uring_offered(Channel *channel) noexcept nogil:
    """Whether the kernel's offer of io_uring can be taken up; what cannot be had is done without.

    Asked once: INIT comes again after another major version was named, and before that nothing
    is negotiated.
    """
    if channel.queues == 0 or channel.workers != NULL:
        return False
    return uring_prepare(channel) == 0


cdef int64_t on_init(Call *call) noexcept nogil:
    """Negotiate.  The flags asked for are explained in docs/design.md; the rest is left alone.

    ATOMIC_O_TRUNC is not asked for: together with ENOSYS to OPEN a rewrite would keep old bytes.
    POSIX_LOCKS and FLOCK_LOCKS are not either, so locks are the kernel's. Nor is ASYNC_DIO: after
    an asynchronous O_DIRECT write the kernel keeps pages that were read meanwhile, and with O_DSYNC
    it sends no FSYNC (fs/fuse/file.c, fuse_direct_IO and fuse_cache_write_iter, Linux 6.18).
    """
    cdef const InitIn *request = <const InitIn *>call.body
    cdef InitOut *out = <InitOut *>call.reply
    cdef Channel *channel = call.channel
    cdef uint32_t wanted = (
        INIT_ASYNC_READ | INIT_BIG_WRITES | INIT_DONT_MASK | INIT_DO_READDIRPLUS
        | INIT_READDIRPLUS_AUTO | INIT_PARALLEL_DIROPS | INIT_POSIX_ACL
        | INIT_MAX_PAGES | INIT_CACHE_SYMLINKS | INIT_NO_OPENDIR_SUPPORT
        | INIT_HANDLE_KILLPRIV_V2 | INIT_SETXATTR_EXT)
    memset(out, 0, sizeof(InitOut))
    out.major = PROTOCOL_MAJOR
    if request.major > PROTOCOL_MAJOR:
        return sizeof(InitOut)      # the kernel asks again with our version
    if request.major < PROTOCOL_MAJOR or request.minor < PROTOCOL_MINOR_LEAST:
        return -EPROTO
    if channel.writeback:
        wanted |= INIT_WRITEBACK_CACHE
    if not channel.table.acls:
        wanted &= ~<uint32_t>INIT_POSIX_ACL
    out.minor = min(request.minor, <uint32_t>PROTOCOL_MINOR)
    out.max_readahead = request.max_readahead
    if request.flags & INIT_EXT and call.size >= sizeof(InitIn):
        wanted |= INIT_EXT
        out.flags2 = request.flags2 & INIT2_NO_EXPORT_SUPPORT
        if request.flags2 & INIT2_PASSTHROUGH and channel.passthrough:
            out.flags2 |= INIT2_PASSTHROUGH
            out.max_stack_depth = 1
        if request.flags2 & INIT2_OVER_IO_URING and uring_offered(channel):
            out.flags2 |= INIT2_OVER_IO_URING
    channel.passthrough = (out.flags2 & INIT2_PASSTHROUGH) != 0
    if channel.passthrough:
        # The reply to OPEN says which file the kernel is to use.
        channel.keep_open = channel.table.keep_open = True
        channel.table.passthrough = True
    if not channel.keep_open:
        wanted |= INIT_NO_OPEN_SUPPORT
    out.flags = request.flags & wanted
    out.max_background = 64
    out.congestion_threshold = 48
    out.max_write = MAX_WRITE
    out.max_pages = MAX_WRITE // 4096
    out.time_gran = 1
    channel.setxattr_ext = (out.flags & INIT_SETXATTR_EXT) != 0
    channel.initialised = True
    return sizeof(InitOut)


cdef int64_t on_success(Call *call) noexcept nogil:
    return 0


cdef int64_t on_interrupt(Call *call) noexcept nogil:
    """The pool watches over a request that stays parked: see interrupt()."""
    cdef uint64_t unique = (<const InterruptIn *>call.body).unique
    while interrupt(call.channel, unique):
        if not call.op.may_wait:
            return RESULT_WAIT
        usleep(WATCH_MICROSECONDS)
    return RESULT_SILENT


cdef int64_t on_nothing(Call *call) noexcept nogil:
    return RESULT_SILENT


cdef int64_t on_declined(Call *call) noexcept nogil:
    return -ENOSYS


cdef int64_t on_ioctl(Call *call) noexcept nogil:
    return -ENOTTY


# The table


class Opcode(NamedTuple):
    number: int
    name: str
    how: str
    why: str


cdef const char *HOW_NAMES[5]
HOW_NAMES[:] = [b"unknown", b"native", b"pool", b"declined", b"unanswered"]
_table = []


cdef Handler add(int opcode, const char *name, How how, Handler handler, size_t least,
                 const char *why, int other=NO_OTHER_NODE) except NULL:
    ROUTES[opcode] = Route(how, handler, least, other)
    name_opcode(<uint32_t>opcode, name)
    _table.append(Opcode(opcode, name.decode(), HOW_NAMES[<int>how].decode(), why.decode()))
    return handler


cdef const char *KEPT = b"declined unless OPEN is kept: the kernel then opens by itself"
cdef const char *NO_DAX = b"only virtiofs maps files directly"
cdef const char *KERNEL_LOCKS = b"not negotiated: locks are the kernel's"
cdef const char *LONG = b"may take long"

add(OP_LOOKUP, b"LOOKUP", NATIVE, on_lookup, 0, b"")
add(OP_FORGET, b"FORGET", UNANSWERED, on_forget, sizeof(ForgetIn), b"")
add(OP_GETATTR, b"GETATTR", NATIVE, on_getattr, 0, b"")
add(OP_SETATTR, b"SETATTR", NATIVE, on_setattr, sizeof(SetattrIn), b"")
add(OP_READLINK, b"READLINK", NATIVE, on_readlink, 0, b"")
add(OP_SYMLINK, b"SYMLINK", NATIVE, on_symlink, 0, b"")
add(OP_MKNOD, b"MKNOD", NATIVE, on_mknod, sizeof(MknodIn), b"")
add(OP_MKDIR, b"MKDIR", NATIVE, on_mkdir, sizeof(MkdirIn), b"")
add(OP_UNLINK, b"UNLINK", NATIVE, on_unlink, 0, b"")
add(OP_RMDIR, b"RMDIR", NATIVE, on_rmdir, 0, b"")
add(OP_RENAME, b"RENAME", NATIVE, on_rename, sizeof(RenameIn), b"", 0)
add(OP_LINK, b"LINK", NATIVE, on_link, sizeof(LinkIn), b"", 0)
add(OP_OPEN, b"OPEN", NATIVE, on_open, sizeof(OpenIn), KEPT)
add(OP_READ, b"READ", NATIVE, on_read, sizeof(ReadIn), b"")
add(OP_WRITE, b"WRITE", NATIVE, on_write, sizeof(WriteIn), b"")
add(OP_STATFS, b"STATFS", NATIVE, on_statfs, 0, b"")
add(OP_RELEASE, b"RELEASE", NATIVE, on_release, sizeof(ReleaseIn), b"")
add(OP_FSYNC, b"FSYNC", POOLED, on_fsync, sizeof(FsyncIn), LONG)
add(OP_SETXATTR, b"SETXATTR", NATIVE, on_setxattr, SETXATTR_IN_SHORT, b"")
add(OP_GETXATTR, b"GETXATTR", NATIVE, on_getxattr, sizeof(GetxattrIn), b"")
add(OP_LISTXATTR, b"LISTXATTR", NATIVE, on_listxattr, sizeof(GetxattrIn), b"")
add(OP_REMOVEXATTR, b"REMOVEXATTR", NATIVE, on_removexattr, 0, b"")
add(OP_FLUSH, b"FLUSH", DECLINED, on_declined, 0, b"closing writes nothing out here")
add(OP_INIT, b"INIT", NATIVE, on_init, 16, b"")
add(OP_OPENDIR, b"OPENDIR", DECLINED, on_declined, 0, b"the kernel then keeps listings itself")
add(OP_READDIR, b"READDIR", NATIVE, on_readdir, sizeof(ReadIn), b"")
add(OP_RELEASEDIR, b"RELEASEDIR", NATIVE, on_success, 0, b"sent only for what OPENDIR opened")
add(OP_FSYNCDIR, b"FSYNCDIR", POOLED, on_fsyncdir, sizeof(FsyncIn), LONG)
add(OP_GETLK, b"GETLK", DECLINED, on_declined, 0, KERNEL_LOCKS)
add(OP_SETLK, b"SETLK", DECLINED, on_declined, 0, KERNEL_LOCKS)
add(OP_SETLKW, b"SETLKW", DECLINED, on_declined, 0, KERNEL_LOCKS)
add(OP_ACCESS, b"ACCESS", DECLINED, on_declined, 0, b"permissions are the kernel's")
add(OP_CREATE, b"CREATE", NATIVE, on_create, sizeof(CreateIn), KEPT)
add(OP_INTERRUPT, b"INTERRUPT", UNANSWERED, on_interrupt, sizeof(InterruptIn), b"", NO_NODE)
add(OP_BMAP, b"BMAP", DECLINED, on_declined, 0, b"a union has no blocks of its own")
add(OP_DESTROY, b"DESTROY", NATIVE, on_success, 0, b"")
add(OP_IOCTL, b"IOCTL", NATIVE, on_ioctl, 0, b"ENOTTY: there are none")
add(OP_POLL, b"POLL", DECLINED, on_declined, 0, b"files are always ready")
add(OP_NOTIFY_REPLY, b"NOTIFY_REPLY", UNANSWERED, on_nothing, 0, b"nothing is ever retrieved")
add(OP_BATCH_FORGET, b"BATCH_FORGET", UNANSWERED, on_batch_forget, sizeof(BatchForgetIn), b"",
    NO_NODE)
add(OP_FALLOCATE, b"FALLOCATE", POOLED, on_fallocate, sizeof(FallocateIn), LONG)
add(OP_READDIRPLUS, b"READDIRPLUS", NATIVE, on_readdirplus, sizeof(ReadIn), b"")
add(OP_RENAME2, b"RENAME2", NATIVE, on_rename2, sizeof(Rename2In), b"", 0)
add(OP_LSEEK, b"LSEEK", NATIVE, on_lseek, sizeof(LseekIn), b"")
add(OP_COPY_FILE_RANGE, b"COPY_FILE_RANGE", NATIVE, on_copy_file_range, sizeof(CopyFileRangeIn),
    b"", 16)
add(OP_SETUPMAPPING, b"SETUPMAPPING", DECLINED, on_declined, 0, NO_DAX)
add(OP_REMOVEMAPPING, b"REMOVEMAPPING", DECLINED, on_declined, 0, NO_DAX)
add(OP_SYNCFS, b"SYNCFS", DECLINED, on_declined, 0, b"sent to block devices and virtiofs only")
add(OP_TMPFILE, b"TMPFILE", NATIVE, on_tmpfile, sizeof(CreateIn), b"")
add(OP_STATX, b"STATX", NATIVE, on_statx, sizeof(StatxIn), b"")
add(OP_COPY_FILE_RANGE_64, b"COPY_FILE_RANGE_64", NATIVE, on_copy_file_range_64,
    sizeof(CopyFileRangeIn), b"", 16)

OPCODES = tuple(_table)
del _table
