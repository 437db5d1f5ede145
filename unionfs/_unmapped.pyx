# cython: language_level=3
"""Owners that the daemon's user namespace has no id for; see the declarations."""
import os

from unionfs import log

from libc.errno cimport EACCES, EIO
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport strdup, strlen

from unionfs._idmap cimport NO_ID
from unionfs._sys cimport (
    AT_EMPTY_PATH,
    O_DIRECTORY,
    O_PATH,
    O_WRONLY,
    S_IFDIR,
    S_IFMT,
    S_ISGID,
    W_OK,
    Stat,
    mutex_destroy,
    mutex_init,
    mutex_lock,
    mutex_unlock,
    sys_access,
    sys_close,
    sys_exit,
    sys_fork,
    sys_getxattr,
    sys_getxattrat,
    sys_keep_only,
    sys_name_process,
    sys_open,
    sys_open_beneath,
    sys_own_user_namespace,
    sys_receive,
    sys_receive_fd,
    sys_send,
    sys_send_fd,
    sys_socketpair,
    sys_statx,
    sys_wait_killed,
    sys_write,
)

cdef enum:
    NAME_SIZE = 256             # NAME_LIMIT and the zero

cdef struct Answer:
    uint64_t ino
    uint32_t uid
    uint32_t gid


cdef Unmapped *unmapped_new(uint32_t uid, uint32_t gid, const char *uid_map,
                            const char *gid_map) noexcept nogil:
    cdef Unmapped *u = <Unmapped *>calloc(1, sizeof(Unmapped))
    if u == NULL:
        return NULL
    u.uid = uid
    u.gid = gid
    u.socket = -1
    mutex_init(&u.lock, NULL)
    if uid_map != NULL:
        u.uid_map = strdup(uid_map)
        u.gid_map = strdup(gid_map)
        if u.uid_map == NULL or u.gid_map == NULL:
            unmapped_free(u)
            return NULL
    return u


cdef void unmapped_free(Unmapped *u) noexcept nogil:
    if u == NULL:
        return
    end(u)
    free(u.uid_map)
    free(u.gid_map)
    mutex_destroy(&u.lock)
    free(u)


# --- the lookout ---------------------------------------------------------------------------

cdef void look_out(int socket) noexcept nogil:
    """The lookout's life, from fork to exit. It keeps no descriptor of the daemon's: the mount
    ends with the daemon even if that is killed, and so does the lookout."""
    cdef char name[NAME_SIZE]
    cdef Answer answer
    cdef Stat st
    cdef int fd, size
    if sys_keep_only(socket) < 0 or sys_own_user_namespace() < 0:
        return
    sys_name_process(b"unionfs-lookout")
    # Not by number: the daemon's /proc may be that of another namespace of processes.
    fd = sys_open(b"/proc/self", O_PATH | O_DIRECTORY)
    if fd < 0 or sys_send_fd(0, fd, b"", 1) < 0:
        return
    sys_close(fd)
    while True:
        size = sys_receive_fd(0, &fd, name, NAME_SIZE)
        if size <= 0 or fd < 0:
            return
        name[size - 1] = 0
        answer.ino = 0
        answer.uid = answer.gid = NO_ID
        if sys_statx(fd, name, AT_EMPTY_PATH, &st) == 0:
            answer.ino = st.stx_ino
            answer.uid = st.stx_uid
            answer.gid = st.stx_gid
        sys_close(fd)
        if sys_send(0, &answer, sizeof(answer)) < 0:
            return


cdef int write_map(int process, const char *which, const char *text) noexcept nogil:
    cdef int fd = sys_open_beneath(process, which, O_WRONLY, 0)
    cdef int r = fd
    if fd >= 0:
        r = <int>sys_write(fd, text, strlen(text))
        sys_close(fd)
    return r


cdef int give_maps(Unmapped *u) noexcept nogil:
    """Only a process of the namespace above may map more than one id (user_namespaces(7))."""
    cdef char none[1]
    cdef int process, r = sys_receive_fd(u.socket, &process, none, 1)
    if r <= 0 or process < 0:
        return -EIO
    r = write_map(process, b"uid_map", u.uid_map)
    if r >= 0:
        r = write_map(process, b"gid_map", u.gid_map)
    sys_close(process)
    return r


