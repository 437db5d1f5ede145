"""Where a place behaves unlike ext4: every row is checked, and a row that no longer holds fails.

`seen` must occur in the report of the failure, so that a case which fails for another reason is
still a failure. `reason` names the row of docs/differences.md for unionfs, and the cause for
the filesystems that are there for comparison.
"""

import fnmatch
from typing import NamedTuple


class Difference(NamedTuple):
    places: str  #: names of places, a pattern of fnmatch(3)
    cases: str  #: "topic::case" or "topic::case[parameters]", a pattern
    seen: str
    reason: str


DIFFERENCES: list[Difference] = []


def find(place: str, case: str) -> Difference | None:
    """The row for a case, named "topic::case[parameters]" without the place."""
    bare = case.split("[")[0]
    for row in DIFFERENCES:
        for place_pattern in row.places.split():
            if fnmatch.fnmatchcase(place, place_pattern) and (
                row.cases in (bare, case) or fnmatch.fnmatchcase(bare, row.cases)
            ):
                return row
    return None
