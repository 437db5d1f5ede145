"""System calls that not every kernel has: the same results without them.

The tests of extended attributes run again in a process for which a seccomp filter makes the calls
fail as they do on an older kernel, or in a container whose filter has never heard of them.
"""

import ctypes
import errno
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# linux/prctl.h, linux/seccomp.h, linux/filter.h
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO = 0x0005_0000
SECCOMP_RET_ALLOW = 0x7FFF_0000
LOAD_WORD = 0x20
JUMP_IF_GREATER_OR_EQUAL = 0x35
JUMP_IF_GREATER = 0x25
RETURN = 0x06

SETXATTRAT = 463  # the first of four, numbered alike on all architectures but alpha
REMOVEXATTRAT = 466


def refuse_xattrat(error: int) -> Callable[[], None]:
    """What a child runs before exec: setxattrat(2) to removexattrat(2) are `error`."""
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
            (JUMP_IF_GREATER, 2, 0, REMOVEXATTRAT),
            (JUMP_IF_GREATER_OR_EQUAL, 0, 1, SETXATTRAT),
            (RETURN, 0, 0, SECCOMP_RET_ERRNO | error),
            (RETURN, 0, 0, SECCOMP_RET_ALLOW),
        )
    )
    code = ctypes.create_string_buffer(program)
    filter_ = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)

    def install() -> None:
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
            PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(filter_), 0, 0
        ):
            raise OSError(ctypes.get_errno(), "seccomp")
        assert code  # the kernel has read it by now

    return install


CHECK = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall({SETXATTRAT + 1}, -1, b"", 0, b"", None, 0) == -1
print(os.strerror(ctypes.get_errno()))
"""


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=["ENOSYS", "EPERM"])
def test_attributes_without_getxattrat(error: int) -> None:
    install = refuse_xattrat(error)
    said = subprocess.run(
        [sys.executable, "-c", CHECK], preexec_fn=install, capture_output=True, text=True
    )
    assert said.stdout.strip() == {errno.ENOSYS: "Function not implemented"}.get(
        error, "Operation not permitted"
    )
    here = Path(__file__).parent
    tests = [str(here / f"test_{noun}.py") for noun in ("xattrs", "identity", "overrides")]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        preexec_fn=install,
        capture_output=True,
        text=True,
        cwd=here.parent.parent,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
