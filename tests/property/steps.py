"""How the steps of a comparison are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from . import libc, trees
from .operations import Operations, Step


@dataclass(frozen=True)
class Some:
    """Something of the moment when the step is performed: names that hit are worth more.

    Of a `kind`: "existing", "directory" or "regular", a path that is there; "fresh", one that is
    not, in a directory that is; "opened", a descriptor.
    """

    kind: str
    number: int


def resolve(step: Step, choices: Mapping[str, Sequence[Any]]) -> Step:
    """The step with one of the choices in the place of each `Some`."""

    def resolved(item: Any) -> Any:
        if not isinstance(item, Some):
            return item
        among = choices[item.kind]
        return among[item.number % len(among)]

    return tuple(map(resolved, step))


def _some(kind: str) -> st.SearchStrategy[Some]:
    return st.builds(Some, st.just(kind), st.integers(0, 63))


_path = st.one_of(_some("existing"), trees.paths, _some("existing"))
_new = st.one_of(_some("fresh"), _path, _some("fresh"))
_file = st.one_of(_some("regular"), _path, _some("regular"))
_directory = st.one_of(_some("directory"), _path, _some("directory"))
_source = st.one_of(_path, _some("directory"), _some("regular"))

_slot = st.integers(0, 2)
_opened = _some("opened")
_follow = st.booleans()
_flags = st.sampled_from(
    (
        "RDONLY",
        "RDWR",
        "WRONLY",
        "RDWR CREAT",
        "RDWR CREAT EXCL",
        "WRONLY CREAT TRUNC",
        "RDWR TRUNC",
        "WRONLY APPEND",
        "RDWR APPEND CREAT",
        "RDONLY NOFOLLOW",
        "RDONLY DIRECTORY",
        "RDWR TMPFILE",
    )
)
_offset = st.sampled_from((0, 1, 100, 4095, 4096, 9000))
_rename_flag = st.sampled_from(tuple(libc.RENAME_FLAGS))
_kind = st.sampled_from(sorted(trees.KINDS))
_mode, _size, _tag = trees.modes, trees.sizes, trees.tags
_owner, _time, _target = trees.owners, trees.times, trees.targets
_xattr, _value = trees.xattr_names, trees.xattr_values

#: What is done with the mount itself: a new one of the same upper, or of one torn (torn.py).
BEGINNINGS = ("remount", "crash")

#: What tells generations of uppers apart: names that come, go and move. A hard link into another
#: generation would be counted with the names that it has in the upper alone.
GENERATIONS = (
    "layer",
    "remount",
    "drop_caches",
    "mkdir",
    "rmdir",
    "remove_tree",
    "unlink",
    "symlink",
    "rename",
    "rewrite",
    "chmod",
    "listdir",
    "content",
)

#: How the arguments of each operation are drawn.
ARGUMENTS: Mapping[str, tuple[st.SearchStrategy[Any], ...]] = {
    "remount": (),
    "crash": (),
    "layer": (),
    "drop_caches": (),
    "become": (st.sampled_from((0, 0, 1000)),),
    "mkdir": (_new, trees.directory_modes),
    "rmdir": (_directory,),
    "unlink": (_path,),
    "symlink": (_target, _new),
    "readlink": (_path,),
    "link": (_source, _new),
    "mknod": (_new, _kind, _mode, trees.devices),
    "rename": (_source, st.one_of(_new, _source), _rename_flag),
    "remove_tree": (_directory,),
    "stat": (_directory,),
    "lstat": (_path,),
    "keep_inode": (_path,),
    "access": (_directory, st.integers(0, 7)),
    "chmod": (st.one_of(_file, _directory), st.one_of(_mode, trees.directory_modes)),
    "chown": (_directory, _owner, _owner, _follow),
    "utimens": (_directory, _time, _follow),
    "setxattr": (_source, _xattr, _value, st.integers(0, 2), _follow),
    "getxattr": (_source, _xattr, _follow),
    "listxattr": (_path,),
    "removexattr": (_source, _xattr, _follow),
    "truncate": (_file, _size),
    "rewrite": (st.one_of(_file, _new), _size, _tag),
    "append": (_file, _size, _tag),
    "content": (_file,),
    "map_read": (_file, _offset, _size),
    "map_write": (_file, _offset, _size, _tag),
    "open": (_slot, st.one_of(_file, _file, _new), _flags, _mode),
    "hold": (_slot, _file),
    "close": (_opened,),
    "read": (_opened, _size),
    "write": (_opened, _size, _tag),
    "pread": (_opened, _offset, _size),
    "pwrite": (_opened, _offset, _size, _tag),
    "seek": (_opened, _offset, st.integers(0, 4)),
    "ftruncate": (_opened, _size),
    "fallocate": (_opened, st.sampled_from((0, 1, 3)), _offset, _size),
    "copy_range": (_opened, _offset, _opened, _offset, _size),
    "fsync": (_opened,),
    "fstat": (_opened,),
    "fchmod": (_opened, _mode),
    "fchown": (_opened, _owner, _owner),
    "futimens": (_opened, _time),
    "fsetxattr": (_opened, _xattr, _value),
    "fgetxattr": (_opened, _xattr),
    "flink": (_opened, _new),
    "map": (_opened,),
    "unmap": (_opened,),
    "peek": (_opened, _offset, _size),
    "listdir": (_directory,),
    "list_by_parts": (_directory,),
    "opendir": (_slot, _directory),
    "readdir": (_slot,),
}

# Operations that the machine draws as one rule. Each rule is as likely as any other, and looking
# must not crowd out changing.
_TOGETHER = {
    "begin_again": (*BEGINNINGS, "drop_caches"),
    "look": ("stat", "lstat", "access", "readlink", "getxattr", "listxattr"),
    "look_inside": ("content", "map_read", "listdir", "list_by_parts"),
    "list": ("opendir", "readdir"),
    "change_rights": ("chmod", "chown"),
    "change_xattrs": ("setxattr", "removexattr"),
    "use_mapping": ("map", "peek", "unmap", "close"),
    "use_attributes": ("fchmod", "fchown", "futimens", "fsetxattr", "fgetxattr", "fstat"),
}
_joined = {name for together in _TOGETHER.values() for name in together}
_RULES = _TOGETHER | {name: (name,) for name in ARGUMENTS if name not in _joined}
_on_opened = {name for name, drawn in ARGUMENTS.items() if drawn[:1] == (_opened,)}
#: Rules that are drawn only while a file is open.
ON_OPEN_FILES = {rule for rule, names in _RULES.items() if _on_opened.issuperset(names)}


class Draw:
    """What a comparison draws: all of it, or what a simpler program can do.

    `performs` has a method for each operation, `targets` is where symbolic links lead, `links`
    says whether the lowers have hard links, `branches` how many lowers there are at most. With
    `generations` the upper becomes a lower now and then, and directories move more often.
    """

    def __init__(
        self,
        performs: type = Operations,
        targets: st.SearchStrategy[str] = _target,
        links: bool = False,
        branches: int = 4,
        generations: bool = False,
    ) -> None:
        self.lowers = trees.stacks(targets, links, branches)
        #: The steps of each of the machine's rules.
        self.rules: dict[str, st.SearchStrategy[Step]] = {}
        for rule, names in _RULES.items():
            steps = [
                st.tuples(st.just(name), *(targets if a is _target else a for a in ARGUMENTS[name]))
                for name in names
                if (name in GENERATIONS if generations else name != "layer")
                and (name in (*BEGINNINGS, "layer") or hasattr(performs, name))
            ]
            if steps:
                self.rules[rule] = st.one_of(*steps)
        if generations:
            place = st.one_of(_some("fresh"), _some("directory"))
            move = st.tuples(st.just("rename"), _some("directory"), place, _rename_flag)
            self.rules["move"] = move
