"""The list of steps, in the order in which they are told."""

from collections.abc import Callable

from tests.containers.engines import Engine

Step = Callable[[Engine], object]


class NotHere(Exception):
    """This machine does not have what the step needs; the message names it."""


#: By name.
STEPS: dict[str, Step] = {}


def step(name: str) -> Callable[[Step], Step]:
    """Register a step under the name that tests and the table show."""

    def register(function: Step) -> Step:
        STEPS[name] = function
        return function

    return register
