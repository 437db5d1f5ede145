# cython: language_level=3
"""What passthrough asks of a node.

The kernel takes one backing file for all that have a node open. So what is once open by way of us
stays so until the last one closes it, and the other way round. And a lower file that the kernel
reads by itself cannot turn into its copy: who wants to change the data gets another node. The name
leaves the one that is open, ESTALE has the kernel look the name up again (open(2), truncate(2) and
link(2) try once more by themselves), and who has the file open keeps reading what he opened, as
with kernel overlayfs. Such a node has one name only, for the kernel would not look up another one
again; so who gives it a second name, too, gets another node first.
"""
from libc.errno cimport ESTALE

from unionfs._copy cimport settle
from unionfs._descriptors cimport fd_close_doomed
from unionfs._nodes cimport (
    Fd,
    Node,
    Table,
    change_end_locked,
    name_remove_locked,
    node_set_key_locked,
)
from unionfs._operations cimport Op
from unionfs._remove cimport hold_names
from unionfs._sys cimport mutex_lock, mutex_unlock, sys_close


cdef int part(Table *t, Op *op, Node *n) noexcept nogil:
    """The node gives up its name, and keeps the file that is open: -ESTALE, a Verdict, -errno."""
    cdef Fd *doomed = NULL
    cdef int fd, r = settle(t, n, op.may_wait)
    if r == 0:
        r = hold_names(t, op, n, NULL, n, &fd)
    if r != 0:
        return r
    mutex_lock(&t.lock)
    if n.names != NULL and n.orphan_fd < 0:
        n.orphan_fd = fd
        t.orphans += 1
        n.parted = True
        fd = -1
        node_set_key_locked(t, n, 0)
        while n.names != NULL:
            n.names.parent.dir.changes += 1
            name_remove_locked(t, n.names, &doomed)
    change_end_locked(t, n)
    mutex_unlock(&t.lock)
    fd_close_doomed(t, doomed)
    if fd >= 0:
        sys_close(fd)
    return -ESTALE


cdef int backing_part(Table *t, Op *op, Node *n) noexcept nogil:
    """See the declaration."""
    if n.parted:
        return -ESTALE
    if n.backing and n.backed_lower:
        return part(t, op, n)
    return 0
