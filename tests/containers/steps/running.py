"""Containers that run: what they may do, what they leave, what they do to each other."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from testbed.images import BASE, write_base
from tests.containers.engines import Engine
from tests.containers.steps.registry import step


def _diff(engine: Engine, container: str) -> list[str]:
    """`podman diff`, without what lies in /data/dir.

    podman asks the kernel's driver for the upper alone and compares whole mounts for everybody
    else; of a directory that was replaced by a new one the two tell in other words.
    """
    lines = engine.podman("diff", container).splitlines()
    return sorted(line for line in lines if not line.split()[1].startswith("/data/dir"))


_READ = """
find / -xdev > /dev/null
cat /data/dir/* /data/file /data/one-name /bin/busybox > /dev/null
tar -c -f - /data /bin | wc -c > /dev/null
ls -lR /data /etc > /dev/null
"""


@step("reading changes nothing")
def reading(engine: Engine) -> object:
    container = engine.podman("create", BASE, "sh", "-ec", _READ)
    engine.podman("start", "--attach", container)
    changes = engine.podman("diff", container).splitlines()
    engine.podman("rm", container)
    # podman puts its own /etc/hosts and the like into every container.
    assert not [line for line in changes if line.split()[1].startswith(("/bin", "/data", "/home"))]
    return sorted(changes)


_CHANGE = """
rm /data/removed
echo new > /data/new
chmod 600 /data/file
mv /data/tree /data/moved
rm -r /data/dir
mkdir /data/dir
echo again > /data/dir/again
chown 1000:1000 /data/symlink -h
"""


@step("run, exec, cp, diff, commit")
def life(engine: Engine) -> object:
    outside = engine.directory("outside")
    (outside / "tree/below").mkdir(parents=True)
    (outside / "tree/below/file").write_text("copied in\n")
    container = engine.podman("run", "--detach", BASE, "sleep", "1000")
    engine.podman("exec", container, "sh", "-ec", _CHANGE)
    engine.podman("cp", outside / "tree", f"{container}:/data/dir")
    engine.podman("cp", f"{container}:/data/moved", outside / "back")
    assert (outside / "back/deep/3").read_text() == "deep 3\n"
    changes = _diff(engine, container)
    image = engine.podman("commit", "--quiet", container)
    everything = (container, "sh", "-c", "find /data | sort")
    seen = engine.podman("exec", *everything)
    engine.podman("restart", "--time=0", container)
    assert engine.podman("exec", *everything) == seen
    assert engine.podman("exec", container, "cat", "/data/dir/again") == "again"
    engine.podman("rm", "--force", "--time=0", container)
    tree = engine.look(image)
    assert "data/moved/deep/7" in tree
    assert "data/removed" not in tree
    assert "data/dir/3" not in tree
    return {"diff": changes, "seen": seen, "image": tree}


@step("commit of a container that has stopped")
def stopped(engine: Engine) -> object:
    container = engine.podman("create", BASE, "sh", "-ec", _CHANGE)
    engine.podman("start", "--attach", container)
    changes = _diff(engine, container)
    image = engine.podman("commit", "--quiet", container)
    tree = engine.look_into(container)
    engine.podman("rm", container)
    committed = engine.look(image)
    del tree["."], committed["."]  # podman gives the root of a container another mode
    assert committed == tree
    return {"diff": changes, "image": committed}


@step("read-only container")
def read_only(engine: Engine) -> object:
    script = """
    for name in /data/file /data/new /new; do
        if echo x >> $name; then echo "$name was written"; fi
    done 2>&1
    rm /data/removed 2>&1 || cat /data/removed
    echo scratch > /tmp/scratch; cat /tmp/scratch
    """
    said = engine.podman("run", "--rm", "--read-only", BASE, "sh", "-c", script)
    assert said.count("Read-only file system") == 4
    assert said.endswith("to be removed\nscratch")
    return said


def _fill(directory: Path, owner: int) -> dict[str, str]:
    content = {"kept": "kept\n", "changed": "before\n", "removed": "removed\n"}
    for name, text in content.items():
        (directory / name).write_text(text)
        os.chown(directory / name, owner, owner)
    return content


def _content(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


@step("volume with :O")
def volume(engine: Engine) -> object:
    directory = engine.directory("volume")
    before = _fill(directory, engine.uid)
    script = "rm /v/removed; echo after > /v/changed; echo new > /v/new; cd /v; grep . *"
    said = engine.podman("run", "--rm", f"--volume={directory}:/v:O", BASE, "sh", "-ec", script)
    assert said.splitlines() == ["changed:after", "kept:kept", "new:new"]
    assert _content(directory) == before
    return said


@step("--rootfs with :O")
def rootfs(engine: Engine) -> object:
    directory = engine.directory("rootfs")
    write_base(directory / "base.tar")
    root = directory / "root"
    engine.inside('mkdir "$1"; tar -C "$1" --xattrs -xpf "$2"', root, directory / "base.tar")
    names = engine.inside('cd "$1"; find data bin', root)
    said = engine.podman(
        "run", "--rm", "--rootfs", f"{root}:O", "sh", "-ec", f"{_CHANGE}\nfind /data | sort"
    )
    assert engine.inside('cd "$1"; find data bin', root) == names
    assert engine.inside('cat "$1/data/removed"', root) == "to be removed\n"
    return said


_AS_GUEST = """
id
ids
setuid-ids
setgid-ids
cat /data/owned
for name in /home/mine /tmp/mine; do echo mine > $name; stat -c '%u %g %a' $name; done
cat /data/closed 2>&1 || true
echo x 2>&1 >> /data/file || true
rm /data/removed 2>&1 || true
chmod 777 /data/owned
stat -c '%u %g %a' /data/owned
"""


@step("users inside, set-id programs")
def users(engine: Engine) -> object:
    said = engine.podman("run", "--rm", "--user=guest", BASE, "sh", "-ec", _AS_GUEST)
    lines = said.splitlines()
    assert lines[1:4] == ["1000 1000 1000 1000", "1000 0 1000 1000", "1000 1000 1000 1000"]
    assert sum("ermission denied" in line for line in lines) == 3
    assert lines[-1] == "1000 1000 777"
    return said


@step("parallel containers")
def parallel(engine: Engine) -> object:
    def one(number: int) -> str:
        script = f"""
        echo {number} >> /data/file
        rm -r /data/dir
        mkdir /data/dir
        for i in $(seq 50); do echo $i > /data/dir/$i; done
        mv /data/tree /data/tree{number}
        cat /data/file /data/dir/*
        find /data
        """
        return engine.podman("run", "--rm", BASE, "sh", "-ec", script)

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(one, range(6)))
    for number, text in enumerate(said):
        assert f"a file of the base\n{number}\n1\n" in text
        assert f"/data/tree{number}/deep/7" in text
    return [sorted(text.splitlines()) for text in said]


@step("starts and stops")
def restarts(engine: Engine) -> object:
    script = "echo started >> /data/log; rm -f /data/dir/$(wc -l < /data/log); sleep 1000"
    container = engine.podman("create", BASE, "sh", "-c", script)
    for _ in range(3):
        engine.podman("start", container)
        engine.podman("stop", "--time=0", container)
    engine.podman("start", container)
    wait = "until [ $(wc -l < /data/log) = 4 ]; do sleep 0.05; done; find /data; cat /data/log"
    said = sorted(engine.podman("exec", container, "sh", "-c", wait).splitlines())
    engine.podman("rm", "--force", "--time=0", container)
    return said
