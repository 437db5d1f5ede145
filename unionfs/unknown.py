"""What an option that this filesystem does not have may have meant.

A mount passes over an unknown option, after a warning: container engines and fstab hand on what
other filesystems understand.  Two kinds are errors, because passing them over would do harm: a
typing error of an option of ours (`uperdir=` would mount read-only, `RO` writable), and an option
that elsewhere promises a limit or names the branches.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from unionfs.errors import UnsupportedOption, UsageError

#: Options of other filesystems, of mount(8) and of libfuse that resemble one of ours; a test
#: holds this list against all names that those document.
NO_TYPING_ERRORS: Final = frozenset(
    ["noac", "nousers", "nouuid", "noxattr", "raw", "uuid", "wsync"]
)

_LIMIT = (
    "a union has no limits of its own; limit the filesystem of the upper (a quota, or its size)"
)
_AUFS = "branches are given as lowerdir=A:B,upperdir=U, topmost first, or as A:B U MOUNTPOINT"
_BRANCHES = "branches cannot be changed while they are mounted; " + _AUFS
_POLICY = "there is one branch that takes all changes, so no policy chooses one"

#: By name, in lower case and without what follows a colon: why it is refused.
_PROMISES: Final[Mapping[str, str]] = {
    "size": _LIMIT,
    "quota": _LIMIT,
    "usrquota": _LIMIT,
    "grpquota": _LIMIT,
    "prjquota": _LIMIT,
    "nr_blocks": _LIMIT,
    "nr_inodes": _LIMIT,
    # AUFS and the Unionfs of the kernel before it.
    "br": _AUFS,
    "dirs": _AUFS,
    "add": _BRANCHES,
    "ins": _BRANCHES,
    "append": _BRANCHES,
    "prepend": _BRANCHES,
    "del": _BRANCHES,
    "mod": _BRANCHES,
    "imod": _BRANCHES,
    "create": _POLICY,
    "create_policy": _POLICY,
    "cpup": _POLICY,
    "copyup_policy": _POLICY,
    "udba": "lower branches must not change while they are mounted",
    # unionfs-fuse
    "cow": "the upper takes a copy of what is changed, always; leave the option out",
    "chroot": "give the branches by their whole paths",
}

#: The mode of a branch, as AUFS, unionfs-fuse and mergerfs write it behind the path.
_MODE = re.compile(r"=(rw|ro|rr|nc)(\+[a-z]+)*$", re.IGNORECASE)


def judge(name: str, known: Iterable[str]) -> None:
    """Raise the error that an unknown option deserves; return for one to be warned about.

    Raises `UnsupportedOption` for what other filesystems promise by it, and `UsageError` for what
    is likely to be a typing error of a `known` one.
    """
    reason = _PROMISES.get(name.partition(":")[0].lower())
    if reason is not None:
        raise UnsupportedOption(option=name, reason=reason)
    meant = nearest(name, known)
    if meant is not None:
        raise UsageError(problem=f"there is no option {name}: did you mean {meant}?")


def judge_branches(paths: Iterable[str]) -> None:
    """Raise `UnsupportedOption` for a branch with the mode that other unions write behind it."""
    for path in paths:
        mode = _MODE.search(path)
        if mode is not None:
            raise UnsupportedOption(
                option=mode[0],
                reason=f"{_AUFS}; a directory that is really called so is given as {path}/",
            )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is a typing error of, None if it is none.

    One letter too many, missing, other, or two exchanged; two of these in a long name.  Names
    of two letters are all near each other: there the first one has to be right, or both exchanged.
    """
    if name.lower() in NO_TYPING_ERRORS:
        return None
    best, found = 3, None
    for other in known:
        allowed = 2 if min(len(name), len(other)) >= 8 else 1
        if len(name) <= 3 and name[0].lower() != other[0] and name.lower() != other[::-1]:
            allowed = 0
        distance = _distance(name.lower(), other, allowed)
        if distance <= allowed and distance < best:
            best, found = distance, other
    return found


def _distance(one: str, other: str, most: int) -> int:
    """Single letters to insert, drop, replace, or exchange with the next; beyond `most`: more."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one):
        above, row = row, [i + 1]
        for j, wanted in enumerate(other):
            cost = min(above[j + 1] + 1, row[j] + 1, above[j] + (letter != wanted))
            if i and j and letter == other[j - 1] and one[i - 1] == wanted:
                cost = min(cost, before[j - 1] + 1)
            row.append(cost)
        before = above
    return row[-1]
