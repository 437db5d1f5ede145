"""Options drawn at random: each spelling of a mount gives that mount, and nonsense our errors."""

import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from unionfs.cli.mount import read_arguments
from unionfs.errors import UnionfsError, UsageError
from unionfs.options import (
    KERNEL_FLAGS,
    KNOWN,
    OPTIONS,
    REFUSED,
    MountOptions,
    parse,
)
from unionfs.unknown import NO_TYPING_ERRORS
from unionfs.values import CopyUp, IdRange, RenameDir, Whiteout, escape

# As os.fsdecode gives names of any bytes, without what no path has.
_characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.characters(
    min_codepoint=0xDC80, max_codepoint=0xDCFF
)
texts = st.text(st.sampled_from(':,\\"= a') | _characters, min_size=1)
paths = texts.map(lambda text: "/" + text)
ids = st.integers(0, 2**32 - 2)


@st.composite
def id_maps(draw: st.DrawFn) -> tuple[IdRange, ...]:
    """Ranges that follow each other in the branches, and in another order on the mount."""
    sizes = draw(st.lists(st.integers(1, 2**28), min_size=1, max_size=5))
    disk = list(accumulate(sizes, initial=0))
    order = draw(st.permutations(range(len(sizes))))
    shown = dict(zip(order, accumulate((sizes[i] for i in order), initial=0), strict=False))
    return tuple(IdRange(disk[i], shown[i], size) for i, size in enumerate(sizes))


def quoted(text: str) -> list[str]:
    """In double quotes, where it may stand in them."""
    return [f'"{text}"'] if not set(text) & set('"\\:') else []


def mapping(ranges: tuple[IdRange, ...]) -> list[str]:
    triplets = [f"{one.disk}:{one.shown}:{one.size}" for one in ranges]
    return [":".join(triplets), ":" + ":".join(triplets), ",".join(triplets), r"\,".join(triplets)]


def named(name: str, spell: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    return lambda value: [f"{name}={text}" for text in spell(value)]


def text(value: str) -> list[str]:
    return [escape(value), *quoted(value)]


def plain(value: object) -> list[str]:
    return [str(value)]


def switch(on: list[str], off: list[str]) -> Callable[[bool], list[str]]:
    return lambda value: on if value else off


#: For each field: the values it can be given, and how each is spelled.
FIELDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], list[str]]]] = {
    "upper": (paths, named("upperdir", text)),
    "whiteout": (st.sampled_from(get_args(Whiteout)), named("whiteout", plain)),
    "copyup": (st.sampled_from(get_args(CopyUp)), named("copyup", plain)),
    "rename_dir": (st.sampled_from(get_args(RenameDir)), named("rename_dir", plain)),
    "uid_map": (id_maps(), named("uidmapping", mapping)),
    "gid_map": (id_maps(), named("gidmapping", mapping)),
    "squash_uid": (ids, named("squash_to_uid", plain)),
    "squash_gid": (ids, named("squash_to_gid", plain)),
    "volatile": (st.booleans(), switch(["volatile", "fsync=0"], ["fsync=1"])),
    "writeback": (st.booleans(), switch(["writeback", "writeback=1"], ["writeback=0"])),
    "timeout": (st.floats(0, 1e9), named("timeout", plain)),
    "threads": (st.integers(1, 64), named("threads", plain)),
    "allow_other": (st.just(True), switch(["allow_other"], [])),
    "propagation": (st.sampled_from(["private", "rslave", "shared"]), lambda value: [value]),
    "fsname": (texts, named("fsname", text)),
    "log_file": (paths, named("log_file", text)),
}
#: What may stand anywhere and changes nothing.
NOISE = ["", "_netdev", "nofail", "x-systemd.automount", 'comment="a,b"', "rw", "suid", "dev"]


