"""Redirects: directories whose lower content lies under another name (unionfs/_redirect.pyx)."""

import os
from collections.abc import Mapping
from typing import Final

#: As root, and as anybody else.
REDIRECT: Final = ("trusted.overlay.redirect", "user.overlay.redirect")


def redirect_of(attributes: Mapping[str, bytes]) -> str | None:
    """A directory's redirect, also one that only another user's mount would follow."""
    for name in REDIRECT:
        if name in attributes:
            return os.fsdecode(attributes[name])
    return None


def is_redirect(value: str) -> bool:
    """Whether this is a path from the root of the lowers' union, or one name (overlayfs.rst)."""
    names = value.removeprefix("/").split("/")
    return (value.startswith("/") or len(names) == 1) and not {"", ".", ".."} & set(names)


def place_below(below: str, name: str, redirect: str | None) -> str:
    """Where in the lowers' union the content of `name`, in a directory that is at `below`, is."""
    if redirect is not None and redirect.startswith("/"):
        return redirect.removeprefix("/")
    last = name if redirect is None else redirect
    return f"{below}/{last}" if below else last
