"""What the processes of the load do until time is up; each returns how often it did what."""

import errno
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from tests.posix import calls
from tests.stress.tree import ABSENT, content, private, steady

#: What may happen to anybody whose names others move and remove at the same time.
RACES = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,  # a directory into itself
    errno.ELOOP,
}


class Load:
    """One process: picks a method at random, again and again."""

    choices: ClassVar[dict[str, int]]

    def __init__(self, top: str, number: int, seed: int) -> None:
        self.top = top
        self.number = number
        self.random = random.Random(seed * 1000 + number)
        self.counts: Counter[str] = Counter()

    def run(self, end: float) -> Counter[str]:
        """Go on until the time (of time.monotonic) has come."""
        names, weights = list(self.choices), list(self.choices.values())
        while time.monotonic() < end:
            for name in self.random.choices(names, weights, k=20):
                getattr(self, name)()
                self.counts[name] += 1
        self.finish()
        return self.counts

    def finish(self) -> None:
        """What is checked once at the end."""


class Shared(Load):
    """Does everything to names that everybody uses; only the errors of races are allowed."""

    choices: ClassVar = {
        "create": 8, "write": 8, "read": 8, "truncate": 2, "unlink": 6, "rename": 6,
        "exchange": 2, "link": 4, "symlink": 2, "mkdir": 4, "rmdir": 3, "rename_dir": 2,
        "list": 4, "stat": 10, "chmod": 2, "xattr": 2, "hold": 2,
    }  # fmt: skip

    def _dir(self) -> str:
        name = f"{self.top}/shared/d{self.random.randrange(8)}"
        if self.random.random() < 0.4:
            name += f"/e{self.random.randrange(5)}"
        return name

    def _file(self) -> str:
        return f"{self._dir()}/f{self.random.randrange(20)}"

    def _race(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            if error.errno not in RACES:
                raise
            self.counts["races"] += 1

    def create(self) -> None:
        def act() -> None:
            with open(self._file(), "xb") as file:
                file.write(content("new", self.random.randrange(20_000)))

        self._race(act)

    def write(self) -> None:
        def act() -> None:
            with open(self._file(), "r+b") as file:
                file.seek(self.random.randrange(10_000))
                file.write(content("over", self.random.randrange(8000)))

        self._race(act)

    def read(self) -> None:
        def act() -> None:
            with open(self._file(), "rb") as file:
                file.read()

        self._race(act)

    def truncate(self) -> None:
        self._race(lambda: os.truncate(self._file(), self.random.randrange(10_000)))

    def unlink(self) -> None:
        self._race(lambda: os.unlink(self._file()))

    def rename(self) -> None:
        self._race(lambda: os.rename(self._file(), self._file()))

    def exchange(self) -> None:
        self._race(lambda: calls.renameat2(self._file(), self._file(), calls.RENAME_EXCHANGE))

    def link(self) -> None:
        self._race(lambda: os.link(self._file(), self._file()))

    def symlink(self) -> None:
        self._race(lambda: os.symlink("f1", self._file()))

    def mkdir(self) -> None:
        self._race(lambda: os.mkdir(self._dir()))

    def rmdir(self) -> None:
        self._race(lambda: os.rmdir(self._dir()))

    def rename_dir(self) -> None:
        self._race(lambda: os.rename(self._dir(), self._dir()))

    def list(self) -> None:
        self._race(lambda: os.listdir(self._dir()))

    def stat(self) -> None:
        self._race(lambda: os.lstat(self._file()))

    def chmod(self) -> None:
        self._race(lambda: os.chmod(self._file(), self.random.choice((0o600, 0o644, 0o755))))

    def xattr(self) -> None:
        self._race(lambda: os.setxattr(self._file(), "user.stress", b"1"))

    def hold(self) -> None:
        """A descriptor whose name goes away under it still has the file."""

        def act() -> None:
            path = self._file()
            fd = os.open(path, os.O_RDWR)
            try:
                self._race(lambda: os.unlink(path))
                os.pwrite(fd, b"held", 100)
                os.fstat(fd)
            finally:
                os.close(fd)

        self._race(act)


class Private(Load):
    """Changes files that nobody else touches, and knows their content at every moment."""

    choices: ClassVar = {
        "write": 10, "append": 5, "truncate": 3, "rewrite": 3, "replace": 3, "rename": 4,
        "link": 3, "remove": 2, "verify": 15, "list": 3,
    }  # fmt: skip

    def __init__(self, top: str, number: int, seed: int) -> None:
        super().__init__(top, number, seed)
        self.home = f"{top}/private/{number}"
        self.files = {name: bytearray(file.content) for name, file in private(number).items()}
        self.inodes = {name: os.stat(self._path(name)).st_ino for name in self.files}
        self.made = 0

    def _path(self, name: str) -> str:
        return f"{self.home}/{name}"

    def _any(self) -> str:
        return self.random.choice(sorted(self.files))

    def _data(self, most: int = 9000) -> bytes:
        return self.random.randbytes(self.random.randrange(1, most))

    def write(self) -> None:
        name, data = self._any(), self._data()
        model = self.files[name]
        start = self.random.randrange(20_000)
        with open(self._path(name), "r+b") as file:
            file.seek(start)
            file.write(data)
        model.extend(bytes(max(0, start - len(model))))
        model[start : start + len(data)] = data

    def append(self) -> None:
        name, data = self._any(), self._data()
        with open(self._path(name), "ab") as file:
            file.write(data)
        self.files[name] += data

    def truncate(self) -> None:
        name, size = self._any(), self.random.randrange(20_000)
        os.truncate(self._path(name), size)
        model = self.files[name]
        del model[size:]
        model.extend(bytes(size - len(model)))

    def rewrite(self) -> None:
        name, data = self._any(), self._data()
        with open(self._path(name), "wb") as file:
            file.write(data)
        self.files[name] = bytearray(data)

    def replace(self) -> None:
        """Write beside and rename over, as editors and package managers do."""
        name, data = self._any(), self._data()
        with open(self._path("tmp"), "wb") as file:
            file.write(data)
            if self.random.random() < 0.1:
                file.flush()
                os.fsync(file.fileno())
        os.rename(self._path("tmp"), self._path(name))
        self.files[name] = bytearray(data)
        self.inodes[name] = os.stat(self._path(name)).st_ino

    def rename(self) -> None:
        name = self._any()
        self.made += 1
        new = f"own-{self.number}-{self.made}"
        os.rename(self._path(name), self._path(new))
        self.files[new] = self.files.pop(name)
        self.inodes[new] = self.inodes.pop(name)

    def link(self) -> None:
        """A second name, written through and taken away again."""
        name, data = self._any(), self._data(500)
        os.link(self._path(name), self._path("twin"))
        with open(self._path("twin"), "ab") as file:
            file.write(data)
        self.files[name] += data
        assert os.stat(self._path(name)).st_nlink == 2
        os.unlink(self._path("twin"))
        assert os.stat(self._path(name)).st_nlink == 1

    def remove(self) -> None:
        name = self._any()
        os.unlink(self._path(name))
        assert not os.path.lexists(self._path(name))
        data = self._data()
        with open(self._path(name), "xb") as file:
            file.write(data)
        self.files[name] = bytearray(data)
        self.inodes[name] = os.stat(self._path(name)).st_ino

    def verify(self) -> None:
        self._verify(self._any())

    def _verify(self, name: str) -> None:
        with open(self._path(name), "rb") as file:
            seen = file.read()
            st = os.fstat(file.fileno())
        wanted = bytes(self.files[name])
        assert len(seen) == len(wanted) == st.st_size, (
            f"{self._path(name)}: {len(seen)} bytes read, {st.st_size} told, {len(wanted)} written"
        )
        assert seen == wanted, f"{self._path(name)} has other content"
        assert st.st_ino == self.inodes[name], f"{self._path(name)} has another inode number"

    def list(self) -> None:
        found = set(os.listdir(self.home))
        assert found == set(self.files), f"{self.home} lists {sorted(found)}"

    def finish(self) -> None:
        for name in self.files:
            self._verify(name)
        self.list()


class Steady(Load):
    """Looks up what must be there and what must not, and sees its own changes at once."""

    choices: ClassVar = {"there": 20, "not_there": 10, "listing": 5, "flip": 8, "flip_dir": 3}

    def __init__(self, top: str, number: int, seed: int) -> None:
        super().__init__(top, number, seed)
        self.home = f"{top}/steady"
        self.inodes: dict[str, int] = {}

    def _directory(self) -> str:
        return f"a{self.random.randrange(3)}/b{self.random.randrange(3)}"

    def there(self) -> None:
        name = f"{self._directory()}/c{self.random.randrange(5)}"
        path = f"{self.home}/{name}"
        st = os.stat(path)
        wanted = content(name, 300)
        assert st.st_size == len(wanted)
        assert self.inodes.setdefault(name, st.st_ino) == st.st_ino, f"{path}: another inode"
        if self.random.random() < 0.3:
            with open(path, "rb") as file:
                assert file.read() == wanted

    def not_there(self) -> None:
        path = f"{self.home}/{self._directory()}/{self.random.choice(ABSENT)}"
        assert not os.path.lexists(path), f"{path} came up"

    def listing(self) -> None:
        directory = self._directory()
        found = {name for name in os.listdir(f"{self.home}/{directory}") if name[0] != "n"}
        assert found == {f"c{k}" for k in range(5)}, f"{directory} lists {found}"
        assert len(os.listdir(self.home)) == len(steady())

    def flip(self) -> None:
        path = f"{self.home}/{self._directory()}/new-{self.number}"
        for round_ in range(3):
            with open(path, "xb") as file:
                file.write(b"%d" % round_)
            with open(path, "rb") as file:
                assert file.read() == b"%d" % round_
            os.unlink(path)
            assert not os.path.lexists(path)

    def flip_dir(self) -> None:
        path = f"{self.home}/{self._directory()}/newdir-{self.number}"
        os.mkdir(path)
        with open(f"{path}/inside", "xb"):
            pass
        os.rename(path, path + "2")
        assert not os.path.lexists(path)
        assert os.listdir(path + "2") == ["inside"]
        os.unlink(f"{path}2/inside")
        os.rmdir(path + "2")


def drop_caches(end: float) -> Counter[str]:
    """Make the kernel forget every name, inode and page that it can, twice a second."""
    counts: Counter[str] = Counter()
    while time.monotonic() < end:
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        counts["drop_caches"] += 1
        time.sleep(0.5)
    return counts
