# cython: language_level=3
"""Copies with an ACL that a user namespace cannot write, made by kernel overlayfs.

An ACL may name users whom the daemon's user namespace does not know. Reading it gives (uid_t)-1 for
them, and writing that is EINVAL: no system call takes such an ACL from one file to another. The
kernel's own copy-up does (ovl_copy_acl()), and a user namespace may mount overlayfs since Linux
5.11: over the directory of the file, with an upper in the work directory, nowhere in the tree.
"""
from libc.stdint cimport uint32_t

from unionfs._nodes cimport Table

# If a file of a lower has such an ACL, a copy of it is made in the work directory, with its owner
# and its ACLs and without data, and `copy` becomes its name (WORK_NAME bytes); then 1. `lower` is
# the file's directory, `source` the file. 0: it has none, or overlayfs cannot do it (in the log).
# WOULD_WAIT without may_wait: it takes some milliseconds, in which the kernel waits for RCU.
cdef int overlay_copy(Table *t, int lower, const char *name, int source, uint32_t type_,
                      bint may_wait, char *copy) noexcept nogil
