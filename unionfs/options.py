"""Mount options in every spelling, one typed result.

Spellings understood (docs/options.md lists every option):

* ``LOWER[:LOWER...] UPPER MOUNTPOINT`` and ``LOWER[:LOWER...] MOUNTPOINT`` (read-only),
* ``-o lowerdir=A:B,upperdir=U,workdir=W MOUNTPOINT`` as for kernel overlayfs,
* ``SOURCE MOUNTPOINT -o lowerdir=...`` as mount(8) calls its helpers: with lowerdir among the
  options SOURCE is only the name that the mount table shows.

`OPTIONS` is the one table of options: reading, `--help-options`, the Python call's checks and the
suggestions of unknown.py all come from it.  Nothing here looks at the filesystem.  Relative paths
are joined to the working directory and otherwise left alone: tidying ``a/../b`` as text is wrong
where ``a`` is a symbolic link, so the kernel resolves them when branches.py opens them.

`MountOptions` is a NamedTuple and not a dataclass because the module `dataclasses` costs
1.2 MB of private memory, and every mount is a process that would keep it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from unionfs import values
from unionfs.errors import UnsupportedOption, UsageError
from unionfs.values import (
    MOST_ID,
    CopyUp,
    DataPath,
    IdRange,
    IoUring,
    Read,
    RenameDir,
    Whiteout,
    absolute,
    split_ids,
    split_options,
    split_paths,
)

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
CLEARS: Mapping[str, str] = {
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
ATIME_FLAGS = ("noatime", "relatime", "strictatime")

#: Addressed to mount(8), systemd or fstab; they reach helpers and mean nothing to a filesystem.
FOR_MOUNT_8 = {
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

#: Options that ask for what is not so.  Ignoring one would promise it, so each is refused with
#: its reason.
REFUSED: Mapping[str, str] = {
    "noxattrs": "extended attributes are always served",
    "plugins": "there are no plugins",
    "fast_ino": "inode numbers are not chosen by an option",
    "allow_root": "use allow_other; permissions keep others out of what is not theirs",
    "auto_unmount": "the daemon unmounts by itself on SIGTERM and SIGINT",
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


def _xino(name: str, value: str | None) -> None:
    if values.one_of("on", "auto", "off")(name, value) == "off":
        raise UnsupportedOption(
            option="xino=off", reason="inode numbers are always unique in the union"
        )


class Option(NamedTuple):
    """One option of the union's own."""

    field: str  #: of `MountOptions`; "": it is checked, and changes nothing
    read: Read
    shape: str  #: what --help-options shows behind the name
    help: str


