"""A Debian root without a network: the packages that are installed on this machine, as an image.

What debootstrap downloads is here already.  The essential packages, the wanted ones and all
that they depend on are taken with their entries in dpkg's database: apt and dpkg go on from there.
"""

import functools
import io
import os
import re
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Documentation, which nothing looks at.
_LEFT_OUT = re.compile(r"/usr/share/(doc|man|info|locale|lintian|bug)/.")

_STATE = Path("/var/lib/dpkg")


def missing(wanted: Iterable[str]) -> list[str]:
    """Which of these packages are not installed on this machine."""
    return [name for name in wanted if name not in _installed()]


@functools.cache
def _installed() -> dict[str, str]:
    """The entry in dpkg's status file of each installed package and of what one provides."""
    found: dict[str, str] = {}
    provided: dict[str, str] = {}
    for entry in (_STATE / "status").read_text().split("\n\n"):
        fields = _fields(entry)
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = entry.strip() + "\n"
            for name in _names(fields.get("Provides", "")):
                provided[name[0]] = entry.strip() + "\n"
    return provided | found


def _fields(entry: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+): (.*)$", entry, flags=re.M))


def _names(relation: str) -> Iterator[list[str]]:
    """The alternatives of each dependency, without versions and architectures."""
    for clause in filter(None, relation.split(",")):
        yield [re.split(r"[ :(]", name.strip())[0] for name in clause.split("|")]


def _closure(wanted: Iterable[str]) -> dict[str, str]:
    """The entries of the wanted packages, of the essential ones, and of what those depend on."""
    every = _installed()
    essential = (name for name, entry in every.items() if "\nEssential: yes\n" in entry)
    chosen: dict[str, str] = {}
    todo = [*wanted, *essential]
    while todo:
        entry = every[todo.pop()]
        fields = _fields(entry)
        if fields["Package"] in chosen:
            continue
        chosen[fields["Package"]] = entry
        for field in ("Pre-Depends", "Depends"):
            for names in _names(fields.get(field, "")):
                todo += [name for name in names if name in every][:1]
    return chosen


def _files(packages: Iterable[str]) -> Iterator[str]:
    """All that dpkg lists for these packages, by the paths at which it really is."""
    command = ["dpkg-query", "--listfiles", *packages]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seen = set()
    for line in listing.splitlines():
        if not line.startswith("/") or line == "/." or _LEFT_OUT.match(line):
            continue  # a line may tell of a diversion
        directory, _, name = line.rpartition("/")
        path = f"{os.path.realpath(directory or '/').rstrip('/')}/{name}"
        if path not in seen and os.path.lexists(path):
            seen.add(path)
            yield path


_making = threading.Lock()


def archived_root(wanted: Iterable[str]) -> Path:
    """A tar of a root with the wanted packages; made once for each choice of them."""
    with _making:  # functools.cache alone lets two threads make the same
        return _archived_root(tuple(wanted))


@functools.cache
def _archived_root(wanted: tuple[str, ...]) -> Path:
    path = Path(tempfile.mkdtemp(prefix="debian-"), "root.tar")  # in the run's directory
    _write_root(path, wanted)
    return path


def _write_root(path: Path, wanted: Iterable[str]) -> None:
    entries = _closure(wanted)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin"):
            if os.path.islink(f"/{name}"):
                archive.add(f"/{name}", name)  # where /usr is merged
        files = sorted(_files(entries))
        for file in dict.fromkeys([*files, *_alternatives(set(files)), *_database(entries)]):
            if not (os.path.islink(file) and file.count("/") == 1):
                archive.add(file, file[1:], recursive=False)
        for name in ("passwd", "group"):
            archive.add(f"/usr/share/base-passwd/{name}.master", f"etc/{name}")
        status = "\n".join(entries.values()).encode()
        for name, content in (("status", status), ("available", b""), ("lock", b"")):
            info = tarfile.TarInfo(str(_STATE / name)[1:])
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _alternatives(files: set[str]) -> Iterator[str]:
    """The links that update-alternatives has made to some of the files, as awk."""
    for link in Path("/etc/alternatives").iterdir():
        if os.path.realpath(link) in files:
            yield str(link)
            if (command := Path("/usr/bin", link.name)).is_symlink():
                yield str(command)


def _database(packages: Iterable[str]) -> Iterator[str]:
    """What dpkg has noted of these packages."""
    for name in ("alternatives", "info", "info/format", "parts", "triggers", "updates"):
        if (_STATE / name).exists():
            yield str(_STATE / name)
    names = "|".join(map(re.escape, packages))
    for file in (_STATE / "info").iterdir():
        if re.fullmatch(rf"({names})(:\w+)?\.\w+", file.name):
            yield str(file)
