# cython: language_level=3
"""System calls that the module os does not have: those of mounting, and a few."""
from libc.stdint cimport uint64_t, uintptr_t

import os

cdef extern from "<errno.h>" nogil:
    int errno

cdef extern from "<sys/mount.h>" nogil:
    int c_mount "mount"(const char *source, const char *target, const char *kind,
                        unsigned long flags, const void *data)
    int c_umount "umount2"(const char *target, int flags)

cdef extern from "<unistd.h>" nogil:
    int c_syncfs "syncfs"(int fd)
    long syscall(long number, ...)

cdef extern from "<sys/syscall.h>" nogil:
    const long SYS_open_tree, SYS_mount_setattr, SYS_ioprio_set

cdef extern from "<sys/vfs.h>" nogil:
    cdef struct StatFs "statfs":
        unsigned long f_type
    int fstatfs(int fd, StatFs *st)

cdef extern from "<sched.h>" nogil:
    int c_setns "setns"(int fd, int kind)

cdef extern from "<fcntl.h>" nogil:
    const int AT_EMPTY_PATH
    const int O_CLOEXEC

cdef extern from "<sys/mman.h>" nogil:
    int c_madvise "madvise"(void *address, size_t length, int advice)

# Attributes of a mount, from <linux/mount.h>.
ATTR_RDONLY = 0x1
ATTR_ATIME = 0x70
ATTR_RELATIME = 0x0
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23
MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

cdef enum:
    IOPRIO_WHO_PROCESS = 1  # <linux/ioprio.h>; the priority 0 is what the CPU priority asks for
    OPEN_TREE_CLONE = 1     # <linux/mount.h>, which cannot be included beside <sys/mount.h>

cdef struct MountAttr:      # struct mount_attr of <linux/mount.h>
    uint64_t set
    uint64_t clear
    uint64_t propagation
    uint64_t userns_fd


cdef check(int result, int error, str path):
    if result < 0:
        raise OSError(error, os.strerror(error), path)


def mount(str source, str target, str kind, unsigned long flags, str data):
    cdef bytes c_source = os.fsencode(source)
    cdef bytes c_target = os.fsencode(target)
    cdef bytes c_kind = os.fsencode(kind)
    cdef bytes c_data = os.fsencode(data)
    cdef const char *source_p = c_source
    cdef const char *target_p = c_target
    cdef const char *kind_p = c_kind
    cdef const char *data_p = c_data
    cdef int result, error
    with nogil:
        result = c_mount(source_p, target_p, kind_p, flags, data_p)
        error = errno
    check(result, error, target)


def umount(str target, int flags=0):
    cdef bytes c_target = os.fsencode(target)
    cdef const char *target_p = c_target
    cdef int result, error
    with nogil:
        result = c_umount(target_p, flags)
        error = errno
    check(result, error, target)


def syncfs(int fd):
    cdef int result, error
    with nogil:
        result = c_syncfs(fd)
        error = errno
    check(result, error, None)


def filesystem(int fd):
    cdef StatFs st
    cdef int result, error
    with nogil:
        result = fstatfs(fd, &st)
        error = errno
    check(result, error, None)
    return st.f_type


def clone(int fd):
    cdef int result, error
    with nogil:
        result = <int>syscall(SYS_open_tree, fd, b"", AT_EMPTY_PATH | OPEN_TREE_CLONE | O_CLOEXEC)
        error = errno
    check(result, error, None)
    return result


def set_attributes(int fd, uint64_t wanted, uint64_t cleared):
    cdef MountAttr attr
    cdef int result, error
    attr.set = wanted
    attr.clear = cleared
    attr.propagation = attr.userns_fd = 0
    with nogil:
        result = <int>syscall(SYS_mount_setattr, fd, b"", AT_EMPTY_PATH, &attr, sizeof(attr))
        error = errno
    check(result, error, None)


def setns(int fd, int kind):
    check(c_setns(fd, kind), errno, None)


def madvise(uintptr_t start, size_t length, int advice):
    cdef int result, error
    with nogil:
        result = c_madvise(<void *>start, length, advice)
        error = errno
    check(result, error, None)


def reset_io_priority():
    check(<int>syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0), errno, None)
