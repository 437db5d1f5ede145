# cython: language_level=3
"""Ids of users and groups between the branches and the mount; see the declarations.

Besides owners, two kinds of extended attributes hold ids: POSIX ACLs (<linux/posix_acl_xattr.h>)
and capabilities, which count only where user 0 is the one they name (capabilities(7), "File
capability extended attribute versioning"). All numbers in them are little-endian.
"""
from libc.errno cimport EINVAL, ENODATA, EOVERFLOW, EPERM
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove

cdef extern from "<endian.h>" nogil:
    uint16_t le16toh(uint16_t)
    uint32_t le32toh(uint32_t)
    uint32_t htole32(uint32_t)

cdef enum:
    ACL_HEADER = 4              # the version
    ACL_USER = 0x02
    ACL_GROUP_OBJ = 0x04
    ACL_GROUP = 0x08
    ACL_MASK = 0x10
    ACL_OTHER = 0x20
    ROOT_OFFSET = 20            # of the root user's id in a capability, its last member
    REVISION_MASK = 0xFF000000u
    REVISION_2 = 0x02000000     # without a root user: it is user 0
    REVISION_3 = 0x03000000

cdef struct AclEntry:
    uint16_t tag
    uint16_t permissions
    uint32_t id


cdef IdMap no_map       # which leaves every id as it is


cdef uint32_t id_show(const IdMap *map_, uint32_t id) noexcept nogil:
    cdef uint32_t i
    if map_.count == 0:
        return id
    for i in range(map_.count):
        if id - map_.ranges[i].disk < map_.ranges[i].count:
            return map_.ranges[i].shown + (id - map_.ranges[i].disk)
    return NO_ID


cdef uint32_t id_store(const IdMap *map_, uint32_t id) noexcept nogil:
    cdef uint32_t i
    if map_.count == 0:
        return id
    for i in range(map_.count):
        if id - map_.ranges[i].shown < map_.ranges[i].count:
            return map_.ranges[i].disk + (id - map_.ranges[i].shown)
    return NO_ID


cdef uint32_t id_show_owner(const IdMap *map_, uint32_t id) noexcept nogil:
    return map_.squash_to if map_.squash else id_show(map_, id)


cdef int64_t acl_map(const IdMap *uids, const IdMap *gids, char *value, int64_t size,
                     bint show) noexcept nogil:
    cdef int64_t at = ACL_HEADER, out = ACL_HEADER
    cdef AclEntry entry
    cdef const IdMap *map_
    while at + <int64_t>sizeof(AclEntry) <= size:
        memcpy(&entry, value + at, sizeof(AclEntry))
        at += sizeof(AclEntry)
        map_ = NULL
        if le16toh(entry.tag) == ACL_USER:
            map_ = uids
        elif le16toh(entry.tag) == ACL_GROUP:
            map_ = gids
        if map_ != NULL:
            entry.id = le32toh(entry.id)
            entry.id = id_show(map_, entry.id) if show else id_store(map_, entry.id)
            if entry.id == NO_ID and show:
                continue        # it is about nobody here, and the kernel would refuse all of it
            if entry.id == NO_ID:
                return -EINVAL
            entry.id = htole32(entry.id)
        memcpy(value + out, &entry, sizeof(AclEntry))
        out += sizeof(AclEntry)
    # What is no whole entry is for the kernel, or the branch, to refuse.
    if at < size:
        memmove(value + out, value + at, <size_t>(size - at))
        out += size - at
    return min(out, size)


cdef int64_t acl_show(const IdMap *uids, const IdMap *gids, char *value,
                      int64_t size) noexcept nogil:
    return acl_map(uids, gids, value, size, True)


cdef int64_t acl_store(const IdMap *uids, const IdMap *gids, char *value,
                       int64_t size) noexcept nogil:
    return acl_map(uids, gids, value, size, False)


