"""What a check can find: the codes, what each means and what is done about it.

docs/check.md has the same table with the reasons; a test keeps the two alike.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

Level = Literal["error", "note"]


class Kind(NamedTuple):
    """One kind of finding.

    An error makes the union behave wrongly, or is content that says something else to who wrote
    it; a note is a trace that does no harm.
    """

    level: Level
    meaning: str
    repair: str  #: what repairing does, or why it leaves things as they are


_NOT_KNOWN = "left: what was meant is not known"
_NEEDS_LOWERS = "counted anew with --lower, left without"

#: By code.  A code never gets another meaning: scripts depend on it.
KINDS: Final[Mapping[str, Kind]] = {
    # whiteouts
    "whiteout-beside": Kind(
        "note",
        "a whiteout beside the name it hides, as an interrupted operation leaves it; the name "
        "is visible",
        "the whiteout is removed; a directory beside it is marked opaque first",
    ),
    "whiteout-content": Kind(
        "note",
        "hides a name as any whiteout does, but is not an empty file: perhaps somebody's data",
        "left: removing it would lose its content",
    ),
    "whiteout-in-opaque": Kind(
        "note", "a whiteout where nothing from below shows through anyway", "removed"
    ),
    "whiteout-reserved": Kind(
        "error",
        "a device 0/0 with a reserved name: it hides one name here and another one in kernel "
        "overlayfs",
        _NOT_KNOWN,
    ),
    "whiteout-twice": Kind(
        "note", "a name is hidden by a .wh. file and by a device 0/0", "the .wh. file is removed"
    ),
    "whiteout-useless": Kind(
        "note",
        "hides a name that no lower shows",
        "left: with other lowers it may be needed",
    ),
    # other reserved names
    "reserved-directory": Kind(
        "error",
        "a directory with a reserved name: the union can remove neither it nor what holds it",
        "an empty one is removed, or replaced by a file where it is a whiteout",
    ),
    "reserved-unknown": Kind(
        "note", "a reserved name that unionfs does not write; it is never shown", "left"
    ),
    # opaque directories
    "opaque-twice": Kind(
        "note",
        "a directory is marked opaque in several formats",
        "left: other filesystems may know only one of them",
    ),
    "opaque-type": Kind(
        "error",
        "the opaque mark is not a regular file",
        "replaced by a file, unless it is a directory that holds something",
    ),
    "opaque-value": Kind(
        "error",
        "an opaque attribute with a value that nobody writes: the directory is not opaque",
        _NOT_KNOWN,
    ),
    # renamed directories
    "redirect-malformed": Kind(
        "error",
        "a redirect that is neither a path from the root nor a name: nothing is found by it",
        _NOT_KNOWN,
    ),
    "redirect-nowhere": Kind(
        "error",
        "the lowers have no directory where the redirect leads: its content there is missing",
        "left: the lowers given are not the right ones, or have changed",
    ),
    # identity
    "impure-malformed": Kind(
        "error", "the impure mark has a value that unionfs does not write", "set to y"
    ),
    "origin-malformed": Kind(
        "error",
        "the origin is not an inode number in decimal",
        "written as it is read; removed where no number is read",
    ),
    "origin-twice": Kind(
        "error", "two files that are not hard links of each other show the same st_ino", _NOT_KNOWN
    ),
    "origin-unread": Kind(
        "error",
        "a file has an origin but its directory no impure mark: it shows a wrong st_ino",
        "the directory is marked",
    ),
    "record-malformed": Kind(
        "error",
        "the record of an origin does not say one: the file shows another st_ino",
        "removed",
    ),
    "record-stale": Kind(
        "note",
        "the record of an origin of a file that is not there any more, as a crash leaves it",
        "removed",
    ),
    "record-unknown": Kind(
        "note", "an entry among the origins that unionfs does not write", "left"
    ),
    # attributes of others
    "foreign-metacopy": Kind(
        "error",
        "kernel overlayfs keeps the data of this file in a lower; here it shows as holes",
        "left: mount it with kernel overlayfs and copy the file up",
    ),
    "foreign-override": Kind(
        "error",
        "an attribute keeps owner and mode of this file, but is not read: the root has it not",
        "left: what was meant is not known",
    ),
    "override-malformed": Kind(
        "error",
        "a record of owner and mode that cannot be understood: the file shows as it is stored",
        _NOT_KNOWN,
    ),
    "foreign-redirect": Kind(
        "error",
        "a redirect on what is no directory: kernel overlayfs finds its data under another name",
        "left: mount it with kernel overlayfs and copy the file up",
    ),
    "foreign-whiteout": Kind(
        "error",
        "kernel overlayfs takes this file for a whiteout; here it shows as an empty file",
        _NOT_KNOWN,
    ),
    "private-unknown": Kind(
        "note", "an attribute with a private name that unionfs does not know; it is hidden", "left"
    ),
    # hard links across copy-up
    "link-count-low": Kind("error", "fewer names are counted than the file has", _NEEDS_LOWERS),
    "link-count-malformed": Kind(
        "error",
        "the count of names is not a symbolic link to a positive number",
        _NEEDS_LOWERS,
    ),
    "link-origin": Kind(
        "error",
        "the copy of a file with several names has another origin than its number, or none",
        _NOT_KNOWN,
    ),
    "link-type": Kind("error", "a directory where the copy of a file should be", "left"),
    "link-uncounted": Kind(
        "error", "the copy of a file with several names without a count of them", _NEEDS_LOWERS
    ),
    "link-unknown": Kind("note", "an entry among the links that unionfs does not write", "left"),
    "link-unreachable": Kind(
        "note",
        "no name leads to this copy any more",
        "left: it may be the only copy of changed data, if the lowers given are not the right ones",
    ),
    # the work directory
    "scratch-left": Kind(
        "note", "scratch space of a mount that did not end cleanly", "cleared, as every mount does"
    ),
    "workdir-elsewhere": Kind(
        "error", "the work directory is on another filesystem than the upper", "left"
    ),
    "workdir-mode": Kind(
        "error",
        "others may enter the work directory, and so reach what is hidden from them in the union",
        "set to 0700",
    ),
    "workdir-owner": Kind(
        "error", "the work directory belongs to somebody else than the upper", "left"
    ),
    "workdir-type": Kind("error", "not a directory: the upper cannot be mounted", "left"),
    "workdir-unknown": Kind(
        "note", "an entry of the work directory that unionfs does not write", "left"
    ),
    # what cannot be checked
    "other-filesystem": Kind(
        "note", "a mount or subvolume inside the upper, which was not entered", "left"
    ),
    "unreadable": Kind("error", "cannot be looked at", "left"),
}


class Finding(NamedTuple):
    """One inconsistency."""

    code: str  #: a key of `KINDS`
    path: str  #: relative to the upper; in a work directory elsewhere it begins with `workdir:`
    detail: str = ""  #: what else there is to say, never needed to understand the finding
    repaired: bool = False

    @property
    def kind(self) -> Kind:
        return KINDS[self.code]

    @property
    def level(self) -> Level:
        return self.kind.level


class Report:
    """Takes the findings, and repairs them where that was asked for."""

    def __init__(self, *, repair: bool) -> None:
        self.findings: list[Finding] = []
        self._repair = repair
        self.complete = True  #: whether all could be looked at: else what is not met may be there

    def add(
        self, code: str, path: str, detail: str = "", repair: Callable[[], None] | None = None
    ) -> bool:
        """Take one more finding; returns whether it has been repaired, by calling `repair`."""
        repaired = False
        if self._repair and repair is not None:
            try:
                repair()
                repaired = True
            except OSError as error:
                failure = f"repairing failed: {error.strerror}"
                detail = f"{detail}; {failure}" if detail else failure
        self.findings.append(Finding(code, path or ".", detail, repaired))
        return repaired

    def unreadable(self, path: str, error: OSError) -> None:
        self.complete = False
        self.add("unreadable", path, error.strerror or str(error))
