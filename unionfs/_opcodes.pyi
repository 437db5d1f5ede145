"""The typed face of the table of opcodes."""

from typing import NamedTuple

class Opcode(NamedTuple):
    """How one request of the FUSE protocol is answered."""

    number: int
    name: str  #: as the kernel's header has it, without FUSE_
    #: "native": on the thread that read it, wherever it need not wait; "pool": always on the
    #: pool; "declined": a deliberate ENOSYS; "unanswered": the protocol has no reply to it.
    how: str
    why: str  #: the reason, where there is something to say

OPCODES: tuple[Opcode, ...]
