"""What the words of a command line and of an option string mean: escapes, lists, numbers.

Nothing here knows an option by its name; each reader is told it for its error.  Every one raises
`UsageError` for a value that it cannot read.  Nothing here looks at the filesystem.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from unionfs.errors import UsageError

Whiteout = Literal["aufs", "overlay"]
CopyUp = Literal["change", "open"]
RenameDir = Literal["copy", "redirect", "exdev"]
IoUring = Literal["auto", "off"]
DataPath = Literal["cached", "passthrough", "auto"]

_ESCAPABLE = ':,\\"'

#: (uid_t)-1 is no id.
MOST_ID = 2**32 - 2

#: Turns the name of an option and its value, None where there is no `=`, into what is meant.
Read = Callable[[str, str | None], object]


class IdRange(NamedTuple):
    """Ids of files, `size` from `disk` on, that the mount shows as those from `shown` on."""

    disk: int
    shown: int
    size: int


def split_options(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield (name, value) of a comma-separated option string; the value keeps its backslashes.

    A backslash takes a comma's meaning away, and so do double quotes around a whole value
    (``context="a,b"``), which are dropped.  Empty options are passed over: engines leave them.

    Raises `UsageError` for a quote that does not close and for a value without a name.
    """
    start = 0
    while start < len(text):
        end = _find(text, ",", start)
        name, equals, value = text[start:end].partition("=")
        if value.startswith('"'):
            opening = start + len(name) + 1
            closing = _find(text, '"', opening + 1)
            value = text[opening + 1 : closing]
            end = closing + 1
            if closing == len(text) or text[end : end + 1] not in ("", ","):
                raise UsageError(problem=f"option {name}: the quoted value does not end in a quote")
        if name:
            yield name, value if equals else None
        elif equals:
            raise UsageError(problem=f"an option has a value but no name: ={value}")
        start = end + 1


def split_paths(value: str) -> list[str]:
    r"""Split a list of branches at its colons and resolve the escapes ``\:``, ``\,`` and ``\\``.

    Raises `UsageError` for an empty path.  (``::`` separates data-only branches in kernel
    overlayfs, which are not supported.)
    """
    paths = []
    start = 0
    while start <= len(value):
        end = _find(value, ":", start)
        paths.append(unescape(value[start:end]))
        start = end + 1
    if "" in paths:
        raise UsageError(problem=f"the list of branches has an empty path: {value!r}")
    return paths


def unescape(text: str) -> str:
    """Drop the backslash before each colon, comma, backslash and quote; other ones stay."""
    head, backslash, rest = text.partition("\\")
    done = [head]
    while backslash:
        if rest and rest[0] in _ESCAPABLE:
            done.append(rest[0])
            rest = rest[1:]
        else:
            done.append("\\")
        head, backslash, rest = rest.partition("\\")
        done.append(head)
    return "".join(done)


def escape(path: str) -> str:
    """`path` as it must be written in a list of branches inside an option string."""
    for character in "\\:,":
        path = path.replace(character, "\\" + character)
    return path


def split_ids(name: str, value: str) -> tuple[IdRange, ...]:
    """Read a mapping: ``DISK:SHOWN:COUNT``, as often as needed, with colons or commas between.

    A leading colon is passed over: containers/storage writes one.  Raises `UsageError` for what
    are no such triplets, and for ids that would have two counterparts.
    """
    words = value.replace(",", ":").removeprefix(":").split(":")
    if len(words) % 3 or not all(word.isascii() and word.isdigit() for word in words):
        raise UsageError(problem=f"option {name} is made of ID:SHOWN-ID:COUNT, not {value!r}")
    numbers = map(_whole, words)
    ranges = tuple(map(IdRange, numbers, numbers, numbers))
    for range_ in ranges:
        if range_.size < 1 or max(range_.disk, range_.shown) + range_.size - 1 > MOST_ID:
            raise UsageError(problem=f"option {name} has a range that holds no ids: {value!r}")
    for column in (0, 1):
        free = 0  # the first id behind those seen
        for first, size in sorted((range_[column], range_.size) for range_ in ranges):
            if first < free:
                raise UsageError(problem=f"option {name} maps id {first} twice: {value!r}")
            free = first + size
    return ranges


def absolute(what: str, path: str) -> str:
    """`path` joined to the working directory and otherwise left alone."""
    if not path or "\0" in path:
        raise UsageError(problem=f"{what} is not a path: {path!r}")
    if os.path.isabs(path):
        return path
    try:
        return os.path.join(os.getcwd(), path)
    except FileNotFoundError:
        raise UsageError(
            problem=f"{path} is a relative path and the working directory is gone"
        ) from None


# --- readers ---


def raw(name: str, value: str | None) -> str:
    """Any text but none; its backslashes stay."""
    if not value:
        raise UsageError(problem=f"option {name} needs a value")
    return value


def text(name: str, value: str | None) -> str:
    """Any text but none."""
    return unescape(raw(name, value))


def path(name: str, value: str | None) -> str:
    """A path, which becomes an absolute one."""
    return absolute(name, text(name, value))


def switch(meaning: object) -> Read:
    """An option without a value: `meaning` if it is given."""

    def read(name: str, value: str | None) -> object:
        if value is not None:
            raise UsageError(problem=f"option {name} takes no value, but was given {value!r}")
        return meaning

    return read


def one_of(*allowed: str) -> Read:
    """One of these words, as it is."""
    return meaning_of({word: word for word in allowed})


def meaning_of(meanings: Mapping[str | None, object]) -> Read:
    """One of the keys, of which None stands for no value; the result is what it means."""
    words = ", ".join(word for word in meanings if word is not None)

    def read(name: str, value: str | None) -> object:
        if value not in meanings:
            given = "no value" if value is None else repr(value)
            raise UsageError(problem=f"option {name} is one of {words}, not {given}")
        return meanings[value]

    return read


def seconds(name: str, value: str | None) -> float:
    """A time, fractions allowed."""
    try:
        found = float(raw(name, value))
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1e9:  # false for NaN as well
        raise UsageError(
            problem=f"option {name} is a number of seconds from 0 to 1000000000, not {value!r}"
        )
    return found


def number(least: int, most: int) -> Read:
    """A whole number in decimal digits; both ends are allowed."""

    def read(name: str, value: str | None) -> int:
        word = raw(name, value)
        if not (word.isascii() and word.isdigit() and least <= _whole(word) <= most):
            raise UsageError(
                problem=f"option {name} is a number from {least} to {most}, not {word!r}"
            )
        return _whole(word)

    return read


def _find(text: str, character: str, start: int) -> int:
    """Index of the first `character` from `start` on that no backslash escapes, or the end."""
    index = text.find(character, start)
    while index >= 0:
        before = index
        while before > start and text[before - 1] == "\\":
            before -= 1
        if (index - before) % 2 == 0:
            return index
        index = text.find(character, index + 1)
    return len(text)


def _whole(digits: str) -> int:
    """The number, or 2**32 for any from there on: int() takes no more than some 4,000 digits."""
    return min(int(digits.lstrip("0")[:11] or "0"), 2**32)
