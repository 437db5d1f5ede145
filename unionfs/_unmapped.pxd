# cython: language_level=3
"""Owners of files on the branches that the daemon's user namespace has no id for.

statx(2) shows them with the overflow ids (65534, user_namespaces(7)), which a namespace of many ids
gives to somebody too: what is shown as his may be real root's. Whose it is tells another look from
a namespace below, in which the same ids are what they are here but for the overflow ids. A process
lives there, the lookout, from the first file on whose owner is in question.
"""
from libc.stdint cimport uint32_t

from unionfs._sys cimport Mutex, Stat

cdef struct Unmapped:
    uint32_t uid            # the overflow ids
    uint32_t gid
    char *uid_map           # of the lookout's namespace; NULL: nobody here has an overflow id
    char *gid_map
    bint told               # that ACLs cannot be copied has been logged
    bint believed           # records on such owners' files count (_override.pxd)
    bint overrides          # the daemon has every right to files of owners with an id
    Mutex lock              # of what is below; held while the lookout is asked
    bint failed             # the lookout cannot be started
    int socket              # the lookout's, -1: there is none
    int pid

# The maps are lines of uid_map and gid_map (user_namespaces(7)). NULL when memory is short.
cdef Unmapped *unmapped_new(uint32_t uid, uint32_t gid, const char *uid_map,
                            const char *gid_map) noexcept nogil
cdef void unmapped_free(Unmapped *u) noexcept nogil

# A group without an id on the mount: it becomes the overflow group where its members, if it
# has any here, have the same rights as others. Unlike NO_ID it leaves the file to its owner.
cdef void unmapped_show_group(const Unmapped *u, Stat *st) noexcept nogil

cdef void unmapped_ask(Unmapped *u, int dirfd, const char *file, Stat *st) noexcept nogil

# The file in a directory, or behind the descriptor if `file` is empty, has been asked for its
# attributes: an owner or group without an id here becomes NO_ID, and so does one of which that
# cannot be told. NULL: every owner has an id.
cdef inline void unmapped_show(Unmapped *u, int dirfd, const char *file, Stat *st) noexcept nogil:
    if u != NULL and (st.stx_uid == u.uid or st.stx_gid == u.gid):
        unmapped_ask(u, dirfd, file, st)
