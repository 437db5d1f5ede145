# cython: language_level=3
"""Copies with an ACL that a user namespace cannot write; see the declarations."""
import os

from unionfs import log

from libc.errno cimport ERANGE, ESTALE
from libc.stdint cimport int64_t, uint32_t
from libc.stdio cimport snprintf


from unionfs._idmap cimport NO_ID, acl_names_unknown
from unionfs._marks cimport WORK_NAME, work_new_name
from unionfs._nodes cimport Table
from unionfs._operations cimport WOULD_WAIT
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    AT_REMOVEDIR,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_PATH,
    O_TRUNC,
    O_WRONLY,
    RENAME_NOREPLACE,
    S_IFDIR,
    S_IFREG,
    Stat,
    sys_close,
    sys_fchownat,
    sys_fsconfig_flag,
    sys_fsconfig_string,
    sys_fsmount,
    sys_fsopen,
    sys_getxattr,
    sys_mkdirat,
    sys_open,
    sys_open_beneath,
    sys_removexattr,
    sys_renameat2,
    sys_statx,
    sys_unlinkat,
)

cdef enum:
    ACL_SIZE = 4096
    PATH_SIZE = 32

cdef const char **acls = ["system.posix_acl_access", "system.posix_acl_default"]

# What a mount leaves in its directories, innermost first; the fifth is a file (overlayfs.rst,
# "Volatile mount").
cdef const char **leftovers = [
    "work/work/incompat/volatile/dirty", "work/work/incompat/volatile", "work/work/incompat",
    "work/work", "work/index", "work", "up"]


cdef bint has_unknown(int fd, uint32_t type_) noexcept nogil:
    cdef char value[ACL_SIZE]
    cdef int64_t size
    cdef int i
    for i in range(2 if type_ == S_IFDIR else 1):
        size = sys_getxattr(fd, acls[i], value, ACL_SIZE)
        if size == -ERANGE or (size > 0 and acl_names_unknown(value, size)):
            return True         # at least perhaps
    return False


cdef int open_work(const Table *t) noexcept nogil:
    """The work directory where it is mounted: the kernel takes no layer in a clone that is gone."""
    cdef Stat ours, there
    cdef int r, fd
    if t.work_path == NULL:
        return -ESTALE
    fd = sys_open(t.work_path, O_PATH | O_DIRECTORY | O_NOFOLLOW)
    if fd < 0:
        return fd
    r = sys_statx(fd, b"", AT_EMPTY_PATH, &there)
    if r == 0:
        r = sys_statx(t.work_fd, b"", AT_EMPTY_PATH, &ours)
    if r == 0 and (ours.stx_ino != there.stx_ino or ours.stx_dev_major != there.stx_dev_major
                   or ours.stx_dev_minor != there.stx_dev_minor):
        r = -ESTALE
    if r < 0:
        sys_close(fd)
        return r
    return fd


cdef int set_directory(int context, const char *option, int fd) noexcept nogil:
    cdef char path[PATH_SIZE]
    snprintf(path, PATH_SIZE, b"/proc/self/fd/%d", fd)
    return sys_fsconfig_string(context, option, path)


cdef int mount(int lower, int up, int work) noexcept nogil:
    """The root of an overlay of these directories, or -errno."""
    cdef int root, r, context = sys_fsopen(b"overlay")
    if context < 0:
        return context
    r = set_directory(context, b"lowerdir", lower)
    if r == 0:
        r = set_directory(context, b"upperdir", up)
    if r == 0:
        r = set_directory(context, b"workdir", work)
    if r == 0:
        r = sys_fsconfig_flag(context, b"userxattr")
    if r == 0:
        r = sys_fsconfig_string(context, b"index", b"off")
    if r == 0:
        # Unmounting would sync the whole filesystem; the copy is synced by itself.
        r = sys_fsconfig_flag(context, b"volatile")
    root = sys_fsmount(context) if r == 0 else r
    sys_close(context)
    return root


