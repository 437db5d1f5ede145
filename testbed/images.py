"""Images made from nothing: a base of busybox, and archives written layer by layer."""

import functools
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

#: The name of the base image in every store.
BASE = "localhost/base:latest"

#: cap_net_raw+ep as version 2 of struct vfs_cap_data (linux/capability.h) has it on disk.
CAPABILITY = b"\x01\0\0\x02\0\x20\0\0" + bytes(12)

_MTIME = 1_600_000_000

_APPLETS = [
    *("cat", "chgrp", "chmod", "chown", "cp", "cut", "dd", "echo", "env", "find", "grep", "head"),
    *("id", "ln", "ls", "mkdir", "mkfifo", "mknod", "mv", "od", "pwd", "readlink", "rm", "rmdir"),
    *("sed", "seq", "sh", "sleep", "sort", "stat", "sync", "tail", "tar", "test", "touch", "tr"),
    *("true", "wc", "xargs"),
]

_IDS = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>
int main(void) {
    uid_t r, e, s;
    gid_t g, f, t;
    return getresuid(&r, &e, &s) || getresgid(&g, &f, &t)
        || printf("%d %d %d %d\n", (int)r, (int)e, (int)g, (int)f) < 0;
}
"""


@functools.cache
def _ids_program() -> bytes:
    """A program that prints its real and effective user and group: busybox drops set-id."""
    with tempfile.TemporaryDirectory() as place:
        source, program = Path(place, "ids.c"), Path(place, "ids")
        source.write_text(_IDS)
        subprocess.run(["cc", "-static", "-O1", "-o", program, source], check=True)
        return program.read_bytes()


class Layer:
    """A layer in the making: entries in the order they are added, owned by root unless told."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._bytes, mode="w", format=tarfile.PAX_FORMAT)

    def _add(self, name: str, kind: bytes, mode: int, owner: int, **how: object) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.uid, info.gid, info.mtime = kind, mode, owner, owner, _MTIME
        for key, value in how.items():
            setattr(info, key, value)
        return info

    def file(
        self,
        name: str,
        content: bytes | str = b"",
        mode: int = 0o644,
        owner: int = 0,
        xattrs: Mapping[str, bytes] | None = None,
    ) -> None:
        data = content.encode() if isinstance(content, str) else content
        pax = {f"SCHILY.xattr.{key}": value.decode() for key, value in (xattrs or {}).items()}
        info = self._add(name, tarfile.REGTYPE, mode, owner, size=len(data), pax_headers=pax)
        self._tar.addfile(info, io.BytesIO(data))

    def directory(self, name: str, mode: int = 0o755, owner: int = 0) -> None:
        self._tar.addfile(self._add(name, tarfile.DIRTYPE, mode, owner))

    def symlink(self, name: str, target: str) -> None:
        self._tar.addfile(self._add(name, tarfile.SYMTYPE, 0o777, 0, linkname=target))

    def link(self, name: str, target: str, mode: int = 0o644) -> None:
        """One more name; unpacking it sets the mode of them all."""
        self._tar.addfile(self._add(name, tarfile.LNKTYPE, mode, 0, linkname=target))

    def fifo(self, name: str, mode: int = 0o644) -> None:
        self._tar.addfile(self._add(name, tarfile.FIFOTYPE, mode, 0))

    def whiteout(self, name: str) -> None:
        """Hide what the layers below have under this name (OCI image spec, layer.md)."""
        directory, slash, last = name.rpartition("/")
        self.file(f"{directory}{slash}.wh.{last}")

    def opaque(self, directory: str) -> None:
        """Hide all that the layers below have in this directory."""
        self.file(f"{directory}/.wh..wh..opq")

    def close(self) -> bytes:
        self._tar.close()
        return self._bytes.getvalue()


def _base() -> Layer:
    layer = Layer()
    for name in ("bin", "etc", "data", "data/dir", "data/tree", "data/tree/deep", "root"):
        layer.directory(name)
    layer.directory("tmp", 0o1777)
    layer.directory("home", 0o750, owner=1000)
    busybox = shutil.which("busybox")
    assert busybox is not None
    layer.file("bin/busybox", Path(busybox).read_bytes(), 0o755)
    for applet in _APPLETS:
        layer.link(f"bin/{applet}", "bin/busybox", 0o755)
    layer.file("bin/ids", _ids_program(), 0o755)
    layer.file("bin/setuid-ids", _ids_program(), 0o4755)
    layer.file("bin/setgid-ids", _ids_program(), 0o2755, owner=1000)
    layer.file("bin/capable", "#!/bin/sh\n", 0o755, xattrs={"security.capability": CAPABILITY})
    layer.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nguest:x:1000:1000::/home:/bin/sh\n")
    layer.file("etc/group", "root:x:0:\nguest:x:1000:\nstaff:x:50:guest\n")
    layer.file("data/file", "a file of the base\n", xattrs={"user.note": b"kept"})
    layer.file("data/removed", "to be removed\n")
    layer.file("data/closed", "nobody may read this\n", 0o000)
    layer.file("data/owned", "another's\n", 0o640, owner=1000)
    layer.file("data/becomes-directory", "a file\n")
    layer.directory("data/becomes-file")
    layer.file("data/becomes-file/inside", "inside\n")
    for number in range(8):
        layer.file(f"data/dir/{number}", f"{number}\n" * 100)
        layer.file(f"data/tree/deep/{number}", f"deep {number}\n")
    layer.file("data/one-name", "two names\n")
    layer.link("data/other-name", "data/one-name")
    layer.symlink("data/symlink", "file")
    layer.symlink("data/dangling", "/nowhere")
    layer.fifo("data/fifo")
    return layer


@functools.cache
def base_layer() -> bytes:
    """The one layer of the base image."""
    return _base().close()


def write_base(path: Path) -> None:
    path.write_bytes(base_layer())


def write_archive(path: Path, name: str, layers: Sequence[bytes]) -> None:
    """Write layers, the lowest first, as an archive that `podman load` takes (docker save's)."""
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [
        {"Config": config_name, "RepoTags": [name], "Layers": [f"{d}.tar" for d in digests]}
    ]
    files = {f"{digest}.tar": layer for digest, layer in zip(digests, layers, strict=True)}
    files |= {config_name: config, "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(path, "w") as archive:
        for member, content in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def saved_layers(path: Path) -> Iterable[bytes]:
    """The layers of an archive that `podman save` wrote, the lowest first."""
    with tarfile.open(path) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        for name in json.loads(read("manifest.json"))[0]["Layers"]:
            yield read(name)
