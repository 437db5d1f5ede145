"""What the user namespace that a mount is served in knows of users and groups."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from unionfs import daemon

#: A line of uid_map or gid_map (user_namespaces(7)): the first id inside, the first outside, how
#: many there are.
Range = tuple[int, int, int]

_CAP_DAC_OVERRIDE: Final = 1
_ALL: Final = [(0, 0, 2**32 - 1)]
_LAST: Final = 2**32 - 2  #: (uid_t)-1 is no id


class Unmapped(NamedTuple):
    """How owners look that a user namespace has no id for."""

    uid: int  #: what stat(2) shows for them: the overflow ids
    gid: int
    #: Where the namespace gives such an id to somebody too: the maps of users and groups of a
    #: namespace below that tells the two apart.
    maps: tuple[bytes, bytes] | None = None
    #: Whether this process has CAP_DAC_OVERRIDE: every right to files of owners with an id.
    overrides: bool = False
    #: Whether a record of owner and mode on such an owner's file counts, as in a shared store.
    believed: bool = True


def unmapped(*, idmapped: bool = False) -> Unmapped | None:
    """How owners look that this user namespace has no id for; None where there are none.

    That is so in the first namespace, unless a branch is `idmapped`: such a mount has owners
    without a counterpart, too, and shows them in the same way.
    """
    users, groups = _ranges("uid"), _ranges("gid")
    first = users == groups == _ALL
    if first and not idmapped:
        return None
    uid, gid = _overflow("uid"), _overflow("gid")
    if not _has(users, uid) and not _has(groups, gid):
        return Unmapped(uid, gid)
    maps = map_around(users, uid), map_around(groups, gid)
    return Unmapped(uid, gid, maps, daemon.has_capability(_CAP_DAC_OVERRIDE), not first)


def map_around(ranges: Sequence[Range], overflow: int) -> bytes:
    """The map of a namespace below the one that `ranges` are of, with the same ids but for one.

    The id `overflow` is another there, and so nobody has it. If all ids are taken the last one
    gives way, and nobody has that either.
    """
    lines = []
    spare = min(_free(ranges), _LAST)
    for first, _, count in ranges:
        end = min(first + count, spare) if spare == _LAST else first + count
        if first <= overflow < end:
            lines += [(first, overflow), (overflow + 1, end)]
        else:
            lines.append((first, end))
    text = "".join(f"{first} {first} {end - first}\n" for first, end in lines if first < end)
    if _has(ranges, overflow):
        text += f"{spare} {overflow} 1\n"
    return text.encode()


def _free(ranges: Sequence[Range]) -> int:
    """The lowest id above 0 that none of the ranges has."""
    return min(end for first, _, count in ranges if not _has(ranges, end := first + count))


def _has(ranges: Sequence[Range], number: int) -> bool:
    return any(first <= number < first + count for first, _, count in ranges)


def _ranges(kind: str) -> list[Range]:
    with open(f"/proc/self/{kind}_map") as lines:
        return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in lines)]


def _overflow(kind: str) -> int:
    with open(f"/proc/sys/kernel/overflow{kind}") as file:
        return int(file.read())
