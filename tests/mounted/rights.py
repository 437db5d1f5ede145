"""Who may do what to the files of a directory, found by trying: for comparing two mounts.

    python -m tests.mounted.rights DIRECTORY

prints one line for each caller and file: the operations that succeed. Nothing that can be seen
is changed by them.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

#: Users and their groups, by ids of the namespace.
CALLERS = [(0, 0), (1000, 1000), (65534, 65534), (1000, 65534), (65534, 1000)]


def _read(path: str) -> None:
    """To its end: where opening asks nobody, reading does."""
    with open(path, "rb") as file:
        file.read()


def _write(path: str) -> None:
    """What is there already."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, CONTENT)
    finally:
        os.close(fd)


def _enter(path: str) -> None:
    with suppress(FileNotFoundError):
        os.stat(path + "/missing")


def _make(path: str) -> None:
    os.mkdir(path + "/made")
    os.rmdir(path + "/made")


def _run(path: str) -> None:
    if not os.access(path, os.X_OK, effective_ids=True):
        raise PermissionError


def _chmod(path: str) -> None:
    os.chmod(path, os.stat(path).st_mode & 0o7777)


#: Of every file.
CONTENT = b"content"

_BOTH: dict[str, Callable[[str], object]] = {"chmod": _chmod, "touch": os.utime}
FILE: dict[str, Callable[[str], object]] = {"read": _read, "write": _write, "run": _run, **_BOTH}
DIRECTORY: dict[str, Callable[[str], object]] = {
    "list": os.listdir,
    "enter": _enter,
    "make": _make,
    **_BOTH,
}


def rights(path: str) -> str:
    """The operations that this process may perform."""
    found = []
    for name, operate in (DIRECTORY if os.path.isdir(path) else FILE).items():
        try:
            operate(path)
        except OSError:
            continue
        found.append(name)
    return ",".join(found)


def main(directory: str) -> None:
    """Print what every caller may do; root of the namespace only."""
    for uid, gid in CALLERS:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            for name in sorted(os.listdir(directory)):
                print(uid, gid, name, rights(f"{directory}/{name}"))
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(pid, 0)[1] != 0:
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
