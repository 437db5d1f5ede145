"""Broken uppers: what is wrong with each, and what is left of it after a repair."""

import os
from collections.abc import Callable
from typing import NamedTuple

from tests.check.upper import DEFAULT_WORKDIR, IMPURE, ORIGIN, Upper
from tests.tree.union import put

LINKS = f"{DEFAULT_WORKDIR}/links"


class Broken(NamedTuple):
    """One broken upper."""

    name: str
    build: Callable[[Upper], object]
    found: frozenset[str]  #: "code path" of each finding
    left: frozenset[str] = frozenset()  #: of those that a repair leaves
    lower: bool = False  #: found only with the lower
    changes: bool = False  #: repairing shows what was shown wrongly


CASES: list[Broken] = []


def broken(
    *found: str, left: tuple[str, ...] | None = None, lower: bool = False, changes: bool = False
) -> Callable[[Callable[[Upper], object]], Callable[[Upper], object]]:
    """Register a function that builds an upper; without `left` all is left."""

    def register(build: Callable[[Upper], object]) -> Callable[[Upper], object]:
        remaining = found if left is None else left
        some = frozenset(found), frozenset(remaining)
        CASES.append(Broken(build.__name__, build, *some, lower, changes))
        return build

    return register


# --- whiteouts ---


@broken("whiteout-beside d/.wh.f", left=())
def whiteout_beside_a_file(upper: Upper) -> None:
    put(upper.lower, "d/f")
    upper.put("d/f", "d/.wh.f")


@broken("whiteout-beside .wh.d", left=())
def whiteout_beside_a_directory(upper: Upper) -> None:
    put(upper.lower, "d/hidden")
    upper.put("d/f", ".wh.d")


@broken("whiteout-beside .wh.d", "whiteout-in-opaque d/e/.wh.f", left=())
def whiteout_below_a_directory_beside_its_whiteout(upper: Upper) -> None:
    put(upper.lower, "d/e/f", "d/e/g")
    upper.put("d/e/.wh.f", ".wh.d")


@broken("whiteout-in-opaque d/.wh.f", "whiteout-in-opaque d/e/.wh.g", left=())
def whiteouts_in_an_opaque_directory(upper: Upper) -> None:
    put(upper.lower, "d/f", "d/e/g")
    upper.put("d/.wh..wh..opq", "d/.wh.f", "d/e/.wh.g")


@broken("whiteout-in-opaque d/f", left=())
def device_in_an_opaque_directory(upper: Upper) -> None:
    put(upper.lower, "d/f")
    upper.put("d/")
    upper.attribute("d", "user.overlay.opaque", b"y")
    upper.whiteout("d/f")


@broken("whiteout-twice .wh.f", left=())
def whiteout_in_both_formats(upper: Upper) -> None:
    put(upper.lower, "f")
    upper.put(".wh.f")
    upper.whiteout("f")


@broken("whiteout-useless .wh.a", "whiteout-useless b", "whiteout-useless d/.wh.f", lower=True)
def whiteouts_that_hide_nothing(upper: Upper) -> None:
    put(upper.lower, "f", "e/f", "d")
    upper.put(".wh.a", ".wh.f", "e/.wh.f", "d/.wh.f")
    upper.whiteout("b")


@broken("whiteout-content .wh.f", "whiteout-content .wh.g", "whiteout-content .wh.h")
def whiteouts_that_may_be_data(upper: Upper) -> None:
    put(upper.lower, "f", "g", "h")
    upper.put(".wh.f", content=b"data")
    os.symlink("target", upper.path / ".wh.g")
    os.mkfifo(upper.path / ".wh.h")


@broken("whiteout-content .wh.f", "whiteout-beside .wh.f")
def data_beside_what_it_hides(upper: Upper) -> None:
    upper.put("f")
    upper.put(".wh.f", content=b"data")


@broken("whiteout-reserved .wh.f")
def device_with_a_reserved_name(upper: Upper) -> None:
    put(upper.lower, "f")
    upper.whiteout(".wh.f")


# --- reserved names ---


@broken("reserved-directory d/.wh.f", left=())
def whiteout_that_is_an_empty_directory(upper: Upper) -> None:
    put(upper.lower, "d/f", "d/g")
    upper.put("d/.wh.f/")


@broken("reserved-directory .wh.f")
def whiteout_that_is_a_directory(upper: Upper) -> None:
    put(upper.lower, "f")
    upper.put(".wh.f/data")


@broken("reserved-directory d/.wh..wh.a", "reserved-directory d/.wh.", left=())
def reserved_directories(upper: Upper) -> None:
    upper.put("d/.wh..wh.a/", "d/.wh./")


@broken("reserved-directory d/.wh..wh.a")
def reserved_directory_that_holds_something(upper: Upper) -> None:
    upper.put("d/.wh..wh.a/data")


