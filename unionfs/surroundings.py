"""What a process has from its caller, and a mount must not have: it serves others too.

Kernel overlayfs applies the limits, the priority and the umask of whoever makes a call, never
those of whoever mounted.  So a process that serves a mount gives back what it may: `leave`.
`limits_that_bite` says in words what it may not.  The environment is the business of
programs/command.c: what it does to an interpreter is done before this module is there.

CPU affinity and the control group stay the caller's: they are where an administrator puts a mount.
"""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from unionfs import _mount

# A process that has used up its time gets SIGXCPU, which unmounts, and SIGKILL so much later.
# In seconds of CPU time.
_TIME_TO_UNMOUNT: Final = 5
# With fewer descriptors a mount has none left for files that are open and have no name.
_FEW_DESCRIPTORS: Final = 256
#: What root raises a lower hard limit to.
_ENOUGH_DESCRIPTORS: Final = 4096
#: Python ignores them, and so do we: a write that meets them returns an error.
_IGNORED: Final = {signal.SIGPIPE, signal.SIGXFSZ}
#: What cannot be handled, and what reports a fault: a sanitizer's handlers, and faulthandler's.
_LEFT: Final = {
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE),
    *(signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS),
}

#: What every limit is raised to; what it means for a mount where it cannot be.
_LIMITS: Final = {
    resource.RLIMIT_FSIZE: "no file on the mount can grow beyond {} bytes (ulimit -Hf)",
    resource.RLIMIT_CPU: "the mount ends when it has used {} s of CPU time (ulimit -Ht)",
    resource.RLIMIT_AS: "the mount fails when it needs more than {} bytes of memory (ulimit -Hv)",
    resource.RLIMIT_DATA: "the mount fails when it needs more than {} bytes of memory (ulimit -Hd)",
}


def leave() -> None:
    """Give back what this process has from its caller, for good: it is to serve a mount.

    Called while there is one thread: priorities are those of a thread.
    """
    os.chdir("/")  # a caller's directory could not be unmounted
    os.umask(0)  # whoever creates a file has a umask of his own
    raise_limits()
    reset_signals()
    with suppress(OSError):
        if os.sched_getscheduler(0) in (os.SCHED_BATCH, os.SCHED_IDLE):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) > 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    with suppress(OSError):
        _mount.reset_io_priority()


def raise_limits() -> None:
    """Raise every limit that could meet others' work: to none, else to the hard one."""
    for limit in _LIMITS:
        if not _set(limit, resource.RLIM_INFINITY, resource.RLIM_INFINITY):
            _, hard = resource.getrlimit(limit)
            spare = _TIME_TO_UNMOUNT if limit == resource.RLIMIT_CPU else 0
            _set(limit, max(1, hard - spare), hard)
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_NPROC):
        soft, hard = resource.getrlimit(limit)
        if limit == resource.RLIMIT_NOFILE and hard < _ENOUGH_DESCRIPTORS:
            _set(limit, _ENOUGH_DESCRIPTORS, _ENOUGH_DESCRIPTORS)
            soft, hard = resource.getrlimit(limit)
        if soft != hard:
            _set(limit, hard, hard)


def _set(limit: int, soft: int, hard: int) -> bool:
    """False for more than this process may have."""
    try:
        resource.setrlimit(limit, (soft, hard))
    except (OSError, ValueError):  # of errno EPERM the module resource makes a ValueError
        return False
    return True


def limits_that_bite() -> Iterator[str]:
    """What the limits that this process could not raise mean for the mount, in words."""
    for limit, text in _LIMITS.items():
        _, hard = resource.getrlimit(limit)
        if hard != resource.RLIM_INFINITY:
            yield text.format(hard)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _FEW_DESCRIPTORS:
        yield f"only some {hard} files can be open on the mount at once (ulimit -Hn)"


def reset_signals() -> None:
    """Signals do what they do in a new process, whatever was made of them."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - _LEFT:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup(1) is meant for whoever it starts
        signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
