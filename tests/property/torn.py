"""An upper in format aufs as crashes can leave it, between two steps of docs/format.md."""

import os
from pathlib import Path

PREFIX, OPAQUE = ".wh.", ".wh..wh..opq"
#: unionfs-check's words for what is left, and for what is left of that once the name is gone.
CODES = {"whiteout-beside", "whiteout-useless", "whiteout-in-opaque"}


def tear(upper: Path) -> None:
    """Put beside every name in an upper its whiteout, the way a removal begins and a creation ends.

    Nothing that is shown changes.  A directory that is not opaque has none: it would hide
    what it shows of the branches below.  In the place of its opaque mark the whiteout says the
    same.
    """
    for above, directories, files in os.walk(upper, topdown=False):
        status = os.stat(above)
        for name in directories + files:
            if name.startswith(PREFIX):
                continue
            if name in directories:
                directory = Path(above, name)
                if not (directory / OPAQUE).exists():
                    continue
                before = directory.stat()
                (directory / OPAQUE).unlink()
                os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
            Path(above, f"{PREFIX}{name}").touch()
        os.utime(above, ns=(status.st_atime_ns, status.st_mtime_ns))