cdef int bring_up(int lower, int up, int work, const char *name, uint32_t type_) noexcept nogil:
    """Has overlayfs copy a file of `lower` to `up`, a regular one without its data."""
    cdef int r, fd, root = mount(lower, up, work)
    if root < 0:
        return root
    if type_ == S_IFREG:
        fd = sys_open_beneath(root, name, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_NONBLOCK, 0)
        r = min(fd, 0)
    else:
        fd = sys_open_beneath(root, name, O_PATH | O_NOFOLLOW, 0)
        r = fd if fd < 0 else sys_fchownat(fd, b"", NO_ID, NO_ID)   # a change that changes nothing
    if fd >= 0:
        sys_close(fd)
    sys_close(root)
    return r


cdef int copy_in(Table *t, int here, int attached, int lower, const char *name, uint32_t type_,
                 char *copy) noexcept nogil:
    """The same in a directory of its own: `here`, and `attached` is the same where mounted."""
    cdef int fd, up, r = sys_mkdirat(here, b"up", 0o700)
    if r == 0:
        r = sys_mkdirat(here, b"work", 0o700)
    if r < 0:
        return r
    up = sys_open_beneath(attached, b"up", O_PATH | O_DIRECTORY, 0)
    fd = sys_open_beneath(attached, b"work", O_PATH | O_DIRECTORY, 0)
    r = min(up, fd)
    if r >= 0:
        r = bring_up(lower, up, fd, name, type_)
    if fd >= 0:
        sys_close(fd)
    if up >= 0:
        sys_close(up)
    if r < 0:
        return r
    up = sys_open_beneath(here, b"up", O_PATH | O_DIRECTORY, 0)
    if up < 0:
        return up
    fd = sys_open_beneath(up, name, O_PATH | O_NOFOLLOW, 0)
    r = fd
    if fd >= 0:
        sys_removexattr(fd, b"user.overlay.origin")
        sys_close(fd)
        work_new_name(t, copy)
        r = sys_renameat2(up, name, t.work_fd, copy, RENAME_NOREPLACE)
    if r < 0:
        sys_unlinkat(up, name, 0)
    sys_close(up)
    return r


cdef int copy_aside(Table *t, int lower, const char *name, uint32_t type_,
                    char *copy) noexcept nogil:
    cdef char nursery[WORK_NAME]
    cdef int i, here = -1, attached = -1, r, work = open_work(t)
    if work < 0:
        return work
    work_new_name(t, nursery)
    r = sys_mkdirat(t.work_fd, nursery, 0o700)
    if r == 0:
        r = here = sys_open_beneath(t.work_fd, nursery, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)
    if r >= 0:
        r = attached = sys_open_beneath(work, nursery, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0)
    if r >= 0:
        r = copy_in(t, here, attached, lower, name, type_, copy)
    if here >= 0:
        for i in range(7):
            sys_unlinkat(here, leftovers[i], 0 if i == 0 else AT_REMOVEDIR)
        sys_close(here)
    if attached >= 0:
        sys_close(attached)
    sys_close(work)
    sys_unlinkat(t.work_fd, nursery, AT_REMOVEDIR)
    return r


cdef void complain(const char *name, int error) noexcept with gil:
    log.warning(f"{os.fsdecode(name)}: kernel overlayfs cannot copy its ACL, which names ids that "
                f"this user namespace has not ({os.strerror(-error)}); from this and other files "
                "entries about such ids are left out")


cdef int overlay_copy(Table *t, int lower, const char *name, int source, uint32_t type_,
                      bint may_wait, char *copy) noexcept nogil:
    cdef int r
    if t.unmapped == NULL or t.branch[0].override.name != NULL:
        return 0
    if not has_unknown(source, type_):
        return 0
    if not may_wait:
        return WOULD_WAIT
    r = copy_aside(t, lower, name, type_, copy)
    if r < 0:
        copy[0] = 0
        if not t.unmapped.told:
            t.unmapped.told = True
            complain(name, r)
        return 0
    return 1
