"""Images on their way: saved, loaded, exported, and made by somebody else."""

import tarfile
from pathlib import Path

from testbed.images import BASE, Layer, base_layer, write_archive
from tests.containers.engines import Engine
from tests.containers.steps import building
from tests.containers.steps.registry import step


def _members(path: Path) -> dict[str, object]:
    with tarfile.open(path) as archive:
        return {
            m.name: (m.type, m.mode, m.uid, m.gid, m.size, m.linkname, _xattrs(m)) for m in archive
        }


def _xattrs(member: tarfile.TarInfo) -> list[tuple[str, str]]:
    headers = member.pax_headers.items()
    return sorted((key, value) for key, value in headers if key.startswith("SCHILY.xattr."))


@step("save, remove, load")
def save(engine: Engine) -> object:
    archive = engine.directory("saved") / "image.tar"
    image = engine.build(building.STEPS, "--tag=saved", files=building.FILES)
    before = engine.look(image)
    engine.podman("save", "--quiet", f"--output={archive}", "localhost/saved:latest")
    engine.podman("rmi", "--all", "--force")
    engine.podman("load", "--quiet", f"--input={archive}")
    after = engine.look("localhost/saved:latest")
    engine.restore_base()
    assert after == before
    return after


@step("export")
def export(engine: Engine) -> object:
    archive = engine.directory("exported") / "root.tar"
    script = "rm /data/removed; mv /data/tree /data/moved; echo more >> /data/file"
    container = engine.podman("create", BASE, "sh", "-ec", script)
    engine.podman("start", "--attach", container)
    engine.podman("export", f"--output={archive}", container)
    engine.podman("rm", container)
    members = _members(archive)
    assert "data/moved/deep/7" in members
    assert "data/removed" not in members
    return members


@step("layers with explicit whiteouts")
def whiteouts(engine: Engine) -> object:
    second = Layer()
    second.whiteout("data/removed")
    second.opaque("data/dir")
    second.file("data/dir/new", "beside an opaque mark\n")
    second.whiteout("data/owned")
    second.file("data/owned", "beside its own whiteout\n", 0o600, owner=50)
    second.file("data/becomes-directory/inside", "a directory hides a file\n")
    second.whiteout("data/becomes-file")
    second.whiteout("data/tree")
    third = Layer()
    third.file("data/removed", "it is back\n")
    third.file("data/tree/other", "only this one\n")
    third.whiteout("data/never-there")
    third.file("data/dir/newer", "merged\n")
    archive = engine.directory("whiteouts") / "image.tar"
    write_archive(
        archive, "localhost/whiteouts:latest", [base_layer(), second.close(), third.close()]
    )
    engine.podman("load", "--quiet", f"--input={archive}")
    tree = engine.look("localhost/whiteouts:latest")
    names = {name.removeprefix("data/") for name in tree if name.startswith("data/")}
    assert {name for name in names if name.startswith("dir/")} == {"dir/new", "dir/newer"}
    assert {name for name in names if name.startswith("tree")} == {"tree", "tree/other"}
    assert "becomes-file" not in names
    assert tree["data/owned"][1:4] == [0o600, 50, 50]
    assert tree["data/removed"][0] == "file"
    said = engine.podman("run", "--rm", "localhost/whiteouts:latest", "find", "/data")
    return {"tree": tree, "said": sorted(said.splitlines())}


@step("100 layers")
def hundred(engine: Engine) -> object:
    layers = [base_layer()]
    for number in range(1, 100):
        layer = Layer()
        layer.directory("many")
        layer.file(f"many/{number}", f"{number}\n")
        layer.file("many/last", f"{number}\n")
        if number % 3 == 0:
            layer.whiteout(f"many/{number - 1}")
        layers.append(layer.close())
    archive = engine.directory("hundred") / "image.tar"
    write_archive(archive, "localhost/hundred:latest", layers)
    engine.podman("load", "--quiet", f"--input={archive}")
    script = "cd /many; cat last; echo more >> 1; rm 3; ls | sort -n; cat 1"
    said = engine.podman(
        "run", "--rm", "localhost/hundred:latest", "sh", "-ec", script
    ).splitlines()
    left = [number for number in range(1, 100) if number % 3 != 2 and number != 3]
    assert said == ["99", "last", *map(str, left), "1", "more"]
    tree = engine.look("localhost/hundred:latest")
    engine.podman("rmi", "localhost/hundred:latest")
    return tree
