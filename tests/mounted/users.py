"""Doing something as another user, inside this process."""

import ctypes
import ctypes.util
import threading
from collections.abc import Callable
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