@broken("reserved-unknown .wh..wh.plnk", "reserved-unknown .wh.", "reserved-unknown d/.wh...")
def names_of_others(upper: Upper) -> None:
    upper.put(".wh..wh.plnk/", ".wh.", "d/.wh...")


# --- opaque directories ---


@broken("opaque-type d/.wh..wh..opq", left=())
def opaque_mark_that_is_an_empty_directory(upper: Upper) -> None:
    put(upper.lower, "d/hidden")
    upper.put("d/.wh..wh..opq/")


@broken("opaque-type d/.wh..wh..opq", left=())
def opaque_mark_that_is_a_link(upper: Upper) -> None:
    put(upper.lower, "d/hidden")
    upper.put("d/")
    os.symlink("nowhere", upper.path / "d/.wh..wh..opq")


@broken("opaque-type d/.wh..wh..opq")
def opaque_mark_that_holds_something(upper: Upper) -> None:
    put(upper.lower, "d/hidden")
    upper.put("d/.wh..wh..opq/data")


@broken("opaque-twice d")
def opaque_in_every_format(upper: Upper) -> None:
    upper.put("d/.wh..wh..opq")
    for name in ("trusted.overlay", "user.overlay", "user.fuseoverlayfs"):
        upper.attribute("d", f"{name}.opaque", b"y")


@broken("opaque-value d")
def opaque_with_a_strange_value(upper: Upper) -> None:
    put(upper.lower, "d/shown")
    upper.put("d/", "e/")
    upper.attribute("d", "trusted.overlay.opaque", b"yes")
    upper.attribute("e", "trusted.overlay.opaque", b"x")


# --- renamed directories ---


@broken("redirect-malformed d/e", "redirect-malformed f", "redirect-malformed g")
def redirects_that_are_none(upper: Upper) -> None:
    upper.put("d/e/", "f/", "g/")
    upper.attribute("d/e", "trusted.overlay.redirect", b"../f")
    upper.attribute("f", "trusted.overlay.redirect", b"")
    upper.attribute("g", "trusted.overlay.redirect", b"/a/../b")


@broken("redirect-nowhere d", "redirect-nowhere e/g", lower=True)
def redirects_to_what_is_not_there(upper: Upper) -> None:
    put(upper.lower, "file", "e/f/", "there/")
    upper.put("d/", "e/g/", "good/", "opaque/")
    upper.attribute("d", "trusted.overlay.redirect", b"/file")
    upper.attribute("e/g", "trusted.overlay.redirect", b"there")
    upper.attribute("good", "trusted.overlay.redirect", b"/e/f")
    upper.attribute("opaque", "trusted.overlay.redirect", b"/nowhere")
    upper.attribute("opaque", "trusted.overlay.opaque", b"y")


@broken("whiteout-beside .wh.new")
def whiteout_beside_a_redirected_directory(upper: Upper) -> None:
    put(upper.lower, "old/f", "new/hidden")
    upper.put("new/", ".wh.new", ".wh.old")
    upper.attribute("new", "trusted.overlay.redirect", b"/old")


@broken(
    "whiteout-in-opaque d/.wh.x",
    "whiteout-useless d/new/.wh.x",
    left=("whiteout-useless d/new/.wh.x",),
    lower=True,
)
def redirect_out_of_an_opaque_directory(upper: Upper) -> None:
    put(upper.lower, "old/f", "old/g", "d/new/x")
    upper.put("d/.wh..wh..opq", "d/.wh.x", "d/new/.wh.f", "d/new/.wh.x")
    upper.attribute("d/new", "trusted.overlay.redirect", b"/old")


# --- identity ---


@broken("origin-malformed d/a", "origin-malformed d/b", "origin-malformed d/c", left=())
def origins_that_are_no_numbers(upper: Upper) -> None:
    upper.put("d/a", "d/b", "d/c")
    upper.impure("d")
    upper.attribute("d/a", ORIGIN, b"none")
    upper.attribute("d/b", ORIGIN, b" +00123456789x")
    upper.attribute("d/c", ORIGIN, b"1" * 24)


@broken("origin-malformed l", left=())
def origin_of_a_link_that_is_no_number(upper: Upper) -> None:
    os.symlink("target", upper.path / "l")
    upper.impure()
    upper.attribute("l", ORIGIN, b"")


@broken("origin-twice d/b")
def one_origin_for_two_files(upper: Upper) -> None:
    upper.put("d/a", "d/b")
    upper.impure("d")
    upper.attribute("d/a", ORIGIN, b"123456789")
    upper.attribute("d/b", ORIGIN, b"123456789")


