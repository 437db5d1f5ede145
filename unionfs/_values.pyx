# cython: language_level=3
"""Extended attributes of one node, as they are on the mount.

What names and values become on disk is in _xattrs.pyx.
"""
from libc.errno cimport ENODATA, ENOMEM, EOPNOTSUPP, ERANGE
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strcmp, strncmp

from unionfs._descriptors cimport ref_drop
from unionfs._guard cimport guard_change
from unionfs._identity cimport keep_origin
from unionfs._idmap cimport CAPABILITY_SIZE
from unionfs._lookup cimport need_upper
from unionfs._nodes cimport Node, Ref, Table
from unionfs._operations cimport WHOLE_SIZE, Op
from unionfs._owner cimport owner_chmod, owner_stat
from unionfs._reach cimport node_getxattr, node_listxattr, node_path_ref, node_set_xattr
from unionfs._sys cimport (
    S_ISGID,
    Stat,
    rwlock_rdlock,
    rwlock_unlock,
    rwlock_wrlock,
    sys_removexattr,
    sys_setxattr,
)
from unionfs._xattrs cimport (
    XATTR_LIMIT,
    XATTR_NAME_SIZE,
    xattr_has_ids,
    xattr_is_acl,
    xattr_show_ids,
    xattr_show_list,
    xattr_store_ids,
    xattr_to_disk,
)


cdef int64_t get_with_ids(Table *t, Node *n, const char *name, char *buffer,
                          size_t size) noexcept nogil:
    cdef char *value = <char *>malloc(XATTR_LIMIT)
    cdef int64_t r
    if value == NULL:
        return -ENOMEM
    r = node_getxattr(t, n, name, value, XATTR_LIMIT)
    if r > 0:
        r = xattr_show_ids(t, name, value, r)
    if r > 0 and size:
        if <size_t>r > size:
            r = -ERANGE
        else:
            memcpy(buffer, value, <size_t>r)
    free(value)
    return r


cdef int64_t value_get(Table *t, Node *n, const char *name, char *buffer,
                       size_t size) noexcept nogil:
    cdef char stored[XATTR_NAME_SIZE]
    cdef bint privileged = strcmp(name, b"security.capability") == 0
    cdef int64_t r
    if not t.acls and xattr_is_acl(name):
        return -EOPNOTSUPP
    if xattr_to_disk(name, stored) < 0:
        return -ENODATA         # too long to have been stored
    if privileged:
        rwlock_rdlock(&t.privileges)    # late_write() takes it away for a moment
    if xattr_has_ids(t, name):
        r = get_with_ids(t, n, name, buffer, size)
    else:
        r = node_getxattr(t, n, stored, buffer, size)
    if privileged:
        rwlock_unlock(&t.privileges)
    return r


cdef int64_t value_list(Table *t, const Op *op, Node *n, char *buffer,
                        size_t size) noexcept nogil:
    cdef char *names
    cdef int64_t r = node_listxattr(t, n, NULL, 0)
    if r <= 0:
        return r
    names = <char *>malloc(XATTR_LIMIT)
    if names == NULL:
        return -ENOMEM
    r = node_listxattr(t, n, names, XATTR_LIMIT)
    if r > 0:
        r = xattr_show_list(t, names, r, op == NULL or op.uid == 0)
    if r > 0 and size:
        if <size_t>r > size:
            r = -ERANGE
        else:
            memcpy(buffer, names, <size_t>r)
    free(names)
    return r


cdef int store_xattr(Table *t, int fd, const char *name, const char *value, size_t size,
                     int flags) noexcept nogil:
    """setxattr(2) of a value as it is on the mount."""
    cdef char *mapped
    cdef int64_t r
    if not xattr_has_ids(t, name):
        return sys_setxattr(fd, name, value, size, flags)
    mapped = <char *>malloc(size + CAPABILITY_SIZE)
    if mapped == NULL:
        return -ENOMEM
    memcpy(mapped, value, size)
    r = xattr_store_ids(t, name, mapped, <int64_t>size)
    if r >= 0:
        r = sys_setxattr(fd, name, mapped, <size_t>r, flags)
    free(mapped)
    return <int>r


cdef int value_set(Table *t, Op *op, Node *n, const char *name, const char *value,
                   size_t size, int flags, bint kill_sgid) noexcept nogil:
    cdef char stored[XATTR_NAME_SIZE]
    cdef Ref ref
    cdef Stat st
    cdef bint privileged = kill_sgid or strcmp(name, b"security.capability") == 0
    cdef int r = xattr_to_disk(name, stored)
    if not t.acls and xattr_is_acl(name):
        r = -EOPNOTSUPP
    if r == 0:
        r = guard_change(n)
    if r == 0:
        r = need_upper(t, op, n, WHOLE_SIZE)
    if r == 0:
        r = node_path_ref(t, n, &ref)
    if r != 0:
        return r
    if strcmp(name, b"system.posix_acl_access") == 0:
        r = keep_origin(t, n, ref.fd, 0)        # it sets the mode as well
    if privileged:
        rwlock_wrlock(&t.privileges)
    if r == 0:
        r = store_xattr(t, ref.fd, stored, value, size, flags)
    node_set_xattr(t, n)
    if r == 0 and kill_sgid:
        r = owner_stat(t, 0, ref.fd, &st)
        if r == 0 and st.stx_mode & S_ISGID:
            r = owner_chmod(t, ref.fd, st.stx_mode & 0o7777 & ~S_ISGID)
    if privileged:
        rwlock_unlock(&t.privileges)
    ref_drop(t, &ref)
    return r


cdef int value_remove(Table *t, Op *op, Node *n, const char *name) noexcept nogil:
    cdef char stored[XATTR_NAME_SIZE]
    cdef Ref ref
    cdef bint privileged = strcmp(name, b"security.capability") == 0
    cdef int64_t r = xattr_to_disk(name, stored)
    if r < 0:
        return -ENODATA
    # What is not there is not worth a copy-up. (Removing an ACL that is not there succeeds,
    # acl(5).)
    r = value_get(t, n, name, NULL, 0)
    if r == -ENODATA and strncmp(name, b"system.posix_acl_", 17) == 0:
        return 0
    if r >= 0:
        r = guard_change(n)
    if r < 0:
        return <int>r
    r = need_upper(t, op, n, WHOLE_SIZE)
    if r == 0:
        r = node_path_ref(t, n, &ref)
    if r != 0:
        return <int>r
    if privileged:
        rwlock_wrlock(&t.privileges)
    r = sys_removexattr(ref.fd, stored)
    if privileged:
        rwlock_unlock(&t.privileges)
    node_set_xattr(t, n)
    ref_drop(t, &ref)
    return <int>r
