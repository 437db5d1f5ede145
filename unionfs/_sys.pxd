# cython: language_level=3
"""The one thin layer over raw system calls.

Everything native goes through here: calls that libc 2.36 has no wrapper for, and the
wrappers that exist with the project's one convention: the result is >= 0 or -errno, so
that no caller reads `errno`, which the next call on the way out could overwrite.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef UNIONFS_SYS_H
    #define UNIONFS_SYS_H
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <dirent.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <linux/fs.h>
    #include <linux/openat2.h>
    #include <malloc.h>
    #include <poll.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/eventfd.h>
    #include <sys/ioctl.h>
    #include <sys/mount.h>
    #include <sys/prctl.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/statfs.h>
    #include <sys/syscall.h>
    #include <sys/sysmacros.h>
    #include <sys/uio.h>
    #include <sys/wait.h>
    #include <sys/xattr.h>
    #include <time.h>
    #include <unistd.h>

    #define NEG(call) ({ __typeof__(call) r_ = (call); r_ < 0 ? (__typeof__(r_))-errno : r_; })

    static inline int sys_statx(int dirfd, const char *path, int flags, struct statx *st) {
        return NEG(statx(dirfd, path, flags | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT,
                         STATX_BASIC_STATS | STATX_BTIME, st));
    }
    /* With the rights of this thread, as if it did it: faccessat2(2), Linux 5.8. */
    static inline int sys_access(int dirfd, const char *path, int mode) {
        return NEG((int)syscall(SYS_faccessat2, dirfd, path, mode,
                                AT_EACCESS | AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
    }
    /* Opens `name` (one or more components) below dirfd without following any link or entering
       a mount: a branch is one filesystem (-EXDEV). */
    static inline int sys_open_beneath(int dirfd, const char *name, int flags, unsigned mode) {
        struct open_how how;
        int fd;
        memset(&how, 0, sizeof how);
        how.flags = (unsigned)(flags | O_CLOEXEC);
        how.mode = (flags & (O_CREAT | __O_TMPFILE)) ? mode : 0;
        how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
        do
            fd = (int)syscall(SYS_openat2, dirfd, name, &how, sizeof how);
        while (fd < 0 && errno == EAGAIN); /* a rename above raced with RESOLVE_BENEATH */
        return fd < 0 ? -errno : fd;
    }
    static inline int sys_close(int fd) { return NEG(close(fd)); }
    static inline int sys_eventfd(void) { return NEG(eventfd(0, EFD_CLOEXEC)); }
    static inline void sys_give_back(void) { /* what was freed, to the kernel */
    #ifdef __GLIBC__
        malloc_trim(0);
    #endif
    }
    static inline unsigned sys_umask(unsigned mask) { return umask(mask); }
    static inline int sys_dup(int fd) { return NEG(fcntl(fd, F_DUPFD_CLOEXEC, 3)); }
    static inline int sys_set_flags(int fd, int flags) { return NEG(fcntl(fd, F_SETFL, flags)); }
    static inline int sys_dup_over(int fd, int over) { return NEG(dup3(fd, over, O_CLOEXEC)); }
    static inline int64_t sys_pread(int fd, void *b, size_t n, int64_t o) {
        return NEG(pread(fd, b, n, o));
    }
    #define CACHESTAT 451 /* Linux 6.5 */
    /* How many bytes of a range are in the page cache: cachestat(2). */
    static inline int64_t sys_cached(int fd, uint64_t o, uint64_t n) {
        uint64_t range[2] = {o, n}, found[5] = {0};
        long r = syscall(CACHESTAT, fd, range, found, 0);
        return r < 0 ? -errno : (int64_t)(found[0] * (uint64_t)sysconf(_SC_PAGESIZE));
    }
    static inline int sys_drop_cached(int fd, int64_t o, int64_t n) {
        return -posix_fadvise(fd, o, n, POSIX_FADV_DONTNEED);
    }
    static inline int64_t sys_pwrite(int fd, const void *b, size_t n, int64_t o) {
        return NEG(pwrite(fd, b, n, o));
    }
    static inline int64_t sys_read(int fd, void *b, size_t n) { return NEG(read(fd, b, n)); }
    static inline int64_t sys_write(int fd, const void *b, size_t n) {
        return NEG(write(fd, b, n));
    }
    static inline int64_t sys_writev(int fd, const struct iovec *v, int n) {
        return NEG(writev(fd, v, n));
    }
    static inline int64_t sys_lseek(int fd, int64_t o, int whence) {
        return NEG(lseek(fd, o, whence));
    }
    static inline int sys_pipe(int *ends) { return NEG(pipe2(ends, O_CLOEXEC)); }
    static inline int sys_pipe_size(int fd, int size) { return NEG(fcntl(fd, F_SETPIPE_SZ, size)); }
    /* Does not wait for room in a pipe. */
    static inline int64_t sys_splice(int in, int64_t *oin, int out, size_t n) {
        return NEG(splice(in, oin, out, NULL, n, SPLICE_F_NONBLOCK));
    }
    static inline int sys_fsync(int fd) { return NEG(fsync(fd)); }
    static inline int sys_fdatasync(int fd) { return NEG(fdatasync(fd)); }
    /* fsync(2) of a directory that is open as O_PATH only. */
    static inline int sys_sync_directory(int dirfd) {
        int r, fd = sys_open_beneath(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);
        if (fd < 0)
            return fd;
        r = sys_fsync(fd);
        close(fd);
        return r;
    }
    static inline int sys_ftruncate(int fd, int64_t size) { return NEG(ftruncate(fd, size)); }
    /* As by path: where the size stays a filesystem may leave mtime alone. */
    static inline int sys_truncate(int fd, int64_t size) {
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        return NEG(truncate(path, size));
    }
    static inline int sys_fallocate(int fd, int mode, int64_t o, int64_t n) {
        return NEG(fallocate(fd, mode, o, n));
    }
    static inline int64_t sys_copy_file_range(int in, int64_t *oin, int out, int64_t *oout,
                                              size_t n) {
        return NEG(copy_file_range(in, oin, out, oout, n, 0));
    }
    static inline int sys_clone(int out, int in) { return NEG(ioctl(out, FICLONE, in)); }
    static inline int sys_fchownat(int dirfd, const char *name, unsigned uid, unsigned gid) {
        return NEG(fchownat(dirfd, name, uid, gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH));
    }
    static inline int sys_utimens(int dirfd, const char *name, const struct timespec *ts) {
        return NEG(utimensat(dirfd, name, ts, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH));
    }
    /* atime and mtime of a file, in the form in which sys_utimens takes them. */
    static inline void sys_times(const struct statx *st, struct timespec *ts) {
        ts[0].tv_sec = st->stx_atime.tv_sec;
        ts[0].tv_nsec = st->stx_atime.tv_nsec;
        ts[1].tv_sec = st->stx_mtime.tv_sec;
        ts[1].tv_nsec = st->stx_mtime.tv_nsec;
    }
    static inline int sys_mknodat(int dirfd, const char *name, unsigned mode, uint64_t rdev) {
        return NEG(mknodat(dirfd, name, mode, rdev));
    }
    static inline int sys_mkdirat(int dirfd, const char *name, unsigned mode) {
        return NEG(mkdirat(dirfd, name, mode));
    }
    static inline int sys_symlinkat(const char *target, int dirfd, const char *name) {
        return NEG(symlinkat(target, dirfd, name));
    }
    static inline int64_t sys_readlinkat(int dirfd, const char *name, char *b, size_t n) {
        return NEG(readlinkat(dirfd, name, b, n));
    }
    static inline int sys_unlinkat(int dirfd, const char *name, int flags) {
        return NEG(unlinkat(dirfd, name, flags));
    }
    static inline int sys_linkat(int olddir, const char *old, int newdir, const char *name,
                                 int flags) {
        return NEG(linkat(olddir, old, newdir, name, flags));
    }
    static inline int sys_renameat2(int olddir, const char *old, int newdir, const char *name,
                                    unsigned flags) {
        return NEG(renameat2(olddir, old, newdir, name, flags));
    }
    static inline int sys_fstatfs(int fd, struct statfs *st) { return NEG(fstatfs(fd, st)); }
    static inline int64_t sys_getdents(int fd, void *b, size_t n) {
        return NEG((int64_t)syscall(SYS_getdents64, fd, b, n));
    }

    /* Links the file behind fd, also one that has no name (O_TMPFILE). AT_EMPTY_PATH would
       want CAP_DAC_READ_SEARCH; the magic link wants nothing. */
    static inline int sys_linkfd(int fd, int newdir, const char *name) {
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        return NEG(linkat(AT_FDCWD, path, newdir, name, AT_SYMLINK_FOLLOW));
    }
    /* A second descriptor of the file behind fd (an O_PATH one too), by its magic link. */
    static inline int sys_reopen(int fd, int flags) {
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        return NEG(open(path, (flags & ~O_NOFOLLOW) | O_CLOEXEC));
    }
    static inline int sys_chmodfd(int fd, unsigned mode) { /* also for O_PATH */
        int r = NEG(fchmod(fd, mode));
        char path[32];
        if (r != -EBADF)
            return r;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        return NEG(chmod(path, mode));
    }
    /* Extended attributes of the file behind fd. Descriptors opened with O_PATH, which give EBADF,
       are reached by their magic link, which is followed exactly once, also to a symlink. */
    static inline int64_t sys_getxattr(int fd, const char *name, void *b, size_t n) {
        int64_t r = NEG(fgetxattr(fd, name, b, n));
        char path[32];
        if (r != -EBADF)
            return r;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        return NEG(getxattr(path, name, b, n));
    }
    static inline int64_t sys_listxattr(int fd, char *b, size_t n) {
        int64_t r = NEG(flistxattr(fd, b, n));
        char path[32];
        if (r != -EBADF)
            return r;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        return NEG(listxattr(path, b, n));
    }
    static inline int sys_setxattr(int fd, const char *name, const void *v, size_t n, int flags) {
        int r = NEG(fsetxattr(fd, name, v, n, flags));
        char path[32];
        if (r != -EBADF)
            return r;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        return NEG(setxattr(path, name, v, n, flags));
    }
    static inline int sys_removexattr(int fd, const char *name) {
        int r = NEG(fremovexattr(fd, name));
        char path[32];
        if (r != -EBADF)
            return r;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        return NEG(removexattr(path, name));
    }
    /* The same on `name` in directory dirfd, without a descriptor of the file: by calls that Linux
       has since 6.13 and libc has not yet, else by the directory's magic link, which takes three
       times as long. */
    #define XATTRAT_SET 463
    #define XATTRAT_GET 464
    #define XATTRAT_LIST 465
    struct sys_xattr {              /* struct xattr_args */
        uint64_t value;
        uint32_t size, flags;
    };
    static inline int sys_has_xattrat(void) {
        static int has = -1;
        int known = __atomic_load_n(&has, __ATOMIC_RELAXED);
        if (known < 0) {
            /* Who knows the call refuses a size of 0; else it is ENOSYS or (seccomp) EPERM. */
            known = syscall(XATTRAT_GET, -1, "", 0, "", NULL, 0) < 0 && errno == EINVAL;
            __atomic_store_n(&has, known, __ATOMIC_RELAXED);
        }
        return known;
    }
    static inline int64_t sys_getxattrat(int dirfd, const char *name, const char *attr, void *b,
                                         size_t n) {
        char path[32 + 256];
        struct sys_xattr to = {(uintptr_t)b, (uint32_t)n, 0};
        if (sys_has_xattrat())
            return NEG((int64_t)syscall(XATTRAT_GET, dirfd, name, AT_SYMLINK_NOFOLLOW, attr, &to,
                                        sizeof to));
        snprintf(path, sizeof path, "/proc/self/fd/%d/%s", dirfd, name);
        return NEG(lgetxattr(path, attr, b, n));
    }
    static inline int64_t sys_listxattrat(int dirfd, const char *name, char *b, size_t n) {
        char path[32 + 256];
        if (sys_has_xattrat())
            return NEG((int64_t)syscall(XATTRAT_LIST, dirfd, name, AT_SYMLINK_NOFOLLOW, b, n));
        snprintf(path, sizeof path, "/proc/self/fd/%d/%s", dirfd, name);
        return NEG(llistxattr(path, b, n));
    }
    static inline int sys_setxattrat(int dirfd, const char *name, const char *attr,
                                     const void *v, size_t n, int flags) {
        char path[32 + 256];
        struct sys_xattr from = {(uintptr_t)v, (uint32_t)n, (uint32_t)flags};
        if (sys_has_xattrat())
            return (int)NEG(syscall(XATTRAT_SET, dirfd, name, AT_SYMLINK_NOFOLLOW, attr, &from,
                                    sizeof from));
        snprintf(path, sizeof path, "/proc/self/fd/%d/%s", dirfd, name);
        return NEG(lsetxattr(path, attr, v, n, flags));
    }
    static inline uint64_t sys_makedev(unsigned major, unsigned minor) {
        return makedev(major, minor);
    }
    static inline unsigned sys_major(uint64_t rdev) { return major(rdev); }
    static inline unsigned sys_minor(uint64_t rdev) { return minor(rdev); }
    /* Whoever wants it alone is not kept waiting by those who share it and come later. */
    static inline void rwlock_init(pthread_rwlock_t *lock) {
        pthread_rwlockattr_t how;
        pthread_rwlockattr_init(&how);
        pthread_rwlockattr_setkind_np(&how, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
        pthread_rwlock_init(lock, &how);
        pthread_rwlockattr_destroy(&how);
    }

    static inline uint64_t sys_monotonic_ns(void) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
    }
    /* One message with a descriptor beside it: unix(7), SCM_RIGHTS. */
    union sys_beside {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    };
    static inline int sys_send_fd(int socket, int fd, const void *b, size_t n) {
        union sys_beside beside;
        struct iovec data = {(void *)(uintptr_t)b, n};
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &beside,
                                 .msg_controllen = sizeof beside};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        memset(&beside, 0, sizeof beside);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
        return NEG((int)sendmsg(socket, &message, MSG_NOSIGNAL));
    }
    static inline int sys_receive_fd(int socket, int *fd, void *b, size_t n) {
        union sys_beside beside;
        struct iovec data = {b, n};
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &beside,
                                 .msg_controllen = sizeof beside};
        struct cmsghdr *header;
        int r;
        do
            r = NEG((int)recvmsg(socket, &message, MSG_CMSG_CLOEXEC));
        while (r == -EINTR);
        *fd = -1;
        if (r < 0)
            return r;
        header = CMSG_FIRSTHDR(&message);
        if (header != NULL && header->cmsg_type == SCM_RIGHTS)
            memcpy(fd, CMSG_DATA(header), sizeof *fd);
        return r;
    }
    static inline int sys_send(int socket, const void *b, size_t n) {
        return NEG((int)send(socket, b, n, MSG_NOSIGNAL));
    }
    static inline int sys_receive(int socket, void *b, size_t n) {
        int r;
        do
            r = NEG((int)recv(socket, b, n, 0));
        while (r == -EINTR);
        return r;
    }
    static inline int sys_socketpair(int *ends) { /* of messages */
        return NEG(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
    }
    /* fork(2); the child has all signals blocked. It may make system calls and nothing else: the
       process may have threads. */
    static inline int sys_fork(void) {
        sigset_t all, before;
        int r;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = NEG(fork());
        if (r != 0)
            pthread_sigmask(SIG_SETMASK, &before, NULL);
        return r;
    }
    static inline void sys_name_process(const char *name) { /* at most 15 bytes, for ps(1) */
        prctl(PR_SET_NAME, name);
    }
    static inline void sys_exit(void) { _exit(0); }
    static inline int sys_wait_killed(int pid) {
        kill(pid, SIGKILL);
        return NEG(waitpid(pid, NULL, 0));
    }
    /* Closes every descriptor but one, which becomes 0. */
    static inline int sys_keep_only(int fd) {
        int r = NEG(dup2(fd, 0));
        return r < 0 ? r : NEG((int)syscall(SYS_close_range, 1u, ~0u, 0u));
    }
    static inline int sys_own_user_namespace(void) { return NEG(unshare(CLONE_NEWUSER)); }
    static inline int sys_open(const char *path, int flags) {
        return NEG(open(path, flags | O_CLOEXEC));
    }
    /* The file contexts of mounting (Linux 5.2), which libc has not by that name everywhere; the
       numbers are those of <linux/mount.h>, which cannot be included beside <sys/mount.h>. */
    static inline int sys_fsopen(const char *kind) {
        return NEG((int)syscall(SYS_fsopen, kind, 1u /* FSOPEN_CLOEXEC */));
    }
    static inline int sys_fsconfig_flag(int context, const char *key) {
        return NEG((int)syscall(SYS_fsconfig, context, 0u /* SET_FLAG */, key, NULL, 0));
    }
    static inline int sys_fsconfig_string(int context, const char *key, const char *value) {
        return NEG((int)syscall(SYS_fsconfig, context, 1u /* SET_STRING */, key, value, 0));
    }
    /* The root of a mount that is nowhere, and goes with its descriptor. */
    static inline int sys_fsmount(int context) {
        int r = NEG((int)syscall(SYS_fsconfig, context, 6u /* CMD_CREATE */, NULL, NULL, 0));
        return r < 0 ? r : NEG((int)syscall(SYS_fsmount, context, 1u /* FSMOUNT_CLOEXEC */, 0u));
    }
    struct sys_thread_start {
        void *(*run)(void *);
        void *arg;
    };
    /* A umask of its own (0: modes are the union's to decide), whatever the process' is. */
    static void *sys_thread_main(void *start) {
        struct sys_thread_start s = *(struct sys_thread_start *)start;
        free(start);
        if (unshare(CLONE_FS) == 0)
            umask(0);
        return s.run(s.arg);
    }
    /* Starts a detached thread with all signals blocked: signals belong to Python's main thread,
       but a fault to the thread that commits it. Blocked, it would end the process without the
       report of faulthandler or of a sanitizer. */
    static inline int sys_thread(void *(*run)(void *), void *arg, size_t stack) {
        struct sys_thread_start *start = malloc(sizeof *start);
        pthread_attr_t attr;
        pthread_t thread;
        sigset_t all, before;
        int r;
        if (start == NULL)
            return -ENOMEM;
        start->run = run;
        start->arg = arg;
        sigfillset(&all);
        sigdelset(&all, SIGSEGV);
        sigdelset(&all, SIGBUS);
        sigdelset(&all, SIGFPE);
        sigdelset(&all, SIGILL);
        pthread_attr_init(&attr);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attr, stack);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(&thread, &attr, sys_thread_main, start);
        if (r != 0)
            free(start);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attr);
        return -r;
    }
    struct linux_dirent64_ {
        uint64_t d_ino;
        int64_t d_off;
        unsigned short d_reclen;
        unsigned char d_type;
        char d_name[];
    };
    #endif
    """
    ctypedef struct TimeSpec "struct timespec":
        int64_t tv_sec
        long tv_nsec

    ctypedef struct StatTime "struct statx_timestamp":
        int64_t tv_sec
        uint32_t tv_nsec

    # statx(2)'s structure is the attribute record everywhere.
    ctypedef struct Stat "struct statx":
        uint32_t stx_mask
        uint32_t stx_blksize
        uint64_t stx_attributes
        uint32_t stx_nlink
        uint32_t stx_uid
        uint32_t stx_gid
        uint16_t stx_mode
        uint64_t stx_ino
        uint64_t stx_size
        uint64_t stx_blocks
        uint64_t stx_attributes_mask
        StatTime stx_atime
        StatTime stx_btime
        StatTime stx_ctime
        StatTime stx_mtime
        uint32_t stx_rdev_major
        uint32_t stx_rdev_minor
        uint32_t stx_dev_major
        uint32_t stx_dev_minor

    ctypedef struct StatFs "struct statfs":
        long f_type
        long f_bsize
        uint64_t f_blocks
        uint64_t f_bfree
        uint64_t f_bavail
        uint64_t f_files
        uint64_t f_ffree
        long f_namelen
        long f_frsize
        long f_flags

    ctypedef struct DirEntry "struct linux_dirent64_":
        uint64_t d_ino
        int64_t d_off
        unsigned short d_reclen
        unsigned char d_type
        char d_name[1]

    ctypedef struct IoVec "struct iovec":
        void *iov_base
        size_t iov_len

    ctypedef struct Mutex "pthread_mutex_t":
        pass
    ctypedef struct Cond "pthread_cond_t":
        pass
    ctypedef struct RwLock "pthread_rwlock_t":
        pass
    int rwlock_destroy "pthread_rwlock_destroy"(RwLock *) noexcept nogil
    int rwlock_rdlock "pthread_rwlock_rdlock"(RwLock *) noexcept nogil
    int rwlock_wrlock "pthread_rwlock_wrlock"(RwLock *) noexcept nogil
    int rwlock_unlock "pthread_rwlock_unlock"(RwLock *) noexcept nogil
    int mutex_init "pthread_mutex_init"(Mutex *, void *) noexcept nogil
    int mutex_destroy "pthread_mutex_destroy"(Mutex *) noexcept nogil
    int mutex_lock "pthread_mutex_lock"(Mutex *) noexcept nogil
    int mutex_trylock "pthread_mutex_trylock"(Mutex *) noexcept nogil
    int mutex_unlock "pthread_mutex_unlock"(Mutex *) noexcept nogil
    int cond_init "pthread_cond_init"(Cond *, void *) noexcept nogil
    int cond_destroy "pthread_cond_destroy"(Cond *) noexcept nogil
    int cond_wait "pthread_cond_wait"(Cond *, Mutex *) noexcept nogil
    int cond_signal "pthread_cond_signal"(Cond *) noexcept nogil
    int cond_broadcast "pthread_cond_broadcast"(Cond *) noexcept nogil
    int cond_timedwait "pthread_cond_timedwait"(Cond *, Mutex *, const TimeSpec *) noexcept nogil

    int sys_access(int dirfd, const char *path, int mode) noexcept nogil
    int sys_statx(int dirfd, const char *path, int flags, Stat *st) noexcept nogil
    int sys_open_beneath(int dirfd, const char *name, int flags, unsigned mode) noexcept nogil
    int sys_close(int fd) noexcept nogil
    int sys_eventfd() noexcept nogil
    void sys_give_back() noexcept nogil
    unsigned sys_umask(unsigned mask) noexcept nogil
    int sys_dup(int fd) noexcept nogil
    int sys_set_flags(int fd, int flags) noexcept nogil
    int sys_dup_over(int fd, int over) noexcept nogil
    int64_t sys_pread(int fd, void *buffer, size_t size, int64_t offset) noexcept nogil
    int64_t sys_cached(int fd, uint64_t offset, uint64_t size) noexcept nogil
    int sys_drop_cached(int fd, int64_t offset, int64_t size) noexcept nogil
    int64_t sys_pwrite(int fd, const void *buffer, size_t size, int64_t offset) noexcept nogil
    int64_t sys_read(int fd, void *buffer, size_t size) noexcept nogil
    int64_t sys_write(int fd, const void *buffer, size_t size) noexcept nogil
    int64_t sys_writev(int fd, const IoVec *vector, int count) noexcept nogil
    int64_t sys_lseek(int fd, int64_t offset, int whence) noexcept nogil
    int sys_pipe(int *ends) noexcept nogil
    int sys_pipe_size(int fd, int size) noexcept nogil
    int64_t sys_splice(int from_fd, int64_t *from_offset, int to_fd, size_t size) noexcept nogil
    int sys_fsync(int fd) noexcept nogil
    int sys_fdatasync(int fd) noexcept nogil
    int sys_sync_directory(int dirfd) noexcept nogil
    int sys_ftruncate(int fd, int64_t size) noexcept nogil
    int sys_truncate(int fd, int64_t size) noexcept nogil
    int sys_fallocate(int fd, int mode, int64_t offset, int64_t length) noexcept nogil
    int64_t sys_copy_file_range(int fd_in, int64_t *offset_in, int fd_out, int64_t *offset_out,
                                size_t length) noexcept nogil
    int sys_clone(int fd_out, int fd_in) noexcept nogil
    int sys_chmodfd(int fd, unsigned mode) noexcept nogil
    int sys_fchownat(int dirfd, const char *name, unsigned uid, unsigned gid) noexcept nogil
    int sys_utimens(int dirfd, const char *name, const TimeSpec *times) noexcept nogil
    void sys_times(const Stat *st, TimeSpec *times) noexcept nogil
    int sys_mknodat(int dirfd, const char *name, unsigned mode, uint64_t rdev) noexcept nogil
    int sys_mkdirat(int dirfd, const char *name, unsigned mode) noexcept nogil
    int sys_symlinkat(const char *target, int dirfd, const char *name) noexcept nogil
    int64_t sys_readlinkat(int dirfd, const char *name, char *buffer, size_t size) noexcept nogil
    int sys_unlinkat(int dirfd, const char *name, int flags) noexcept nogil
    int sys_linkat(int olddir, const char *old, int newdir, const char *name,
                   int flags) noexcept nogil
    int sys_linkfd(int fd, int newdir, const char *name) noexcept nogil
    int sys_reopen(int fd, int flags) noexcept nogil
    int sys_renameat2(int olddir, const char *old, int newdir, const char *name,
                      unsigned flags) noexcept nogil
    int sys_fstatfs(int fd, StatFs *st) noexcept nogil
    int64_t sys_getdents(int fd, void *buffer, size_t size) noexcept nogil
    int64_t sys_getxattr(int fd, const char *name, void *buffer, size_t size) noexcept nogil
    int64_t sys_listxattr(int fd, char *buffer, size_t size) noexcept nogil
    int sys_setxattr(int fd, const char *name, const void *value, size_t size,
                     int flags) noexcept nogil
    int sys_removexattr(int fd, const char *name) noexcept nogil
    int64_t sys_getxattrat(int dirfd, const char *name, const char *attr, void *buffer,
                           size_t size) noexcept nogil
    int64_t sys_listxattrat(int dirfd, const char *name, char *buffer, size_t size) noexcept nogil
    int sys_setxattrat(int dirfd, const char *name, const char *attr, const void *value,
                       size_t size, int flags) noexcept nogil
    uint64_t sys_makedev(unsigned major, unsigned minor) noexcept nogil
    unsigned sys_major(uint64_t rdev) noexcept nogil
    unsigned sys_minor(uint64_t rdev) noexcept nogil
    uint64_t sys_monotonic_ns() noexcept nogil
    void rwlock_init(RwLock *lock) noexcept nogil
    int sys_send_fd(int socket, int fd, const void *data, size_t size) noexcept nogil
    int sys_receive_fd(int socket, int *fd, void *buffer, size_t size) noexcept nogil
    int sys_send(int socket, const void *data, size_t size) noexcept nogil
    int sys_receive(int socket, void *buffer, size_t size) noexcept nogil
    int sys_socketpair(int *ends) noexcept nogil
    int sys_fork() noexcept nogil
    void sys_name_process(const char *name) noexcept nogil
    void sys_exit() noexcept nogil
    int sys_wait_killed(int pid) noexcept nogil
    int sys_keep_only(int fd) noexcept nogil
    int sys_own_user_namespace() noexcept nogil
    int sys_open(const char *path, int flags) noexcept nogil
    int sys_fsopen(const char *kind) noexcept nogil
    int sys_fsconfig_flag(int context, const char *key) noexcept nogil
    int sys_fsconfig_string(int context, const char *key, const char *value) noexcept nogil
    int sys_fsmount(int context) noexcept nogil
    int sys_thread(void *(*run)(void *) noexcept nogil, void *arg, size_t stack) noexcept nogil

    const uint32_t STATX_BTIME
    const int AT_FDCWD
    const int W_OK
    const int AT_EMPTY_PATH
    const int AT_REMOVEDIR
    const int AT_SYMLINK_FOLLOW
    const int O_RDONLY, O_WRONLY, O_RDWR, O_ACCMODE, O_PATH, O_DIRECTORY, O_NOFOLLOW, O_CREAT
    const int O_EXCL, O_TRUNC, O_APPEND, O_NOATIME, O_NONBLOCK, O_TMPFILE, O_CLOEXEC, O_DIRECT
    const int O_SYNC, O_DSYNC
    const unsigned RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT
    const uint32_t S_IFMT, S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK
    const uint32_t S_IRUSR
    const uint64_t STATX_ATTR_IMMUTABLE, STATX_ATTR_APPEND
    const uint32_t S_ISUID, S_ISGID, S_IXGRP
    const uint32_t DT_UNKNOWN, DT_REG, DT_DIR, DT_LNK, DT_CHR, DT_BLK, DT_FIFO, DT_SOCK
    const long UTIME_NOW, UTIME_OMIT
    const int SEEK_DATA, SEEK_HOLE, SEEK_SET, SEEK_END
    const int XATTR_CREATE, XATTR_REPLACE
