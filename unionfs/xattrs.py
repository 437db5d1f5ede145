"""Names of extended attributes in branches, for callers in Python that read a branch directly.

Attributes under the prefixes below say something to a union filesystem.  On a mount they are
private: not listed, not readable, never copied up.  When an application on the mount uses such
a name itself, as a union inside the union does, a branch stores it escaped, the way the kernel
does it: `trusted.overlay.x` as `trusted.overlay.overlay.x` (the kernel's overlayfs.rst,
"Nesting overlayfs mounts").

When a file is copied up, an attribute that cannot be set fails the copy-up (it may be a
capability or an access control list), unless its value may never travel: EOPNOTSUPP of the
upper, or EPERM for `security.*`, and for `trusted.*` of a process that may not write those.
"""

from typing import Final

#: Private prefixes: ours (`trusted.` where the process may write it, `user.` elsewhere), kernel
#: overlayfs's, fuse-overlayfs's and containers/storage's, each with what an escaped name has
#: after it.
PRIVATE: Final = {
    "trusted.unionfs.": "unionfs.",
    "user.unionfs.": "unionfs.",
    "trusted.overlay.": "overlay.",
    "user.overlay.": "overlay.",
    "user.fuseoverlayfs.": "fuseoverlayfs.",
    "security.fuseoverlayfs.": "fuseoverlayfs.",
    "user.containers.override_": "override_",
}

#: Kernel overlayfs's opaque mark: as root, and with its option `userxattr`.
OVERLAY_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")

#: Every opaque mark that is read (overlayfs.rst; fuse-overlayfs's main.c).
OPAQUE: Final = (*OVERLAY_OPAQUE, "user.fuseoverlayfs.opaque")

#: Answers that a mount gives and no file stores.
STATUS: Final = "user.unionfs.status"  #: of the mount's root: counters, as JSON
#: Of any file: the branch it comes from, and its path there.  `user.unionfs.where` says the same,
#: but the kernel answers for user.* of links and special files by itself (xattr(7)).
WHERE: Final = "security.unionfs.where"
#: The paths of the branches, the upper's or "" first; only for the user who mounted.
BRANCHES: Final = "security.unionfs.branches"


def shown_name(stored: str) -> str | None:
    """The name under which the union shows a branch's attribute, None for a private one."""
    for prefix, escape in PRIVATE.items():
        if stored.startswith(prefix):
            rest = stored.removeprefix(prefix)
            return prefix + rest.removeprefix(escape) if rest.startswith(escape) else None
    return stored


def stored_name(shown: str) -> str:
    """The name under which a branch stores what an application on the mount calls `shown`."""
    for prefix, escape in PRIVATE.items():
        if shown.startswith(prefix):
            return prefix + escape + shown.removeprefix(prefix)
    return shown