#: By name.  The order is that of --help-options.
OPTIONS: Mapping[str, Option] = {
    "lowerdir": Option("lowers", values.raw, "=A[:B...]", "read-only branches, topmost first"),
    "lowerdir+": Option("lowers", values.text, "=A", "one more lower, below those given so far"),
    "upperdir": Option("upper", values.path, "=U", "the branch that takes all changes"),
    "workdir": Option(
        "workdir", values.path, "=W", "where files are built; default: .wh..wh.work inside U"
    ),
    "whiteout": Option(
        "whiteout",
        values.one_of(*get_args(Whiteout)),
        "=aufs|overlay",
        "the format in which deletions are stored",
    ),
    "copyup": Option(
        "copyup",
        values.one_of(*get_args(CopyUp)),
        "=change|open",
        "copy a lower file when it changes, or when opened for writing",
    ),
    "rename_dir": Option(
        "rename_dir",
        values.one_of(*get_args(RenameDir)),
        "=copy|redirect|exdev",
        "rename a directory with content in a lower: copy, mark, or fail",
    ),
    "volatile": Option("volatile", values.switch(True), "", "never wait for the disk"),
    "fsync": Option(
        "volatile", values.meaning_of({"0": True, "1": False}), "=0|1", "0 is volatile"
    ),
    "noacl": Option("acls", values.switch(False), "", "no POSIX ACLs"),
    "static_nlink": Option(
        "static_nlink", values.switch(True), "", "the link count of every directory is 1"
    ),
    "xino": Option("", _xino, "=on|auto", "inode numbers are unique, as always"),
    "writeback": Option(
        "writeback",
        values.meaning_of({None: True, "0": False, "1": True}),
        "[=0|1]",
        "let the kernel collect writes",
    ),
    "timeout": Option(
        "timeout", values.seconds, "=SECONDS", "how long the kernel may keep names and attributes"
    ),
    "io": Option(
        "io",
        values.one_of(*get_args(DataPath)),
        "=cached|passthrough|auto",
        "how the data of open files goes",
    ),
    "threads": Option("threads", values.number(1, 64), "=N", "threads that read requests"),
    "io_uring": Option(
        "io_uring",
        values.one_of(*get_args(IoUring)),
        "=auto|off",
        "take up FUSE over io_uring if the kernel offers it",
    ),
    "allow_other": Option("allow_other", values.switch(True), "", "let other users in"),
    "default_permissions": Option(
        "", values.switch(None), "", "the kernel checks permissions, as always"
    ),
    "fsname": Option("fsname", values.text, "=NAME", "the source that the mount table shows"),
    "log_file": Option("log_file", values.path, "=PATH", "where the daemon writes its log"),
    "debug": Option("debug", values.switch(True), "", "the same as -d"),
    "uidmapping": Option(
        "uid_map", values.text, "=ID:SHOWN:COUNT[:...]", "show owners of the branches as others"
    ),
    "gidmapping": Option(
        "gid_map", values.text, "=ID:SHOWN:COUNT[:...]", "show groups of the branches as others"
    ),
    "squash_to_root": Option(
        "squash_to_root", values.switch(True), "", "show every file as owned by 0:0"
    ),
    "squash_to_uid": Option(
        "squash_uid", values.number(0, MOST_ID), "=N", "show every file with this owner"
    ),
    "squash_to_gid": Option(
        "squash_gid", values.number(0, MOST_ID), "=N", "show every file with this group"
    ),
    "xattr_permissions": Option(
        "xattr_permissions",
        values.meaning_of({"0": 0, "1": 1, "2": 2}),
        "=0|1|2",
        "keep owners and modes in an extended attribute",
    ),
}

#: Every name that is understood or refused with a reason of its own.
KNOWN = (
    *OPTIONS,
    *KERNEL_FLAGS,
    *CLEARS,
    *sorted(_PROPAGATION),
    *sorted(_SECURITY_LABELS),
    *sorted(FOR_MOUNT_8),
    "remount",
    *REFUSED,
)


def change_flag(flags: dict[str, None], name: str) -> None:
    """Apply a kernel flag, or what takes one back, to the flags in effect (an ordered set)."""
    if name in CLEARS:
        flags.pop(CLEARS[name], None)
    else:
        if name in ATIME_FLAGS:
            for other in ATIME_FLAGS:
                flags.pop(other, None)
        flags[name] = None


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
    only_empty: bool = False  #: `LOWER MOUNTPOINT` without `ro`: is the mount point forgotten?
    unknown: tuple[str, ...] = ()  #: options not understood: to be warned about, then ignored


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
        self.given: dict[str, Any] = {}  # by field of MountOptions
        self.lowers: list[str] = []
        self.mappings: dict[str, str] = {}  # by option
        self.continued: str | None = None  # the mapping that was the option before this one
        self.flags: dict[str, None] = {}  # an ordered set
        self.labels: dict[str, str] = {}
        self.unknown: dict[str, None] = {}

    def take(self, name: str, value: str | None) -> None:
        """Apply one option; `value` still has its backslashes."""
        if name in REFUSED:
            raise UnsupportedOption(option=name, reason=REFUSED[name])
        mapping, self.continued = self.continued, None
        option = OPTIONS.get(name)
        if option is not None:
            self._take_own(name, option.field, option.read(name, value))
        elif mapping is not None and value is None and name[0].isdigit():
            # fuse-overlayfs(1) lets commas separate the triplets, which are options then.
            self.mappings[mapping] += f",{name}"
            self.continued = mapping
        elif name in KERNEL_FLAGS or name in CLEARS or name in _PROPAGATION:
            values.switch(None)(name, value)
            self._take_flag(name)
        elif name in _SECURITY_LABELS:
            self.labels[name] = values.text(name, value)
        elif name not in FOR_MOUNT_8 and not name.startswith(("x-", "X-")):
            from unionfs import unknown  # which a mount rarely needs

            unknown.judge(name, KNOWN)
            self.unknown[name] = None

    def _take_own(self, name: str, field: str, value: Any) -> None:
        match name:
            case "lowerdir":
                self.lowers = split_paths(value)
            case "lowerdir+":
                self.lowers.append(value)
            case "uidmapping" | "gidmapping":
                self.mappings[name] = value
                self.continued = name
            case _ if field:
                self.given[field] = value

    def _take_flag(self, name: str) -> None:
        if name in _PROPAGATION:
            self.given["propagation"] = name
        else:
            change_flag(self.flags, name)

    def finish(self, positionals: Sequence[str], *, debug: bool, foreground: bool) -> MountOptions:
        """Give the positionals their meaning and check what belongs together."""
        given = self.given
        only_empty = False
        match list(positionals):
            case []:
                raise UsageError(problem="no mount point is given")
            case [mountpoint]:
                pass
            case [source, mountpoint] if self.lowers:
                given.setdefault("fsname", source or "unionfs")
            case [lowers, mountpoint]:
                self.lowers = split_paths(lowers)
                only_empty = "upper" not in given and "ro" not in self.flags
            case [lowers, upper, mountpoint]:
                if self.lowers or "upper" in given:
                    raise UsageError(problem="branches are given both as arguments and as options")
                self.lowers = split_paths(lowers)
                given["upper"] = absolute("upperdir", upper)
            case _:
                raise UsageError(problem=f"too many arguments: {' '.join(positionals)}")
        if not self.lowers:
            raise UsageError(problem="no lower branch is given")
        branches = [*self.lowers, given.get("upper") or ""]
        if any("=" in path for path in branches):
            from unionfs import unknown

            unknown.judge_branches(branches)
        for name, value in self.mappings.items():
            given[OPTIONS[name].field] = split_ids(name, value)
        if given.pop("squash_to_root", False):
            given = {"squash_uid": 0, "squash_gid": 0, **given}
        if debug:
            given["debug"] = True
        return complete(
            mountpoint=absolute("mount point", mountpoint),
            lowers=tuple(absolute("lowerdir", path) for path in self.lowers),
            flags=tuple(self.flags),
            labels=tuple(self.labels.items()),
            foreground=foreground or given.get("debug", False),
            only_empty=only_empty,
            unknown=tuple(self.unknown),
            **given,
        )


