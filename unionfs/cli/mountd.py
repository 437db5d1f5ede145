"""unionfs-mountd: be there already when somebody mounts."""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from unionfs import session
from unionfs.cli import mount, run
from unionfs.errors import UnionfsError
from unionfs.mountd import serve, socket_path
from unionfs.options import MountOptions

PROGRAM = "unionfs-mountd"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run(PROGRAM, command, argv)


def command(argv: Sequence[str]) -> int:
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Mount for unionfs-quickmount, with Python started already. Mounts "
        "stay when this process ends.",
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=socket_path(),
        help="where to listen (default: UNIONFS_MOUNTD, else unionfs-mountd in XDG_RUNTIME_DIR, "
        "else in /run; this user: %(default)s)",
    )
    serve(parser.parse_args(argv).socket, mount_here)
    return 0


def mount_here(argv: Sequence[str], ready: Callable[[], None], keep: int) -> int | None:
    """unionfs-mount with these arguments, unless its caller must become the server of the mount."""
    with suppress(UnionfsError):  # which is reported below
        options = mount.read_arguments(argv)
        if isinstance(options, MountOptions) and options.foreground:
            return None
    serve = partial(session.become_daemon, ready=ready, keep=keep)
    return run(mount.PROGRAM, partial(mount.command, serve=serve), argv)
