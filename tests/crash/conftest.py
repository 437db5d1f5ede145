"""Fixtures of the tests that end the daemon, or its disk, in the middle of work."""

from tests.mounted.harness import memory, place

__all__ = ["memory", "place"]
