"""Images that are built: one layer for each step, or all in one."""

from testbed.images import BASE, write_base
from tests.containers.engines import Engine
from tests.containers.steps.registry import step

FILES = {
    "changed": "changed by COPY\n",
    "tree/0": "copied over 0\n",
    "tree/new/file": "new\n",
    "dir/again": "copied\n",
}

#: Every kind of change that a layer can hold.
STEPS = f"""
FROM {BASE}
RUN rm /data/removed && rm -r /data/dir && mv /data/tree /data/moved
RUN chown -R 1000:50 /data/moved && ln /data/file /data/hard && ln /data/hard /home/hard
COPY changed /data/file
RUN mkfifo -m 620 /data/pipe && rm /data/fifo /data/becomes-directory && \
    mkdir /data/becomes-directory && echo 1 > /data/becomes-directory/inside && \
    rm -r /data/becomes-file && echo 2 > /data/becomes-file
RUN rm -r /data/becomes-directory && echo back > /data/becomes-directory && \
    rm /data/becomes-file && mkdir /data/becomes-file && echo 3 > /data/becomes-file/other
COPY tree /data/moved/deep
COPY dir /data/dir
RUN chmod 4711 /bin/ids && chmod 2770 /data/moved && chmod 0 /data/moved/deep/1 && \
    ln -sf moved /data/symlink && rm /data/dangling && mkdir /data/dangling
RUN rm -rf /data/dir && mkdir /data/dir && echo last > /data/dir/last
RUN mv /data/moved /data/tree && mv /data/dir /data/moved
"""


def _check(tree: dict[str, list[object]]) -> None:
    assert "data/removed" not in tree
    assert "data/moved/last" in tree
    assert {name for name in tree if name.startswith("data/moved/")} == {"data/moved/last"}
    assert tree["data/becomes-directory"][0] == "file"
    assert "data/becomes-file/other" in tree
    assert "data/becomes-file/inside" not in tree
    assert tree["data/tree"][:4] == ["directory", 0o2770, 1000, 50]
    assert tree["data/tree/deep/2"][2:4] == [1000, 50]
    assert tree["data/tree/deep/1"][1] == 0
    assert tree["data/hard"][7] == ["data/hard", "home/hard"]
    assert tree["data/pipe"][:2] == ["fifo", 0o620]
    assert tree["bin/ids"][1] == 0o4711


@step("build, a layer for each step")
def layers(engine: Engine) -> object:
    image = engine.build(STEPS, files=FILES)
    tree = engine.look(image)
    _check(tree)
    return tree


@step("build --squash-all")
def squash(engine: Engine) -> object:
    image = engine.build(STEPS, "--squash-all", files=FILES)
    tree = engine.look(image)
    _check(tree)
    return tree


@step("buildah, from scratch")
def scratch(engine: Engine) -> object:
    archive = engine.directory("archive") / "base.tar"
    write_base(archive)
    container = engine.buildah("from", "scratch")
    engine.buildah("add", "--quiet", container, archive, "/")
    script = "rm /data/removed; mv /data/tree /data/moved; echo more >> /data/file"
    engine.buildah("run", container, "sh", "-ec", script)
    image = engine.buildah("commit", "--quiet", "--rm", container)
    tree = engine.look(image)
    assert "data/moved/deep/7" in tree
    assert "data/removed" not in tree
    return tree