def complete(**given: Any) -> MountOptions:
    """The options of a mount from fields that are right each by itself.

    Raises `UsageError` for what does not go together.
    """
    options = MountOptions(**given)
    if options.upper is None or "ro" in options.flags:
        flags = options.flags if "ro" in options.flags else (*options.flags, "ro")
        options = options._replace(read_only=True, flags=flags)
    if options.workdir is not None and options.upper is None:
        raise UsageError(problem="workdir= has no use without an upper branch")
    if options.io != "cached" and options.writeback:
        raise UsageError(problem=f"option io is {options.io}: it excludes writeback")
    return options


def checked(**given: Any) -> MountOptions:
    """The options of a mount from fields of any value, as a Python program gives them.

    Raises `UsageError` in the words that the command has for such a value, and TypeError for a
    field that does not exist or a value that no option has.
    """
    for name in given.keys() - set(MountOptions._fields):
        from unionfs import unknown

        meant = unknown.nearest(name, MountOptions._fields)
        hint = "" if meant is None else f": did you mean {meant}?"
        raise TypeError(f"there is no option {name}{hint}")
    given = MountOptions._field_defaults | given
    for name, option in OPTIONS.items():
        value = given.get(option.field)
        if option.read in _TEXTS or value == MountOptions._field_defaults.get(option.field):
            continue
        if isinstance(MountOptions._field_defaults[option.field], bool):
            if not isinstance(value, bool):
                raise TypeError(f"option {option.field} is True or False, not {value!r}")
        elif not isinstance(value, bool):
            option.read(name, str(value))
    given["flags"] = tuple(given["flags"])
    for flag in given["flags"]:
        if flag not in KERNEL_FLAGS:
            raise UsageError(problem=f"option flags has {flag!r}, which is no flag of the kernel")
    if given["propagation"] not in (None, *_PROPAGATION):
        raise UsageError(problem=f"option propagation has no value {given['propagation']!r}")
    for name in ("uidmapping", "gidmapping"):
        field = OPTIONS[name].field
        if given[field]:
            words = ":".join(str(number) for one in given[field] for number in one)
            given[field] = split_ids(name, words)
    if given["read_only"] and "ro" not in given["flags"]:
        given["flags"] += ("ro",)
    return complete(**given)


#: Readers whose values need no check: any text will do.
_TEXTS = (values.raw, values.text, values.path)
