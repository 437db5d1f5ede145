"""The table of differences is itself right: each row is documented and each of its cases exists."""

import re
from pathlib import Path

import pytest

from tests.posix import differences

_HERE = Path(__file__).parent
_DOCUMENT = _HERE.parent.parent / "docs" / "differences.md"


def test_every_difference_is_documented() -> None:
    ids = set(re.findall(r"^\| `([a-z-]+)` \|", _DOCUMENT.read_text(), flags=re.M))
    for row in differences.UNIONFS:
        assert row.reason.split(":")[0] in ids, row


@pytest.mark.parametrize("row", differences.DIFFERENCES, ids=lambda row: row.cases[0])
def test_every_case_exists(row: differences.Difference) -> None:
    for case in row.cases:
        topic, name = case.split("[")[0].split("::")
        text = (_HERE / f"test_{topic}.py").read_text()
        assert re.search(rf"^def test_{name}\(", text, flags=re.M), case