cdef inline bint read_entry(const char *value, int64_t size, int64_t at,
                            AclEntry *entry) noexcept nogil:
    if at + <int64_t>sizeof(AclEntry) > size:
        return False
    memcpy(entry, value + at, sizeof(AclEntry))
    entry.tag = le16toh(entry.tag)
    entry.permissions = le16toh(entry.permissions)
    entry.id = le32toh(entry.id)
    return True


cdef inline bint is_unknown(const AclEntry *entry) noexcept nogil:
    """getxattr(2) gives (uid_t)-1 for such an id (vfs_posix_acl_to_xattr() in the kernel)."""
    return entry.id == NO_ID and (entry.tag == ACL_USER or entry.tag == ACL_GROUP)


cdef bint acl_names_unknown(const char *value, int64_t size) noexcept nogil:
    cdef int64_t at = ACL_HEADER
    cdef AclEntry entry
    while read_entry(value, size, at, &entry):
        if is_unknown(&entry):
            return True
        at += sizeof(AclEntry)
    return False


cdef int64_t acl_forget(char *value, int64_t size) noexcept nogil:
    cdef int64_t at = ACL_HEADER
    cdef uint16_t mask = 7, groups = 0, others = 0, left
    cdef AclEntry entry
    while read_entry(value, size, at, &entry):
        if entry.tag == ACL_MASK:
            mask = entry.permissions
        elif entry.tag == ACL_OTHER:
            others = entry.permissions
        elif entry.tag == ACL_GROUP_OBJ or (entry.tag == ACL_GROUP and entry.id != NO_ID):
            groups |= entry.permissions
        at += sizeof(AclEntry)
    at = ACL_HEADER
    while read_entry(value, size, at, &entry):
        if is_unknown(&entry):
            # acl(5): a user's entry outranks those of groups, which add up and outrank the others'.
            left = others if entry.tag == ACL_GROUP else others | (groups & mask)
            if left & ~(entry.permissions & mask):
                return -EOVERFLOW
        at += sizeof(AclEntry)
    return acl_show(&no_map, &no_map, value, size)


cdef bint capability_root(const char *value, int64_t size, uint32_t *magic,
                          uint32_t *root) noexcept nogil:
    """Reads the revision and whose user 0 is meant; False: not a capability that has one."""
    if size < ROOT_OFFSET:
        return False
    memcpy(magic, value, sizeof(uint32_t))
    magic[0] = le32toh(magic[0])
    root[0] = 0
    if magic[0] & REVISION_MASK == REVISION_2:
        return size == ROOT_OFFSET
    if magic[0] & REVISION_MASK != REVISION_3 or size != CAPABILITY_SIZE:
        return False
    memcpy(root, value + ROOT_OFFSET, sizeof(uint32_t))
    root[0] = le32toh(root[0])
    return True


cdef int64_t capability_write(char *value, uint32_t magic, uint32_t root) noexcept nogil:
    cdef uint32_t revision = REVISION_3 if root else REVISION_2
    magic = htole32((magic & ~<uint32_t>REVISION_MASK) | revision)
    memcpy(value, &magic, sizeof(uint32_t))
    if root == 0:
        return ROOT_OFFSET
    root = htole32(root)
    memcpy(value + ROOT_OFFSET, &root, sizeof(uint32_t))
    return CAPABILITY_SIZE


cdef int64_t capability_show(const IdMap *uids, char *value, int64_t size) noexcept nogil:
    cdef uint32_t magic, root
    if not capability_root(value, size, &magic, &root):
        return size
    root = id_show(uids, root)
    # Of nobody's root: it gives nobody anything (get_vfs_caps_from_disk() in the kernel).
    return -ENODATA if root == NO_ID else capability_write(value, magic, root)


cdef int64_t capability_store(const IdMap *uids, char *value, int64_t size) noexcept nogil:
    cdef uint32_t magic, root
    if not capability_root(value, size, &magic, &root):
        return size
    root = id_store(uids, root)
    return -EPERM if root == NO_ID else capability_write(value, magic, root)