@broken("origin-twice b")
def origin_that_is_another_files_number(upper: Upper) -> None:
    upper.put("a", "b")
    upper.impure()
    upper.attribute("b", ORIGIN, b"%d" % (upper.path / "a").stat().st_ino)


@broken("origin-unread d", left=(), changes=True)
def origins_without_an_impure_mark(upper: Upper) -> None:
    upper.put("d/a", "d/b")
    upper.attribute("d/a", ORIGIN, b"123456789")
    upper.attribute("d/b", ORIGIN, b"123456788")


@broken("impure-malformed d", left=())
def impure_with_a_strange_value(upper: Upper) -> None:
    upper.put("d/a")
    upper.attribute("d", IMPURE, b"1")


@broken("impure-malformed d", left=())
def impure_with_a_value_that_is_not_read(upper: Upper) -> None:
    upper.put("d/a")
    upper.attribute("d", IMPURE, b"impure")


ORIGINS = f"{DEFAULT_WORKDIR}/origins"


@broken(f"record-stale {ORIGINS}/{{0}}", left=())
def record_of_a_file_that_is_gone(upper: Upper) -> str:
    upper.put("d/a")
    upper.impure("d")
    os.symlink("target", upper.path / "d/l")
    name = upper.record("d/l", 123456789)
    (upper.path / "d/l").unlink()
    return name


@broken(f"record-stale {ORIGINS}/{{0}}", left=())
def record_of_an_earlier_file(upper: Upper) -> str:
    """A file that got the number of another one does not get its origin."""
    os.symlink("target", upper.path / "l")
    upper.impure()
    return upper.record("l", 123456789, born="1.000000000")


@broken(f"record-malformed {ORIGINS}/{{0}}", left=())
def record_that_says_nothing(upper: Upper) -> str:
    os.symlink("target", upper.path / "l")
    upper.impure()
    return upper.record("l", "number")


@broken(f"record-unknown {ORIGINS}/x", f"record-unknown {ORIGINS}/{5:016x}")
def strange_entries_among_the_origins(upper: Upper) -> None:
    upper.origins.joinpath("x").touch()
    upper.origins.joinpath(f"{5:016x}").touch()


@broken("origin-unread d", left=(), changes=True)
def record_without_an_impure_mark(upper: Upper) -> None:
    upper.put("d/")
    os.mkfifo(upper.path / "d/fifo")
    upper.record("d/fifo", 123456789)


@broken("origin-twice d/link")
def one_recorded_origin_for_two_files(upper: Upper) -> None:
    upper.put("d/")
    upper.impure("d")
    for name in ("fifo", "link"):
        os.symlink("target", upper.path / "d" / name)
        upper.record(f"d/{name}", 123456789)


@broken("link-origin {0}")
def linked_copy_with_another_recorded_origin(upper: Upper) -> int:
    os.symlink("target", upper.lower / "a")
    os.link(upper.lower / "a", upper.lower / "b", follow_symlinks=False)
    number = (upper.lower / "a").lstat().st_ino
    os.symlink("changed", upper.path / "a")
    upper.impure()
    upper.record("a", 123456789)
    os.link(upper.path / "a", upper.links / f"{number:016x}", follow_symlinks=False)
    os.symlink("2", upper.links / f"{number:016x}.n")
    return number


# --- attributes of others ---


@broken(
    "foreign-metacopy a",
    "foreign-override a",
    "foreign-redirect a",
    "foreign-whiteout d/w",
    "private-unknown a",
    "private-unknown d",
)
def attributes_of_others(upper: Upper) -> None:
    upper.put("a", "d/w")
    upper.attribute("a", "trusted.overlay.metacopy", b"")
    upper.attribute("a", "user.fuseoverlayfs.override_stat", b"0:0:755")
    upper.attribute("a", "user.overlay.redirect", b"/old")
    upper.attribute("d/w", "trusted.overlay.whiteout", b"")
    upper.attribute("a", "user.unionfs.later", b"")
    upper.attribute("d", "trusted.overlay.later", b"")


@broken("override-malformed a", "foreign-override b")
def records_of_owners(upper: Upper) -> None:
    upper.put("a", "b", "c", "d")
    upper.attribute("", "user.containers.override_stat", b"0:0:0755:dir")
    upper.attribute("a", "user.containers.override_stat", b"root:root:0755:file")
    upper.attribute("b", "user.fuseoverlayfs.override_stat", b"0:0:0755")
    upper.attribute("c", "user.containers.override_stat", b"5:6:0600:char-1-3")
    upper.attribute("d", "user.containers.override_stat", b"5:6:100755")


# --- links ---


@broken("link-uncounted {0}")
def copy_without_a_count(upper: Upper) -> int:
    return upper.linked("a", "b", count=None)


