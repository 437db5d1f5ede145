# cython: language_level=3
"""Files that the kernel reads and writes by itself (passthrough), and what that asks of a node."""
from unionfs._nodes cimport Node, Table
from unionfs._operations cimport Op

# Before the data of a node changes, or it gets one more name: 0; -ESTALE if another node has to be
# looked up for that.
cdef int backing_part(Table *t, Op *op, Node *n) noexcept nogil
