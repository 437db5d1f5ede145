"""What a user namespace knows of users, and the namespace below that tells strangers apart."""

import pytest

from unionfs.namespaces import Range, map_around


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        # As --map-auto --map-root-user has it: the overflow id is somebody's, and moves.
        ([(0, 1000, 1), (1, 100000, 65536)], "0 0 1\n1 1 65533\n65535 65535 2\n65537 65534 1\n"),
        ([(0, 1000, 1)], "0 0 1\n"),
        ([(0, 0, 2**32 - 1)], "0 0 65534\n65535 65535 4294901759\n4294967294 65534 1\n"),
        ([(65534, 1000, 1)], "65535 65534 1\n"),
        ([(65535, 7, 9), (0, 100, 65535)], "65535 65535 9\n0 0 65534\n65544 65534 1\n"),
        ([(0, 100, 65535), (65540, 7, 9)], "0 0 65534\n65540 65540 9\n65535 65534 1\n"),
    ],
)
def test_all_ids_but_the_overflow_id_stay(ranges: list[Range], text: str) -> None:
    assert map_around(ranges, 65534).decode() == text
