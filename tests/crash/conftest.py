"""Fixtures of the tests that end the daemon, or its disk, in the middle of work."""

import pytest

pytest.register_assert_rewrite("tests.mounted.harness", "tests.mounted.trees")

from tests.mounted.harness import memory, place  # noqa: E402

__all__ = ["memory", "place"]
