"""Exit statuses are unique, documented, and every message is one line that can be formatted."""

import re
import string
from errno import ENOENT, ENOTCONN
from pathlib import Path

import pytest

from unionfs import errors
from unionfs.errors import UnionfsError

DOCUMENT = Path(__file__).parent.parent / "docs" / "errors.md"
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, UnionfsError) and value is not UnionfsError
]


def documented() -> dict[int, str]:
    """Status and class name of each row of the table in docs/errors.md."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    return {int(status): name for status, name in rows}


def test_each_error_has_a_status_of_its_own() -> None:
    statuses = [error.exit_code for error in CLASSES]
    assert len(set(statuses)) == len(statuses)
    # 0 is success, 1 a traceback, from 126 on the shell's.
    assert all(2 <= status < 126 for status in statuses)


def test_the_document_lists_exactly_these() -> None:
    assert documented() == {error.exit_code: error.__name__ for error in CLASSES}


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_message_is_one_line_made_of_its_details(error: type[UnionfsError]) -> None:
    fields = [name for _, name, _, _ in string.Formatter().parse(error.message) if name]
    assert fields or error.message, "an error without a message"
    instance = error(**{name: f"<{name}>" for name in fields})
    text = str(instance)
    assert "\n" not in text
    assert not text.endswith(".")
    assert all(f"<{name}>" in text for name in fields)
    assert instance.details == {name: f"<{name}>" for name in fields}


def test_long_paths_are_shortened_at_both_ends() -> None:
    path = "/begin/" + "x" * 300 + "/end"
    error = errors.BranchTwice(path=path, other="/short")
    assert error.details["path"] == path
    assert "/begin/xx" in str(error)
    assert "xx/end and /short" in str(error)
    assert len(str(error)) < 250
    assert errors.shortened("/a" * 60) == "/a" * 60


def test_what_the_system_says_comes_with_what_to_do() -> None:
    gone = errors.explained(OSError(ENOENT, "?"))
    assert gone == {
        "reason": "No such file or directory",
        "advice": "correct the path or create it",
    }
    assert "unmount" in errors.explained(OSError(ENOTCONN, "?"), ENOENT="no")["advice"]
    assert errors.explained(OSError(ENOENT, "?"), ENOENT="mkdir")["advice"] == "mkdir"
    assert errors.explained(OSError("odd"))["reason"] == "odd"


def test_a_detail_cannot_be_forgotten() -> None:
    with pytest.raises(KeyError):
        errors.BranchMissing()
