"""unionfs-mount: mount a union.

Called by people, by mount(8) as its helper, and by container engines as their mount program.
The command line is read by getopt and not by argparse: it has the shape of mount(8)'s, where
options may follow the arguments, and every mount is a process that would keep argparse.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from getopt import GetoptError, gnu_getopt
from typing import TYPE_CHECKING

from unionfs.cli import printable, run
from unionfs.errors import UnionfsError, UsageError, shortened
from unionfs.options import KERNEL_FLAGS, OPTIONS, REFUSED, MountOptions, parse
from unionfs.version import VERSION

if TYPE_CHECKING:
    from unionfs.remount import Remount

PROGRAM = "unionfs-mount"

HELP = """\
usage: unionfs-mount [-o OPTIONS] LOWER[:LOWER...] UPPER MOUNTPOINT
       unionfs-mount [-o OPTIONS] LOWER[:LOWER...] MOUNTPOINT          (read-only)
       unionfs-mount -o lowerdir=A:B,upperdir=U[,workdir=W],... MOUNTPOINT
       unionfs-mount SOURCE MOUNTPOINT -o lowerdir=A:B,...             (as mount(8) does)

Mount a union: read-only LOWER directories, the first one topmost, under UPPER, which takes all
changes. Unmount with: fusermount3 -u MOUNTPOINT, or umount MOUNTPOINT.

  -o OPTIONS      mount options, separated by commas; a backslash protects a comma, a colon
                  or a backslash in a path
  -f              stay in the foreground
  -d              print a line for each request; implies -f
  -h, --help      print this
  --help-options  print every mount option
  --help-status   print every exit status
  -V, --version   print the version
  -n -s -v -t TYPE
                  accepted from mount(8), without a meaning here

often used options:
  ro                       no changes
  whiteout=aufs|overlay    how deletions are stored in UPPER
  copyup=change|open       when a lower file is copied: at its first change, or when opened
  rename_dir=copy|redirect|exdev
                           renaming a directory that has content in a lower
  volatile                 never wait for the disk
  allow_other              let other users in
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run(PROGRAM, command, argv)


def command(
    argv: Sequence[str], serve: Callable[[MountOptions, Callable[[str], None]], int] | None = None
) -> int:
    """Mount by `serve`, or by `session.serve`."""
    options = read_arguments(argv)
    if isinstance(options, str):
        print(options, end="")
        return 0
    if not isinstance(options, MountOptions):
        from unionfs.remount import remount

        if options.kept:
            notice(f"remount leaves as it is: {', '.join(options.kept)}")
        remount(options)
        return 0
    for name in options.unknown:
        notice(f"unknown option {shortened(name)} is ignored")
    from unionfs import session, surroundings  # not needed for --help and usage errors

    surroundings.raise_limits()
    for text in surroundings.limits_that_bite():
        notice(text)
    return (serve or session.serve)(options, notice)


def notice(text: str) -> None:
    """Say something that is no error."""
    print(f"{PROGRAM}: warning: {printable(text)}", file=sys.stderr, flush=True)


def read_arguments(argv: Sequence[str]) -> MountOptions | Remount | str:
    """The options of the mount, what to change about one, or the text that was asked for.

    Raises `UsageError` or `UnsupportedOption`.
    """
    try:
        flags, positionals = gnu_getopt(
            list(argv), "o:t:N:fdsnvhV", ["help", "help-options", "help-status", "version"]
        )
    except GetoptError as error:
        raise UsageError(problem=str(error)) from None
    given = {name for name, _ in flags}
    if given & {"-h", "--help"}:
        return HELP
    if "--help-options" in given:
        return help_options()
    if "--help-status" in given:
        return help_status()
    if given & {"-V", "--version"}:
        python = ".".join(map(str, sys.version_info[:3]))
        return f"{PROGRAM} {VERSION}\nFUSE union filesystem, running on Python {python}\n"
    if "-N" in given:
        # mount(8) leaves entering the namespace to its helper; ignoring it would mount elsewhere.
        raise UsageError(problem="-N is not supported: run this command inside the namespace")
    texts = [value for name, value in flags if name == "-o"]
    if any("remount" in text for text in texts):
        from unionfs import remount  # which a mount rarely needs

        asked = remount.read(texts, positionals)
        if asked is not None:
            return asked
    return parse(
        texts,
        positionals,
        debug="-d" in given,
        foreground="-f" in given,
    )


def help_options() -> str:
    """A line or two for each option of the table, then the names that go elsewhere."""
    from textwrap import wrap

    lines = []
    for name, option in OPTIONS.items():
        shape = f"  {name}{option.shape}"
        if len(shape) > 32:
            lines.append(shape)
            shape = ""
        lines.append(f"{shape:34}{option.help}")
    for paragraph in (
        f"The kernel's: {', '.join(KERNEL_FLAGS)}, and what takes each back (rw, suid, ...); "
        "context= and the other labels; private, slave, shared and the like.",
        f"Refused, with the reason: {', '.join(REFUSED)}.",
        "Options for mount(8) and fstab are passed over, unknown ones after a warning.",
    ):
        lines += ["", *wrap(paragraph, 96)]
    return "\n".join(lines) + "\n"


def help_status() -> str:
    """A line for each error, with its exit status."""
    lines = ["    0  success", "    1  a bug: please report the traceback"]
    for kind in sorted(UnionfsError.__subclasses__(), key=lambda kind: kind.exit_code):
        summary = (kind.__doc__ or "").partition("\n")[0].rstrip(".")
        lines.append(f"{kind.exit_code:5}  {summary}")
    return "\n".join(lines) + "\n"
