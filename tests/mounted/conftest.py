"""Fixtures of the tests that look at a mount from outside."""

from tests.mounted.harness import memory, place

__all__ = ["memory", "place"]
