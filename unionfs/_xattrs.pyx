# cython: language_level=3
"""Extended attributes between the union and its branches.

Names that say something to a union (``trusted.overlay.*`` and the like) are private: not listed,
not readable, never copied up. When an application on the mount uses such a name itself, as a union
in the union does, it is stored escaped, the way the kernel does it: ``trusted.overlay.x`` as
``trusted.overlay.overlay.x`` (overlayfs.rst, "Nesting overlayfs mounts").
"""
from libc.errno cimport ENODATA, ENOMEM, EOPNOTSUPP, EPERM, ERANGE
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memmove, strcmp, strlen, strncmp

from unionfs._idmap cimport acl_forget, acl_show, acl_store, capability_show, capability_store
from unionfs._nodes cimport Table
from unionfs._sys cimport sys_getxattr, sys_listxattr, sys_setxattr

cdef enum:
    PRIVATE_PREFIXES = 7

cdef const char **prefixes = [
    b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.",
    b"trusted.unionfs.", b"user.unionfs.", b"security.fuseoverlayfs.",
    b"user.containers.override_"]
cdef const char **escapes = [
    b"overlay.", b"overlay.", b"fuseoverlayfs.", b"unionfs.", b"unionfs.", b"fuseoverlayfs.",
    b"override_"]


cdef inline int private_prefix(const char *name) noexcept nogil:
    cdef int i
    for i in range(PRIVATE_PREFIXES):
        if strncmp(name, prefixes[i], strlen(prefixes[i])) == 0:
            return i
    return -1


cdef inline bint is_escaped(const char *stored, int i) noexcept nogil:
    return strncmp(stored + strlen(prefixes[i]), escapes[i], strlen(escapes[i])) == 0


cdef int xattr_to_disk(const char *shown, char *stored) noexcept nogil:
    """A branch's name for an attribute, into XATTR_NAME_SIZE bytes; -ERANGE: it is too long."""
    cdef int i = private_prefix(shown)
    cdef size_t length = strlen(shown), prefix, escape
    if length >= XATTR_NAME_SIZE:
        return -ERANGE
    memmove(stored, shown, length + 1)
    if i < 0:
        return 0
    prefix = strlen(prefixes[i])
    escape = strlen(escapes[i])
    if length + escape >= XATTR_NAME_SIZE:
        return -ERANGE
    memmove(stored + prefix + escape, shown + prefix, length - prefix + 1)
    memmove(stored + prefix, escapes[i], escape)
    return 0


cdef bint xattr_is_private(const char *stored) noexcept nogil:
    cdef int i = private_prefix(stored)
    return i >= 0 and not is_escaped(stored, i)


cdef int64_t xattr_show_list(const Table *t, char *names, int64_t size,
                             bint trusted) noexcept nogil:
    """Turns a branch's list of names into what the union shows, in place; the new length.

    Without `trusted` those are left out that are for privileged callers only (xattr(7)).
    """
    cdef int64_t at = 0, out = 0, length
    cdef size_t prefix, escape
    cdef int i
    while at < size:
        length = <int64_t>strlen(names + at) + 1
        i = private_prefix(names + at)
        if not trusted and strncmp(names + at, b"trusted.", 8) == 0:
            pass
        elif not t.acls and xattr_is_acl(names + at):
            pass
        elif i < 0:
            memmove(names + out, names + at, length)
            out += length
        elif is_escaped(names + at, i):
            prefix = strlen(prefixes[i])
            escape = strlen(escapes[i])
            memmove(names + out, names + at, prefix)
            memmove(names + out + prefix, names + at + prefix + escape, length - prefix - escape)
            out += length - <int64_t>escape
        at += length
    return out


cdef bint xattr_is_acl(const char *name) noexcept nogil:
    return strcmp(name, b"system.posix_acl_access") == 0 or (
        strcmp(name, b"system.posix_acl_default") == 0)


cdef bint xattr_has_ids(const Table *t, const char *name) noexcept nogil:
    if xattr_is_acl(name):
        return t.maps_ids or t.unmapped != NULL
    return t.maps_ids and strcmp(name, b"security.capability") == 0


cdef int64_t xattr_show_ids(const Table *t, const char *name, char *value,
                            int64_t size) noexcept nogil:
    if xattr_is_acl(name):
        return acl_show(&t.uids, &t.gids, value, size)
    return capability_show(&t.uids, value, size)


cdef int64_t xattr_store_ids(const Table *t, const char *name, char *value,
                             int64_t size) noexcept nogil:
    if xattr_is_acl(name):
        return acl_store(&t.uids, &t.gids, value, size)
    return capability_store(&t.uids, value, size)


cdef bint may_stay_behind(const Table *t, const char *name, int error) noexcept nogil:
    """Is this a value that can never travel to the upper, rather than one that got lost?"""
    if error == -EOPNOTSUPP:
        return True
    if error != -EPERM:
        return False
    if strncmp(name, b"security.", 9) == 0:
        return True
    return strncmp(name, b"trusted.", 8) == 0 and not t.trusted


cdef int xattr_copy_all(Table *t, int from_fd, int to_fd, bint acls) noexcept nogil:
    """Copies every attribute but the private ones, ACLs if they are asked for."""
    cdef char *names
    cdef char *value
    cdef int64_t size, length, at = 0
    cdef int r = 0
    size = sys_listxattr(from_fd, NULL, 0)
    if size == -EOPNOTSUPP or size == 0:
        return 0
    if size < 0:
        return <int>size
    names = <char *>malloc(2 * XATTR_LIMIT)
    if names == NULL:
        return -ENOMEM
    value = names + XATTR_LIMIT
    size = sys_listxattr(from_fd, names, XATTR_LIMIT)
    if size < 0:
        r = <int>size
    while r == 0 and at < size:
        if not xattr_is_private(names + at) and (acls or not xattr_is_acl(names + at)):
            length = sys_getxattr(from_fd, names + at, value, XATTR_LIMIT)
            if length > 0 and t.unmapped != NULL and xattr_is_acl(names + at):
                length = acl_forget(value, length)
            if length >= 0:
                r = sys_setxattr(to_fd, names + at, value, <size_t>length, 0)
            elif length != -ENODATA:
                r = <int>length
            if r < 0 and may_stay_behind(t, names + at, r):
                r = 0
        at += <int64_t>strlen(names + at) + 1
    free(names)
    return r


cdef bint xattr_is_listed(int fd, const char *name) noexcept nogil:
    """Listing, unlike reading, asks for no right to the file. A list too long may have it."""
    cdef char names[4096]
    cdef int64_t size = sys_listxattr(fd, names, sizeof(names)), at = 0
    while at < size and strcmp(names + at, name) != 0:
        at += <int64_t>strlen(names + at) + 1
    return at < size or size == -ERANGE


cdef const char *xattr_origin(const Table *t) noexcept nogil:
    """The st_ino that a copied-up file had below (decimal)."""
    return b"trusted.unionfs.origin" if t.trusted else b"user.unionfs.origin"


cdef const char *xattr_impure(const Table *t) noexcept nogil:
    """On an upper directory: it may hold files with an origin."""
    return b"trusted.unionfs.impure" if t.trusted else b"user.unionfs.impure"


cdef const char *xattr_plain(const Table *t) noexcept nogil:
    """On a file whose name begins with ``.wh.``: it is no mark, an application called it so."""
    return b"trusted.unionfs.plain" if t.trusted else b"user.unionfs.plain"
