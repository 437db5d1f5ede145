"""What people do with containers, as steps that run on any engine.

A step is a function of an `Engine`.  It asserts what must hold over every driver, and returns
what it saw: over every driver the same.
"""

from tests.containers.steps import building, carrying, installing, running
from tests.containers.steps.registry import STEPS, NotHere, Step

__all__ = ["STEPS", "NotHere", "Step", "building", "carrying", "installing", "running"]
