"""Engines whose images and containers can be compared file by file."""

import json
import sys

import testbed.engines
from testbed.bed import CHECKOUT
from testbed.engines import MOUNT_PROGRAM, Driver, Who

__all__ = ["MOUNT_PROGRAM", "Driver", "Engine", "Tree", "Who"]

#: What `look` returns: the entries of tests/mounted/trees.py by path, as JSON has them.
Tree = dict[str, list[object]]


class Engine(testbed.engines.Engine):
    def look(self, image: str) -> Tree:
        """All that is in an image, seen through a mount of it."""
        return self._look("image mount", "image umount", image)

    def look_into(self, container: str) -> Tree:
        """All that is in a container, seen through its mount."""
        return self._look("mount", "umount", container)

    def _look(self, mount: str, unmount: str, what: str) -> Tree:
        script = f"""
        root=$(podman {mount} "$1")
        status=0
        PYTHONPATH="$2" "$3" -m tests.containers.look "$root" || status=$?
        podman {unmount} "$1" >/dev/null
        exit $status
        """
        found: Tree = json.loads(self.inside(script, what, CHECKOUT, sys.executable))
        return found
