"""The tree that the load finds, and what must hold of any tree afterwards."""

import os
import stat
from collections import Counter

from tests.posix.trees import Dir, File, Symlink, Tree

#: Names that never exist, looked up to see that nothing comes up.
ABSENT = [f"absent-{number}" for number in range(20)]


def content(name: str, length: int = 5000) -> bytes:
    """What the file of this name contains at first; nowhere the same."""
    return (name.encode() + b"|") * (length // (len(name) + 1) + 1)


def private(number: int) -> dict[str, File]:
    """The files of one process."""
    return {f"own-{k}": File(content=content(f"{number}/{k}")) for k in range(6)}


def steady() -> Tree:
    """Files that nobody changes, in directories where others are made and removed."""
    return {
        f"a{i}": Dir(
            children={
                f"b{j}": Dir(
                    children={
                        f"c{k}": File(content=content(f"a{i}/b{j}/c{k}", 300)) for k in range(5)
                    }
                )
                for j in range(3)
            }
        )
        for i in range(3)
    }


def initial(processes: int) -> Tree:
    """The whole tree for a load of so many processes."""
    return {
        "shared": Dir(
            children={
                f"d{i}": Dir(
                    children={
                        **{f"f{j}": File(content=content(f"{i}/{j}", 2000)) for j in range(10)},
                        **{f"e{j}": Dir(children={"x": File(content=b"x")}) for j in range(3)},
                        "s": Symlink(target="f1"),
                    }
                )
                for i in range(8)
            }
        ),
        "private": Dir(
            children={str(number): Dir(children=private(number)) for number in range(processes)}
        ),
        "steady": Dir(children=steady()),
    }


def check(top: str) -> Counter[str]:
    """Walk the tree: listings, inode numbers and link counts agree; AssertionError otherwise.

    A directory may have nlink 1 for "not counted", as merged ones have and large ones on ext4.
    """
    found: Counter[str] = Counter()
    names: Counter[int] = Counter()
    counted: dict[int, tuple[int, str]] = {}
    pending = [top]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as entries:
            listed = [(entry.name, entry.inode()) for entry in entries]
        assert len({name for name, _ in listed}) == len(listed), f"{directory} lists a name twice"
        below = 0
        for name, ino in listed:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            assert st.st_ino == ino, f"{path}: d_ino {ino}, st_ino {st.st_ino}"
            if stat.S_ISDIR(st.st_mode):
                pending.append(path)
                below += 1
                found["directories"] += 1
                continue
            names[ino] += 1
            counted[ino] = st.st_nlink, path
            found["names"] += 1
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    assert len(file.read()) == st.st_size, f"{path} ends early"
        links = os.stat(directory).st_nlink
        assert links in (1, 2 + below), f"{directory}: nlink {links} with {below} directories"
    for ino, (links, path) in counted.items():
        assert links == names[ino], f"{path}: nlink {links}, names {names[ino]}"
    found["files"] = len(counted)
    return found


def remove(top: str) -> None:
    """Take away everything below, as `rm -r` does; each directory must end up empty."""
    for entry in list(os.scandir(top)):
        if entry.is_dir(follow_symlinks=False):
            remove(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
    assert os.listdir(top) == []
