"""unionfs: read-only directories under a read-write one, as one tree.

    with unionfs.mount(["/lower1", "/lower2"], "/upper", "/mnt"):
        ...

Importing this package is cheap: what mounting needs is imported by the first mount.
"""

from typing import TYPE_CHECKING

from unionfs.version import VERSION

if TYPE_CHECKING:
    from unionfs.session import Mount, mount

__version__ = VERSION

__all__ = ["Mount", "__version__", "mount"]


def __getattr__(name: str) -> object:
    if name in ("Mount", "mount"):
        from unionfs import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
