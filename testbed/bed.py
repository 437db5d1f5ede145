"""A test bed for container engines: namespaces of its own, and everything an engine keeps.

Engines leave processes, mounts and locks in many places. Here all of that lives in a process, a
mount and an IPC namespace that a keeper holds: when it ends, so does everything.  What an engine
reads from the machine (/etc, /dev/fuse, the cgroup tree) is put in order in there, and nothing on
the machine is touched.
"""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

CHECKOUT = Path(__file__).parents[1]

#: The ordinary user: known by name, as newuidmap wants it, in the bed only.
USER, UID = "unionfs-tester", 4321
#: The host's first id of those that /etc/subuid gives the user.
SUBUID, SUBIDS = 200000, 65536

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: What the keeper does before it waits for its standard input to end.
_SETUP = r"""
set -e
base=$1
mount --make-rprivate /
# crun and runc cannot be without cgroups; both refuse trees that are half of version 1.
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -R /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
fi
# podman keeps its locks in here, under one name for all that run as one user.
mount -t tmpfs -o mode=1777 none /dev/shm
mount -t tmpfs -o mode=755 none /run  # the state of runtimes that root starts
mkdir -m 1777 /run/lock
mount -t tmpfs -o mode=755 none "$base/device"
mknod -m 666 "$base/device/fuse" c 10 229
mount --bind "$base/device/fuse" /dev/fuse
# Not single files: whoever replaces one on the machine, as useradd does, would unmount it in here.
mount -t tmpfs -o mode=755 none "$base/etc"
mkdir "$base/etc/upper" "$base/etc/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$base/etc/upper,workdir=$base/etc/work" none /etc
echo "$2:x:$3:$3::$base:/bin/sh" >> /etc/passwd
echo "$2:x:$3:" >> /etc/group
echo "$2:$4:$5" | tee /etc/subuid > /etc/subgid
mount --make-rshared /
echo ready
# What is orphaned in here is not waited for, and no zombie stays. (A shell keeps its own handler.)
exec env --ignore-signal=CHLD cat
"""


class Failed(Exception):
    """A command in the bed failed; the message is the command and all it said."""


class Bed:
    """The namespaces, and a directory `base` for all that is kept; a context manager.

    `base` is a new one below `parent`, or below what is usual for temporary files. Who is to
    run engines as the user sees to it that the user can reach it.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="bed-", dir=parent))
        self.base.chmod(0o755)
        self._keeper: subprocess.Popen[str] | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        try:
            for name in ("device", "etc"):
                (self.base / name).mkdir()
            self._keeper = subprocess.Popen(
                # The end of input is not enough: a process forked beside this one has our end too.
                ["setpriv", "--pdeathsig=KILL",
                 "unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc",
                 "sh", "-c", _SETUP, "sh", self.base, *map(str, (USER, UID, SUBUID, SUBIDS))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            assert self._keeper.stdout is not None
            if (said := self._keeper.stdout.readline()) != "ready\n":
                raise Failed(f"no test bed: {said}{self._keeper.stdout.read()}")
            me = self._keeper.pid
            self._pid = int(Path(f"/proc/{me}/task/{me}/children").read_text())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.kill()  # and by --kill-child the first process, whose end ends all others
            keeper.communicate()
        subprocess.run(["rm", "-rf", self.base], check=True)

    def processes(self) -> set[str]:
        """The names of the commands that run inside, the keeper's among them."""
        found = set()
        for name in Path(f"/proc/{self._pid}/root/proc").glob("[0-9]*/comm"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                found.add(name.read_text().strip())
        return found

    def directory(self, name: str, owner: int = 0) -> Path:
        """A new directory in the bed."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.base))
        path.chmod(0o755)
        os.chown(path, owner, owner)
        return path

    def command(
        self,
        *words: str | Path,
        uid: int = 0,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> list[str]:
        """The words that run a command inside, as root or as the user, from wherever they are run.

        The command has a usual PATH, what ``environment`` says, and no other variables.
        """
        identity = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        variables = {"PATH": PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", **(environment or {})}
        return [
            *("nsenter", f"--target={self._pid}", "--mount", "--pid", "--ipc"),
            *(["setpriv", *identity] if identity else []),
            # Not nsenter's --wd: a directory opened outside has no path inside.
            *("env", "--ignore-environment", f"--chdir={directory or self.base}"),
            *(f"{name}={value}" for name, value in variables.items()),
            *map(str, words),
        ]

    def run(
        self,
        *words: str | Path,
        uid: int = 0,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        stdin: str | bytes = b"",
        timeout: float = 120,
        status: int = 0,
    ) -> str:
        """Run a command inside to its end; its standard output.

        Raises `Failed`, which shows all that it said, unless it ends with `status`.
        """
        done = subprocess.run(
            self.command(*words, uid=uid, environment=environment, directory=directory),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=timeout,
        )
        out, said = (text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr))
        if done.returncode != status:
            command = shlex.join(map(str, words))
            raise Failed(f"{command}\nended with {done.returncode}:\n{out[-3000:]}{said[-3000:]}")
        return out
