"""What people do with podman: a container starts, an image is built, a container is committed.

podman starts conmon, the runtime and the mount program, each for itself. So the placements differ
from those of the other workloads: all of them on one CPU, or all of them on two.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import measure
from benchmarks.engines import LARGE, TOOLS
from benchmarks.fixtures import names
from benchmarks.measure import ClientError
from benchmarks.session import Session
from benchmarks.workloads.registry import Sample, Samples, workload
from testbed.engines import Engine, Who
from testbed.images import BASE

USERS: dict[Who, str] = {"root": "", "user": ", ordinary user"}
"""What is added to the row."""

IDLE = {"cat", "catatonit", "podman pause", "unionfs-mountd"}
"""What runs in the bed for as long as it is there: its keeper, what holds the ordinary user's
namespace (podman itself where catatonit is not installed), and what mounts for others."""

IDLE_TIMEOUT = 30.0

STEPS = f"""
FROM {BASE}
RUN mkdir -p /app/cache && echo 1 > /app/version
COPY tree /app/source
RUN chown -R 1000:1000 /app/source
RUN cp -a /app/source /app/build
RUN find /app/build -name '*0.txt' -exec sh -c 'for f; do echo more >> $f; done' sh {{}} +
COPY settings /etc/app
RUN rm -r /app/source
RUN mv /app/build /app/source
RUN ln /app/version /app/cache/version && chmod -R go-w /app
RUN tar -C /app -cf /tmp/archive source && tar -C /app/cache -xf /tmp/archive && rm /tmp/archive
RUN rm -r /data/dir && mkdir /data/dir && echo new > /data/dir/new
RUN find / -xdev -type f | sort > /app/list
"""

CHANGES = """
cd /files
for name in $(find d000/s00 | grep '0.txt$'); do echo more >> $name; done
rm $(find d000/s00 | grep '1.txt$')
mkdir new
seq 1000 > new/file
"""


@contextmanager
def _placed(session: Session, engine: Engine) -> Iterator[None]:
    """Nothing of an earlier command still runs or is to be written, and the CPUs are chosen."""
    deadline = time.monotonic() + IDLE_TIMEOUT
    while running := engine.bed.processes() - IDLE:
        if time.monotonic() > deadline:
            raise ClientError(f"still running after {IDLE_TIMEOUT:.0f} s: {', '.join(running)}")
        time.sleep(0.01)
    os.sync()
    with measure.pinned(session.placement.client, session.placement.server):
        yield


def _seconds(session: Session, engine: Engine, *words: str | Path) -> float:
    with _placed(session, engine):
        return measure.command(engine.command(*words), engine.home)[0]


def _started(session: Session, engine: Engine, *words: str) -> float:
    """Seconds until a container, which is then gone again, says its first word."""
    with _placed(session, engine):
        run = engine.command("podman", "run", "--rm", *words, "echo", "started")
        return measure.first_output(run, engine.home, "started\n")


@workload("container-start", starts=True, tools=TOOLS)
def start(session: Session) -> Samples:
    for who, user in USERS.items():
        if engine := session.engines.engine(session.peer, who):
            yield Sample(f"container start{user}", _started(session, engine, BASE))


@workload("container-mapped", starts=True, tools=TOOLS)
def mapped(session: Session) -> Samples:
    """With a map of owners that the image has not been used with, beside none.

    The kernel's driver copies the image for it, with other owners.
    """
    if engine := session.engines.with_large_image(session.peer, "user"):
        yield Sample("start of a large image", _started(session, engine, LARGE))
        first = next(session.engines.unused_ids)
        options = (f"--{kind}=0:{first}:1000" for kind in ("uidmap", "gidmap"))
        seconds = _started(session, engine, *options, LARGE)
        yield Sample("start of a large image, new map", seconds)


@workload("container-build", starts=True, tools=TOOLS)
def build(session: Session) -> Samples:
    for who, user in USERS.items():
        if engine := session.engines.engine(session.peer, who):
            context = _context(engine, session.scale.changed // 5)
            options = ("--quiet", "--network=host", "--layers", "--no-cache", "--tag=built")
            seconds = _seconds(session, engine, "podman", "build", *options, context)
            yield Sample(f"12-step build{user}", seconds)
            engine.podman("rmi", "localhost/built:latest")


def _context(engine: Engine, files: int) -> Path:
    """What `STEPS` copies."""
    context = engine.directory("context")
    content = {f"tree/{name}": f"{name}\n" * 50 for name in names(files)}
    content |= {"Containerfile": STEPS, "settings/one": "1\n", "settings/two": "2\n"}
    for name, text in content.items():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(text)
    return context


@workload("container-commit", starts=True, tools=TOOLS)
def commit(session: Session) -> Samples:
    """A container with few changes over an image of many files."""
    for who, user in USERS.items():
        if engine := session.engines.with_large_image(session.peer, who):
            container = engine.podman("create", LARGE, "sh", "-ec", CHANGES)
            engine.podman("start", "--attach", container)
            seconds = _seconds(session, engine, "podman", "commit", "--quiet", container, "changed")
            yield Sample(f"commit{user}", seconds)
            engine.podman("rm", container)
            engine.podman("rmi", "localhost/changed:latest")