cdef void end(Unmapped *u) noexcept nogil:
    if u.socket < 0:
        return
    sys_close(u.socket)
    u.socket = -1
    sys_wait_killed(u.pid)          # it may be stopped


cdef int start(Unmapped *u) noexcept nogil:
    cdef int ends[2]
    cdef int r = sys_socketpair(ends)
    if r < 0:
        return r
    u.pid = sys_fork()
    if u.pid == 0:
        look_out(ends[1])
        sys_exit()
    sys_close(ends[1])
    if u.pid < 0:
        sys_close(ends[0])
        return u.pid
    u.socket = ends[0]
    r = give_maps(u)
    if r < 0:
        end(u)
    return r


cdef void complain(Unmapped *u, int error) noexcept with gil:
    log.warning(f"files that user {u.uid} or group {u.gid} owns are shown as nobody's: no process "
                f"can be started that tells them from those of owners without an id in this user "
                f"namespace: {os.strerror(-error)}")


cdef int ask_lookout(Unmapped *u, int dirfd, const char *file, Answer *answer) noexcept nogil:
    cdef int r = sys_send_fd(u.socket, dirfd, file, strlen(file) + 1)
    if r > 0:
        r = sys_receive(u.socket, answer, sizeof(Answer))
    return 0 if r == sizeof(Answer) else -EIO


cdef int ask(Unmapped *u, int dirfd, const char *file, Answer *answer) noexcept nogil:
    cdef int r = -EIO, failed = 0
    mutex_lock(&u.lock)
    if u.socket >= 0:
        r = ask_lookout(u, dirfd, file, answer)
        if r < 0:
            end(u)                  # somebody has killed it, or the kernel for its memory
    if u.socket < 0 and not u.failed:
        failed = min(start(u), 0)
        u.failed = failed < 0
        if not u.failed:
            r = ask_lookout(u, dirfd, file, answer)
    mutex_unlock(&u.lock)
    if failed < 0:
        complain(u, failed)
    return r


cdef bint has_acl(int dirfd, const char *file) noexcept nogil:
    cdef const char *acl = b"system.posix_acl_access"
    if file[0]:
        return sys_getxattrat(dirfd, file, acl, NULL, 0) >= 0
    return sys_getxattr(dirfd, acl, NULL, 0) >= 0


cdef bint is_out_of_reach(const Unmapped *u, int dirfd, const char *file,
                          const Stat *st) noexcept nogil:
    """Is it certain without the lookout that what is in question has no id here?

    What CAP_DAC_OVERRIDE does not open has an owner or a group without one: the capability counts
    where both have one (capable_wrt_inode_uidgid() in the kernel). Two calls say so of most files
    of a system in a thirtieth of the time. Where owner and group are in question one of them may
    have an id, which then is not shown: it must not be one to which the mode denies what it gives
    to others.
    """
    cdef uint32_t others = st.stx_mode & 7
    if not u.overrides or sys_access(dirfd, file, W_OK) != -EACCES:
        return False
    if st.stx_uid != u.uid or st.stx_gid != u.gid:
        return True
    return (others & ~(st.stx_mode >> 6 & st.stx_mode >> 3)) == 0 and not has_acl(dirfd, file)


cdef void unmapped_ask(Unmapped *u, int dirfd, const char *file, Stat *st) noexcept nogil:
    cdef Answer answer
    cdef bint told = u.uid_map != NULL and not is_out_of_reach(u, dirfd, file, st)
    # With another inode number it is another file by now, and its owner no answer.
    told = told and ask(u, dirfd, file, &answer) == 0 and answer.ino == st.stx_ino
    if st.stx_uid == u.uid and not (told and answer.uid != u.uid and answer.uid != NO_ID):
        st.stx_uid = NO_ID
    if st.stx_gid == u.gid and not (told and answer.gid != u.gid and answer.gid != NO_ID):
        st.stx_gid = NO_ID


cdef void unmapped_show_group(const Unmapped *u, Stat *st) noexcept nogil:
    cdef uint32_t mode = st.stx_mode
    # With an ACL the group's bits are its mask, which bounds what the group has.
    if st.stx_uid != NO_ID and (mode >> 3 & 7) == (mode & 7) and (
            not mode & S_ISGID or mode & S_IFMT == S_IFDIR):
        st.stx_gid = u.gid
