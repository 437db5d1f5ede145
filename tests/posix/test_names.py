"""Names of files: their bytes and their length."""

import os

import pytest

from tests.posix.asserts import fails, names, read, write
from tests.posix.places import Place
from tests.posix.trees import Dir, File, given

#: Every byte that a name may hold, in names of their own.
BYTES = [byte for byte in range(1, 256) if byte != ord("/")]
EVERY_BYTE = {os.fsdecode(b"x%cy" % byte): File(content=b"%d" % byte) for byte in BYTES}


@given(EVERY_BYTE)
def test_given_names_with_every_byte(place: Place) -> None:
    assert names(place.path) == set(EVERY_BYTE)
    for name in EVERY_BYTE:
        write(place / name, read(place / name) + b"!")
    for name, file in EVERY_BYTE.items():
        assert read(place / name) == file.content + b"!"
    for name in EVERY_BYTE:
        os.unlink(place / name)
    assert names(place.path) == set()


def test_new_names_with_every_byte(place: Place) -> None:
    for name in EVERY_BYTE:
        write(place / name, b"")
    assert names(place.path) == set(EVERY_BYTE)


SPECIAL = [
    "\n",
    " ",
    "-rf",
    "*",
    "\\",
    "a:b",
    "a,b",
    "...",
    "..a",
    ".hidden",
    "\udcff",
    "e\u0301",
    "\u00e9",
]


@pytest.mark.parametrize("number", range(len(SPECIAL)))
@given({name: File(content=b"1") for name in SPECIAL})
def test_awkward_name(place: Place, number: int) -> None:
    name = SPECIAL[number]
    assert read(place / name) == b"1"
    os.rename(place / name, place / (name + "2"))
    assert name not in names(place.path)
    assert read(place / (name + "2")) == b"1"
    os.mkdir(place / name)
    os.rmdir(place / name)
    os.unlink(place / (name + "2"))


LONGEST = "n" * 255


@pytest.mark.parametrize("length", [250, 251, 252, 254, 255])
@given({"n" * length: File(content=b"long") for length in (250, 251, 252, 254, 255)})
def test_long_name_of_a_file(place: Place, length: int) -> None:
    name = "n" * length
    assert read(place / name) == b"long"
    os.unlink(place / name)
    assert name not in names(place.path)
    with fails(2):
        os.stat(place / name)
    write(place / name, b"again")
    assert read(place / name) == b"again"
    os.rename(place / name, place / ("m" * length))
    assert names(place.path) >= {"m" * length}
    os.unlink(place / ("m" * length))


@given({LONGEST: Dir(children={"child": File()})})
def test_longest_name_of_a_directory(place: Place) -> None:
    os.unlink(os.path.join(place / LONGEST, "child"))
    os.rmdir(place / LONGEST)
    os.mkdir(place / LONGEST)
    assert names(place / LONGEST) == set()
    os.rmdir(place / LONGEST)
    assert names(place.path) == set()


def test_longest_names_beside_each_other(place: Place) -> None:
    alike = ["n" * 254 + last for last in "abcdef"]
    for name in alike:
        write(place / name, name[-1].encode())
    assert names(place.path) == set(alike)
    assert [read(place / name) for name in alike] == [b"a", b"b", b"c", b"d", b"e", b"f"]


@given({"Name": File(content=b"upper case"), "name": File(content=b"lower case")})
def test_case_matters(place: Place) -> None:
    assert read(place / "Name") == b"upper case"
    os.unlink(place / "Name")
    assert read(place / "name") == b"lower case"


#: Names that formats of union filesystems give a meaning; to a program they are names.
RESERVED = [".wh.name", ".wh..wh..opq", ".wh..wh.work", ".wh.", "work", "index"]


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_name_of_a_file(place: Place, name: str) -> None:
    write(place / name, b"mine")
    assert names(place.path) == {name}
    os.unlink(place / name)


@pytest.mark.parametrize("name", RESERVED)
@given({"name": File(content=b"stays")})
def test_reserved_name_hides_nothing(place: Place, name: str) -> None:
    try:
        os.mkdir(place / name)
    except PermissionError:
        assert name.startswith(".wh.")
    assert read(place / "name") == b"stays"
    assert "name" in names(place.path)
