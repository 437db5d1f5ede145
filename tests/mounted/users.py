"""Doing something as another user: inside this process, or in a user namespace."""

import ctypes
import ctypes.util
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

_libc = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6", use_errno=True)


def as_user(uid: int, function: Callable[[], Result]) -> Result:
    """Call `function` with the filesystem identity of user and group `uid`; root only.

    setfsuid(2) changes one thread and takes the capabilities over files away from it, so a thread
    of its own is all that is needed; that thread ends with the call.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            _libc.setfsgid(uid)
            _libc.setfsuid(uid)
            assert _libc.setfsuid(-1) == uid, "setfsuid needs root"
            outcome.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def in_user_namespace(script: str, ids: str) -> tuple[int, str]:
    """Run a shell script as root of user and mount namespaces of its own; root only.

    `ids` is what uid_map and gid_map are to hold (user_namespaces(7)).  Returns the exit status and
    everything the script has written.
    """
    # The maps have to be written from outside: many ids are for root of the parent only.
    holder = subprocess.Popen(["unshare", "--user", "--mount", "cat"], stdin=subprocess.PIPE)
    before = os.readlink("/proc/self/ns/mnt")
    try:
        while os.readlink(f"/proc/{holder.pid}/ns/mnt") == before:
            assert holder.poll() is None
        for kind in ("uid", "gid"):
            Path(f"/proc/{holder.pid}/{kind}_map").write_text(ids)
        result = subprocess.run(
            ["nsenter", f"--target={holder.pid}", "--user", "--mount", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
    finally:
        holder.kill()
        holder.communicate()
    return result.returncode, result.stdout
