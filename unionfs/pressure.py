"""Hear from the kernel that memory is short.

Pressure stall information (Documentation/accounting/psi.rst): the kernel counts the time in which
tasks wait for memory, of the machine and of each control group, and tells whoever has asked when
it is much.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

#: 200 ms of waiting within 2 s, as systemd asks.  Who is not privileged may ask for windows of
#: whole 2 s only (Linux 6.5).  It is a string of C.
_TRIGGER = b"some 200000 2000000\0"

_MACHINE = "/proc/pressure/memory"
_GROUPS = "/proc/self/cgroup"
_GROUP_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


@contextmanager
def watched() -> Iterator[list[int]]:
    """Descriptors that poll(2) has POLLPRI for, once in 2 s at most, while memory is short.

    Of the machine and of this process's own control group; of neither where the kernel keeps no
    count or does not tell this user.  POLLERR beside it: that control group is gone, for good.
    """
    with ExitStack() as undo:
        fds = []
        for path in (_MACHINE, *_own_group()):
            with suppress(OSError):
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                undo.callback(os.close, fd)
                os.write(fd, _TRIGGER)
                fds.append(fd)
        yield fds


def _own_group() -> Iterator[str]:
    """Where the pressure in this process's control group (version 2) may be found."""
    with suppress(OSError), open(_GROUPS, errors="surrogateescape") as file:
        for line in file:
            hierarchy, _, path = line.rstrip("\n").partition("::")
            if hierarchy == "0":
                for mount in _GROUP_MOUNTS:
                    yield f"{mount}{path.rstrip('/')}/memory.pressure"
