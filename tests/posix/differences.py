"""Where a place behaves unlike ext4: every row is checked, and a row that no longer holds fails.

`seen` must occur in the report of the failure, so that a case which fails for another reason is
still a failure. For unionfs `reason` begins with the id of a row of docs/differences.md; for kernel
overlayfs it says what the kernel does.
"""

import fnmatch
from collections.abc import Sequence
from typing import NamedTuple


class Difference(NamedTuple):
    places: str  #: names of places, patterns of fnmatch(3) separated by spaces
    cases: Sequence[str]  #: "topic::case" or "topic::case[parameters]"
    seen: str
    reason: str


_UNION = "unionfs-*"
_MERGED = "unionfs-merged unionfs-mapped unionfs-namespace unionfs-records unionfs-user"
_BELOW = f"unionfs-lower {_MERGED}"

OVERLAYFS = [
    Difference(
        "overlay-*",
        ["mknod::device_zero", "rename::whiteout_of_ext4"],
        "E   ",
        "0/0 devices are whiteouts: EPERM and EINVAL",
    ),
    Difference(
        "overlay-lower overlay-merged",
        [
            "mkdir::link_count_of_the_parent",
            "mkdir::given_link_counts",
            "mkdir::removed_directory_still_open",
            "rename::exchange_link_counts",
        ],
        "st_nlink",
        "a merged directory has nlink 1, removed or not",
    ),
    Difference(
        "overlay-lower",
        ["rename::to_a_new_name[empty]", "rename::to_a_new_name[full]"],
        "At index 3 diff: 1 != ",
        "a directory that becomes merged has nlink 1 from then on",
    ),
    Difference(
        "overlay-lower overlay-merged",
        ["fallocate::holes_survive_change"],
        "1048576",
        "copy-up looks for holes in steps of a megabyte",
    ),
    Difference(
        "overlay-lower overlay-merged",
        ["mmap::private_mapping_of_what_is_written_later", "mmap::early_mapping_sees_later_write"],
        "AssertionError",
        "a mapping made before copy-up stays with the lower file",
    ),
    Difference(
        "overlay-lower overlay-merged",
        ["unlink::times", "unlink::readonly_descriptor_lives_on"],
        "E   ",
        "the open lower file keeps nlink and ctime when its name is hidden",
    ),
    Difference(
        "overlay-lower overlay-merged",
        ["unlink::unlinked_file_can_be_chowned"],
        "FileExistsError",
        "an unlinked lower file cannot be copied up into the index",
    ),
    Difference(
        "overlay-merged",
        [
            "stat::inode_number_of_the_listing[dir]",
            "identity::inode_numbers_follow_the_files",
            "identity::unchanged_and_remounted",
            *(
                f"identity::{case}[{change}]"
                for case in ("forgotten", "remounted")
                for change in ("do_nothing", "exchange", "link", "unlink", "replace")
            ),
        ],
        "st_ino",
        "merged directories are listed with another inode number than stat tells",
    ),
    Difference(
        "overlay-merged",
        ["times::moves[readdir]"],
        "st_ctime_ns",
        "listing for the first time writes an xattr on the upper directory",
    ),
]

UNIONFS = [
    Difference(
        _UNION,
        ["mknod::device_zero", "rename::whiteout_of_ext4"],
        "E   ",
        "device-zero: 0/0 devices are whiteouts, EPERM and EINVAL as on overlayfs",
    ),
    Difference(
        _UNION,
        [
            f"names::reserved_name_of_a_file[{name}]"
            for name in (".wh.name", ".wh..wh..opq", ".wh..wh.work", ".wh.")
        ],
        "PermissionError",
        "reserved-names: whiteouts of the default format are files of such names",
    ),
    Difference(
        _UNION,
        ["fallocate::collapses", "fallocate::inserts"],
        "Operation not supported",
        "fuse-fallocate: the kernel's FUSE passes on neither COLLAPSE_RANGE nor INSERT_RANGE",
    ),
    Difference(
        _UNION,
        ["direct::misaligned"],
        "success instead of EINVAL",
        "fuse-direct: the kernel's FUSE asks for no alignment of O_DIRECT",
    ),
    Difference(
        _UNION,
        ["ipc::regular_files_are_always_ready"],
        "success instead of EPERM",
        "fuse-epoll: the kernel's FUSE lets regular files be polled",
    ),
    Difference(
        _UNION,
        ["permissions::immutable", "permissions::append_only", "permissions::immutable_directory"],
        "Inappropriate ioctl",
        "inode-flags: FS_IOC_SETFLAGS is not passed on",
    ),
    Difference(
        _BELOW,
        [
            "mkdir::link_count_of_the_parent",
            "mkdir::given_link_counts",
            "rename::exchange_link_counts",
        ],
        "st_nlink",
        "directory-nlink: a directory with lower content has nlink 1, as on overlayfs",
    ),
    Difference(
        _MERGED,
        ["rename::to_a_new_name[empty]", "rename::to_a_new_name[full]"],
        "At index 3 diff",
        "directory-nlink: the renamed directory is whole and is counted from then on",
    ),
    Difference(
        "unionfs-lower",
        ["unlink::times_of_a_link_that_stays"],
        "did not move",
        "lower-ctime: a lower file's ctime does not move when one of its names goes",
    ),
    Difference(
        _BELOW,
        ["unlink::times", "rename::times_of_what_is_replaced"],
        "did not move",
        "lower-ctime: a lower file's ctime does not move when one of its names goes",
    ),
    Difference(
        "unionfs-records",
        ["truncate::growth_is_a_hole"],
        "st_blocks",
        "record-block: attributes that do not fit into the inode take a block",
    ),
    Difference(
        "unionfs-user",
        ["chmod::given_without_write_permission[0]", "open::own_file_without_rights"],
        "Permission denied",
        "unreadable-lower: a daemon without privilege copies up what it may read",
    ),
]

DIFFERENCES = OVERLAYFS + UNIONFS


def find(place: str, case: str) -> Difference | None:
    """The row for a case, named "topic::case[parameters]" without the place."""
    bare = case.split("[")[0]
    for row in DIFFERENCES:
        if any(fnmatch.fnmatchcase(place, pattern) for pattern in row.places.split()) and (
            bare in row.cases or case in row.cases
        ):
            return row
    return None