@given(
    st.data(),
    st.lists(paths, min_size=1, max_size=4),
    paths,
    st.fixed_dictionaries({}, optional={name: values for name, (values, _) in FIELDS.items()}),
)
def test_every_spelling_of_a_mount(
    data: st.DataObject, lowers: list[str], mountpoint: str, wanted: dict[str, Any]
) -> None:
    joined = ":".join(map(escape, lowers))
    where = data.draw(st.sampled_from(["option", "options", "arguments", "three", "source"]))
    if where == "three" and "upper" not in wanted:
        where = "arguments"
    words = [
        data.draw(st.sampled_from(spell(wanted[name])))
        for name, (_, spell) in FIELDS.items()
        if name in wanted and not (name == "upper" and where == "three")
    ]
    positionals = [mountpoint]
    if where in ("option", "source"):
        words.append(f"lowerdir={joined}")
    elif where == "arguments":
        positionals.insert(0, joined)
    elif where == "three":
        positionals[:0] = [joined, wanted["upper"]]
    if where == "source":
        positionals.insert(0, "overlay")
        wanted = {"fsname": "overlay", **wanted}
    words = data.draw(st.permutations(words + data.draw(st.lists(st.sampled_from(NOISE)))))
    if where == "options":
        words += [f"lowerdir+={escape(lower)}" for lower in lowers]
    cuts = data.draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words)))
    strings: list[str] = [""]
    for word, cut in zip(words, cuts, strict=True):
        if cut:
            strings.append(word)
        else:
            strings[-1] += f",{word}"
    default = parse([], ["/l", *(["/u"] if "upper" in wanted else []), "/m"])
    assert parse(strings, positionals) == default._replace(
        lowers=tuple(lowers),
        mountpoint=mountpoint,
        only_empty=where == "arguments" and "upper" not in wanted,
        **wanted,
    )


WRITTEN = [*OPTIONS, "nosuid", "noatime", "rprivate", "context", "ro", "rw", "nofail", "plugins"]
LETTERS = "abcdefghijklmnopqrstuvwxyz_-01"


@st.composite
def typing_errors(draw: st.DrawFn) -> tuple[str, str]:
    """An option, and the same with one error in it."""
    name = draw(st.sampled_from(WRITTEN))
    # In names of two letters only an error behind the first one is recognised.
    at = draw(st.integers(1 if len(name) <= 3 else 0, len(name) - 1))
    letter = draw(st.sampled_from(LETTERS))
    wrong = draw(
        st.sampled_from(
            [
                name[:at] + letter + name[at:],
                name[:at] + letter + name[at + 1 :],
                name[:at] + name[at + 1 :],
                name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
                name.upper(),
                name[:at] + name[at:].capitalize(),
            ]
        )
    )
    return name, wrong


@given(typing_errors(), st.sampled_from(["", "=1", "=/a"]))
def test_a_typing_error_is_never_passed_over(typed: tuple[str, str], value: str) -> None:
    """Either it is an option too, or the error names what was written and one that exists."""
    name, wrong = typed
    assume(wrong not in KNOWN and wrong.lower() not in NO_TYPING_ERRORS and len(wrong) > 1)
    assume(not wrong.startswith("x-"))
    with pytest.raises(UnionfsError) as caught:
        parse([wrong + value], ["/l", "/u", "/m"])
    if isinstance(caught.value, UsageError):
        found = re.fullmatch(r"there is no option (.*): did you mean (.*)\?", str(caught.value))
        assert found, (name, str(caught.value))
        assert found[1] == wrong
        assert found[2] in KNOWN


OTHERS = [
    "lowerdir", "lowerdir+", "upperdir", "workdir", "whiteout", "copyup", "rename_dir", "volatile",
    "fsync", "writeback", "timeout", "threads", "allow_other", "default_permissions", "fsname",
    "log_file", "debug", "context", "uidmapping", "gidmapping", "squash_to_root", "squash_to_uid",
    "squash_to_gid", "rw", "suid", "dev", "exec", "async", "atime", "rprivate",
]  # fmt: skip
names = st.sampled_from([*OTHERS, *KERNEL_FLAGS, *REFUSED])
values = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "1",
            "-1",
            "aufs",
            "open",
            "copy",
            "/a",
            "/a:/b",
            "nan",
            "1e999",
            "0:1:2",
            "9" * 99,
        ]
    ),
    st.text(st.sampled_from('=,:\\"\0\udcff\u0661 /-') | st.characters(), max_size=9),
)
options = st.one_of(names, st.tuples(names, values).map("=".join), values)
arguments = st.one_of(
    options.map(lambda option: f"-o{option}"),
    st.lists(options, max_size=6).map(lambda some: "-o" + ",".join(some)),
    st.sampled_from(["-o", "-f", "-d", "-h", "-t", "-N", "--", "--help", "--vers", "-", "-z"]),
    values,
)


@given(st.lists(arguments, max_size=6))
def test_any_command_line_is_a_mount_or_one_of_our_errors(argv: list[str]) -> None:
    try:
        found = read_arguments(argv)
    except UnionfsError as error:
        assert 0 < error.exit_code < 128
        assert str(error)
        return
    if isinstance(found, MountOptions):
        assert found.lowers
        for path in (*found.lowers, found.mountpoint, found.upper, found.workdir):
            assert path is None or path.startswith("/")
        assert found.read_only == ("ro" in found.flags)
        assert 0 <= found.timeout <= 1e9
        assert 0 <= found.threads <= 64