@broken("link-uncounted {0}", left=(), lower=True, changes=True)
def copy_without_a_count_and_lowers(upper: Upper) -> int:
    return upper.linked("a", "b", count=None)


@broken("link-count-malformed {0}.n", left=(), lower=True, changes=True)
def count_of_nothing(upper: Upper) -> int:
    return upper.linked("a", "b", count="0")


@broken("link-count-malformed {0}.n")
def count_that_is_no_number(upper: Upper) -> int:
    return upper.linked("a", "b", count="2 or 3")


@broken("link-count-malformed {0}.n", left=(), lower=True)
def count_that_is_no_link(upper: Upper) -> int:
    number = upper.linked("a", "b", count=None)
    (upper.links / f"{number:016x}.n").write_text("2")
    return number


@broken("link-count-low {0}.n")
def count_below_the_names_in_the_upper(upper: Upper) -> int:
    number = upper.linked("a", "b", "c", count="1")
    os.link(upper.path / "a", upper.path / "b")
    return number


@broken("link-count-low {0}.n", left=(), lower=True, changes=True)
def count_below_the_names_in_the_union(upper: Upper) -> int:
    number = upper.linked("a", "b", "c", count="2")
    os.link(upper.path / "a", upper.path / "d")
    upper.put(".wh.c")
    return number


@broken("link-count-low {0}.n", left=(), lower=True, changes=True)
def count_without_a_copy(upper: Upper) -> int:
    put(upper.lower, "a")
    os.link(upper.lower / "a", upper.lower / "b")
    number = (upper.lower / "a").stat().st_ino
    os.symlink("1", upper.links / f"{number:016x}.n")
    return number


@broken("link-unreachable {0}", lower=True)
def copy_without_names(upper: Upper) -> int:
    number = upper.linked("a", "b", count="1")
    (upper.path / "a").unlink()
    upper.put(".wh.a", ".wh.b")
    return number


@broken("link-origin {0}")
def copy_with_another_origin(upper: Upper) -> int:
    return upper.linked("a", "b", count="2", origin=123456789)


@broken("link-origin {0}")
def copy_without_an_origin(upper: Upper) -> int:
    number = upper.linked("a", "b", count="2")
    os.removexattr(upper.path / "a", ORIGIN)
    return number


@broken("origin-twice {0}")
def copy_that_is_not_what_its_name_shows(upper: Upper) -> int:
    number = upper.linked("a", "b", count="2")
    (upper.path / "a").unlink()
    upper.put("a", content=b"another copy")
    upper.attribute("a", ORIGIN, b"%d" % number)
    return number


@broken(
    f"link-type {LINKS}/{5:016x}", f"link-unknown {LINKS}/x", f"link-unknown {LINKS}/{5:016X}.m"
)
def strange_entries_among_the_links(upper: Upper) -> None:
    (upper.links / f"{5:016x}").mkdir()
    (upper.links / "x").touch()
    (upper.links / f"{5:016x}.m").touch()


# --- the work directory ---


@broken(f"scratch-left {DEFAULT_WORKDIR}/work", left=())
def scratch_space_of_a_killed_mount(upper: Upper) -> None:
    upper.links.parent.joinpath("work").mkdir(mode=0o700)
    upper.put(f"{DEFAULT_WORKDIR}/work/#1/new/f", f"{DEFAULT_WORKDIR}/work/mounted-by")


@broken(
    f"workdir-mode {DEFAULT_WORKDIR}",
    f"workdir-mode {DEFAULT_WORKDIR}/work",
    f"workdir-owner {DEFAULT_WORKDIR}",
    f"workdir-unknown {DEFAULT_WORKDIR}/index",
    left=(f"workdir-owner {DEFAULT_WORKDIR}", f"workdir-unknown {DEFAULT_WORKDIR}/index"),
)
def work_directory_that_others_may_enter(upper: Upper) -> None:
    upper.put(f"{DEFAULT_WORKDIR}/work/", f"{DEFAULT_WORKDIR}/index/")
    place = upper.path / DEFAULT_WORKDIR
    os.chown(place, 65534, 65534)
    place.chmod(0o755)
    (place / "work").chmod(0o710)


@broken(f"workdir-type {DEFAULT_WORKDIR}")
def work_directory_that_is_a_file(upper: Upper) -> None:
    upper.put(DEFAULT_WORKDIR)


@broken(f"workdir-type {DEFAULT_WORKDIR}/links", f"workdir-type {DEFAULT_WORKDIR}/work")
def work_directory_that_holds_links(upper: Upper) -> None:
    upper.put(f"{DEFAULT_WORKDIR}/")
    (upper.path / DEFAULT_WORKDIR).chmod(0o700)
    for name in ("links", "work"):
        os.symlink("..", upper.path / DEFAULT_WORKDIR / name)
