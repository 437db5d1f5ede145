"""Mount options in every spelling, one typed result.

Spellings understood (docs/options.md lists every option):

* ``LOWER[:LOWER...] UPPER MOUNTPOINT`` and ``LOWER[:LOWER...] MOUNTPOINT`` (read-only),
* ``-o lowerdir=A:B,upperdir=U,workdir=W MOUNTPOINT`` as for kernel overlayfs,
* ``SOURCE MOUNTPOINT -o lowerdir=...`` as mount(8) calls its helpers: with lowerdir among the
  options SOURCE is only the name that the mount table shows.

Nothing here looks at the filesystem.  Relative paths are joined to the working directory and
otherwise left alone: tidying ``a/../b`` as text is wrong where ``a`` is a symbolic link, so
resolving is left to the kernel, when branches.py opens them.

`MountOptions` is a NamedTuple and not a dataclass because the module `dataclasses` costs
1.2 MB of private memory, and every mount is a process that would keep it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar, get_args

from unionfs.errors import UnsupportedOption, UsageError

Whiteout = Literal["aufs", "overlay"]
CopyUp = Literal["change", "open"]
RenameDir = Literal["copy", "redirect", "exdev"]
IoUring = Literal["auto", "off"]
DataPath = Literal["cached", "passthrough", "auto"]

#: Kernel mount flags by option name (mount(2); values of <linux/mount.h>).
KERNEL_FLAGS: Mapping[str, int] = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "nosymfollow": 256,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
    "lazytime": 1 << 25,
}

#: Options that take a kernel flag back.
_CLEARS: Mapping[str, str] = {
    "rw": "ro",
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "async": "sync",
    "symfollow": "nosymfollow",
    "atime": "noatime",
    "diratime": "nodiratime",
    "norelatime": "relatime",
    "nostrictatime": "strictatime",
    "nolazytime": "lazytime",
}

#: At most one of these is in effect; the last one given counts.
_ATIME_FLAGS = ("noatime", "relatime", "strictatime")

#: Addressed to mount(8), systemd or fstab; they reach helpers and mean nothing to a filesystem.
_FOR_MOUNT_8 = {
    "_netdev",
    "auto",
    "comment",
    "defaults",
    "group",
    "noauto",
    "nofail",
    "nogroup",
    "noowner",
    "nouser",
    "owner",
    "user",
    "users",
}

#: What security modules understand; handed to the kernel as it is.
_SECURITY_LABELS = {"context", "fscontext", "defcontext", "rootcontext"}

#: Options of other union filesystems that would change what users see.  Ignoring them would be
#: a lie, so each is refused with its reason.
REFUSED: Mapping[str, str] = {
    "noxattrs": "extended attributes are always served",
    "plugins": "there are no plugins",
    "fast_ino": "inode numbers are not chosen by an option",
    "allow_root": "use allow_other; permissions keep others out of what is not theirs",
    "auto_unmount": "the daemon unmounts by itself on SIGTERM and SIGINT",
    "remount": "unmount and mount again",
    "datadir+": "there are no data-only branches",
    "submounts": "what is mounted inside a branch cannot be followed or left out by choice",
}

#: How mounts below the mount point travel to other mount namespaces (mount_namespaces(7)).
_PROPAGATION = {
    "private",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "shared",
    "slave",
    "unbindable",
}

_ESCAPABLE = ':,\\"'

#: (uid_t)-1 is no id.
_MOST_ID = 2**32 - 2

T = TypeVar("T", bound=str)


class IdRange(NamedTuple):
    """Ids of files, `size` from `disk` on, that the mount shows as those from `shown` on."""

    disk: int
    shown: int
    size: int


class MountOptions(NamedTuple):
    """What one mount was asked to be.  Paths are absolute, but may contain links and ``..``."""

    mountpoint: str
    lowers: tuple[str, ...]  #: topmost first
    upper: str | None = None  #: None: nothing can be written
    workdir: str | None = None  #: None: `.wh..wh.work` inside the upper
    read_only: bool = False  #: no upper, or `ro`; an upper is then only the topmost branch
    whiteout: Whiteout = "aufs"  #: the format written; both are read
    copyup: CopyUp = "change"
    rename_dir: RenameDir = "copy"
    uid_map: tuple[IdRange, ...] = ()  #: empty: ids are shown as they are
    gid_map: tuple[IdRange, ...] = ()
    squash_uid: int | None = None  #: the owner that every file is shown with
    squash_gid: int | None = None
    xattr_permissions: int = 0  #: 1, 2: the upper keeps owners in attributes (overrides.py)
    acls: bool = True  #: POSIX ACLs are served
    static_nlink: bool = False  #: the link count of every directory is 1
    volatile: bool = False  #: never flush to disk
    writeback: bool = False  #: let the kernel collect writes
    timeout: float = 1e9  #: seconds the kernel may keep names and attributes
    threads: int = 0  #: serving threads; 0: as many as suit the machine
    io: DataPath = "cached"  #: how data is read and written
    io_uring: IoUring = "auto"  #: take it up if the kernel offers it
    allow_other: bool | None = None  #: None: as far as the mounting user may
    flags: tuple[str, ...] = ()  #: keys of KERNEL_FLAGS in effect
    labels: tuple[tuple[str, str], ...] = ()  #: security labels (context=...) for the kernel
    propagation: str | None = None  #: private, rprivate, slave, ... or None: as the kernel does
    fsname: str = "unionfs"  #: the source that the mount table shows
    log_file: str | None = None
    debug: bool = False
    foreground: bool = False
    unknown: tuple[str, ...] = ()  #: options not understood: to be warned about, then ignored


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
        if range_.size < 1 or max(range_.disk, range_.shown) + range_.size - 1 > _MOST_ID:
            raise UsageError(problem=f"option {name} has a range that holds no ids: {value!r}")
    for column in (0, 1):
        free = 0  # the first id behind those seen
        for first, size in sorted((range_[column], range_.size) for range_ in ranges):
            if first < free:
                raise UsageError(problem=f"option {name} maps id {first} twice: {value!r}")
            free = first + size
    return ranges


def parse(
    options: Sequence[str],
    positionals: Sequence[str],
    *,
    debug: bool = False,
    foreground: bool = False,
) -> MountOptions:
    """Build the mount's options from ``-o`` strings and the arguments that are not options.

    Where an option is repeated the last one counts.  Raises `UsageError` for a bad value or
    combination and `UnsupportedOption` for an option that would have to be ignored.
    """
    reader = _Reader()
    for text in options:
        for name, value in split_options(text):
            reader.take(name, value)
    return reader.finish(positionals, debug=debug, foreground=foreground)


class _Reader:
    """Options as they accumulate."""

    def __init__(self) -> None:
        self.lowers: list[str] = []
        self.upper: str | None = None
        self.workdir: str | None = None
        self.whiteout: Whiteout = "aufs"
        self.copyup: CopyUp = "change"
        self.rename_dir: RenameDir = "copy"
        self.mappings: dict[str, str] = {}
        self.continued: str | None = None  # the mapping that was the option before this one
        self.squash_to_root = False
        self.squash_uid: int | None = None
        self.squash_gid: int | None = None
        self.xattr_permissions = 0
        self.acls = True
        self.static_nlink = False
        self.volatile = False
        self.writeback = False
        self.timeout = 1e9
        self.threads = 0
        self.io: DataPath = "cached"
        self.io_uring: IoUring = "auto"
        self.allow_other: bool | None = None
        self.flags: dict[str, None] = {}  # an ordered set
        self.labels: dict[str, str] = {}
        self.propagation: str | None = None
        self.fsname: str | None = None
        self.log_file: str | None = None
        self.debug = False
        self.unknown: dict[str, None] = {}

    def take(self, name: str, value: str | None) -> None:
        """Apply one option; `value` still has its backslashes."""
        if name in REFUSED:
            raise UnsupportedOption(option=name, reason=REFUSED[name])
        mapping, self.continued = self.continued, None
        if mapping is not None and value is None and name[0].isdigit():
            # fuse-overlayfs(1) lets commas separate the triplets, which are options then.
            self.mappings[mapping] += f",{name}"
            self.continued = mapping
            return
        if name in KERNEL_FLAGS or name in _CLEARS or name in _PROPAGATION:
            _no_value(name, value)
            self._take_flag(name)
            return
        match name:
            case "lowerdir":
                self.lowers = split_paths(_text(name, value))
            case "lowerdir+":
                self.lowers.append(unescape(_text(name, value)))
            case "upperdir":
                self.upper = unescape(_text(name, value))
            case "workdir":
                self.workdir = unescape(_text(name, value))
            case "whiteout":
                self.whiteout = _choice(name, value, get_args(Whiteout))
            case "copyup":
                self.copyup = _choice(name, value, get_args(CopyUp))
            case "rename_dir":
                self.rename_dir = _choice(name, value, get_args(RenameDir))
            case "uidmapping" | "gidmapping":
                self.mappings[name] = unescape(_text(name, value))
                self.continued = name
            case "squash_to_root":
                _no_value(name, value)
                self.squash_to_root = True
            case "squash_to_uid":
                self.squash_uid = _number(name, value, 0, _MOST_ID)
            case "squash_to_gid":
                self.squash_gid = _number(name, value, 0, _MOST_ID)
            case "xattr_permissions":
                self.xattr_permissions = int(_choice(name, value, ("0", "1", "2")))
            case "noacl":
                _no_value(name, value)
                self.acls = False
            case "static_nlink":
                _no_value(name, value)
                self.static_nlink = True
            case "xino":
                if _choice(name, value, ("on", "auto", "off")) == "off":
                    raise UnsupportedOption(
                        option="xino=off", reason="inode numbers are always unique in the union"
                    )
            case "volatile":
                _no_value(name, value)
                self.volatile = True
            case "fsync":
                self.volatile = _choice(name, value, ("0", "1")) == "0"
            case "writeback":
                self.writeback = value is None or _choice(name, value, ("0", "1")) == "1"
            case "timeout":
                self.timeout = _seconds(name, value)
            case "io":
                self.io = _choice(name, value, get_args(DataPath))
            case "io_uring":
                self.io_uring = _choice(name, value, get_args(IoUring))
            case "threads":
                self.threads = _number(name, value, 1, 64)
            case "allow_other":
                _no_value(name, value)
                self.allow_other = True
            case "default_permissions":
                _no_value(name, value)  # always in effect: permissions are the kernel's
            case "fsname":
                self.fsname = unescape(_text(name, value))
            case "log_file":
                self.log_file = unescape(_text(name, value))
            case "debug":
                _no_value(name, value)
                self.debug = True
            case _ if name in _SECURITY_LABELS:
                self.labels[name] = unescape(_text(name, value))
            case _ if name in _FOR_MOUNT_8 or name.startswith(("x-", "X-")):
                pass
            case _:
                self.unknown[name] = None

    def _take_flag(self, name: str) -> None:
        if name in _PROPAGATION:
            self.propagation = name
        elif name in _CLEARS:
            self.flags.pop(_CLEARS[name], None)
        else:
            if name in _ATIME_FLAGS:
                for other in _ATIME_FLAGS:
                    self.flags.pop(other, None)
            self.flags[name] = None

    def finish(self, positionals: Sequence[str], *, debug: bool, foreground: bool) -> MountOptions:
        """Give the positionals their meaning and check what belongs together."""
        source: str | None = None
        match list(positionals):
            case []:
                raise UsageError(problem="no mount point is given")
            case [mountpoint]:
                pass
            case [source, mountpoint]:
                if not self.lowers:
                    self.lowers, source = split_paths(source), None
            case [lowers, upper, mountpoint]:
                if self.lowers or self.upper is not None:
                    raise UsageError(problem="branches are given both as arguments and as options")
                self.lowers, self.upper = split_paths(lowers), upper
            case _:
                raise UsageError(problem=f"too many arguments: {' '.join(positionals)}")
        if not self.lowers:
            raise UsageError(problem="no lower branch is given")
        if self.workdir is not None and self.upper is None:
            raise UsageError(problem="workdir= has no use without an upper branch")
        if self.io != "cached" and self.writeback:
            raise UsageError(problem=f"option io is {self.io}: it excludes writeback")
        maps = {name: split_ids(name, value) for name, value in self.mappings.items()}
        everyone = 0 if self.squash_to_root else None
        debug = debug or self.debug
        read_only = self.upper is None or "ro" in self.flags
        if read_only:
            self.flags["ro"] = None
        return MountOptions(
            mountpoint=_absolute("mount point", mountpoint),
            lowers=tuple(_absolute("lowerdir", path) for path in self.lowers),
            upper=None if self.upper is None else _absolute("upperdir", self.upper),
            workdir=None if self.workdir is None else _absolute("workdir", self.workdir),
            read_only=read_only,
            whiteout=self.whiteout,
            copyup=self.copyup,
            rename_dir=self.rename_dir,
            uid_map=maps.get("uidmapping", ()),
            gid_map=maps.get("gidmapping", ()),
            squash_uid=everyone if self.squash_uid is None else self.squash_uid,
            squash_gid=everyone if self.squash_gid is None else self.squash_gid,
            xattr_permissions=self.xattr_permissions,
            acls=self.acls,
            static_nlink=self.static_nlink,
            volatile=self.volatile,
            writeback=self.writeback,
            timeout=self.timeout,
            threads=self.threads,
            io=self.io,
            io_uring=self.io_uring,
            allow_other=self.allow_other,
            flags=tuple(self.flags),
            labels=tuple(self.labels.items()),
            propagation=self.propagation,
            fsname=self.fsname or source or "unionfs",
            log_file=None if self.log_file is None else _absolute("log_file", self.log_file),
            debug=debug,
            foreground=foreground or debug,
            unknown=tuple(self.unknown),
        )


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


def _absolute(what: str, path: str) -> str:
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


def _text(name: str, value: str | None) -> str:
    if not value:
        raise UsageError(problem=f"option {name} needs a value")
    return value


def _no_value(name: str, value: str | None) -> None:
    if value is not None:
        raise UsageError(problem=f"option {name} takes no value, but was given {value!r}")


def _choice(name: str, value: str | None, allowed: tuple[T, ...]) -> T:
    for word in allowed:
        if word == value:
            return word
    given = "no value" if value is None else repr(value)
    raise UsageError(problem=f"option {name} is one of {', '.join(allowed)}, not {given}")


def _seconds(name: str, value: str | None) -> float:
    try:
        seconds = float(_text(name, value))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e9:  # false for NaN as well
        raise UsageError(
            problem=f"option {name} is a number of seconds from 0 to 1000000000, not {value!r}"
        )
    return seconds


def _number(name: str, value: str | None, least: int, most: int) -> int:
    text = _text(name, value)
    if not (text.isascii() and text.isdigit() and least <= _whole(text) <= most):
        raise UsageError(problem=f"option {name} is a number from {least} to {most}, not {text!r}")
    return _whole(text)


def _whole(digits: str) -> int:
    """The number, or 2**32 for any from there on: int() takes no more than some 4,000 digits."""
    return min(int(digits.lstrip("0")[:11] or "0"), 2**32)
