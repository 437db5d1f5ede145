"""Every spelling of the mount options that engines, mount(8) and people use."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unionfs.errors import UnionfsError, UnsupportedOption, UsageError
from unionfs.options import (
    KERNEL_FLAGS,
    OPTIONS,
    REFUSED,
    MountOptions,
    parse,
)
from unionfs.values import escape, split_options, split_paths, unescape

DOCUMENT = Path(__file__).parent.parent / "docs" / "options.md"


def with_options(*options: str) -> MountOptions:
    return parse(["lowerdir=/l,upperdir=/u", *options], ["/m"])


# --- where the branches stand ---


def test_three_arguments() -> None:
    options = parse([], ["/a:/b", "/u", "/m"])
    assert (options.lowers, options.upper, options.mountpoint) == (("/a", "/b"), "/u", "/m")
    assert not options.read_only


def test_two_arguments_are_a_read_only_union() -> None:
    options = parse([], ["/a:/b", "/m"])
    assert (options.lowers, options.upper, options.mountpoint) == (("/a", "/b"), None, "/m")
    assert options.read_only
    assert options.flags == ("ro",)


def test_overlay_spelling() -> None:
    options = parse(["lowerdir=/a:/b,upperdir=/u,workdir=/w"], ["/m"])
    assert options.lowers == ("/a", "/b")
    assert (options.upper, options.workdir, options.mountpoint) == ("/u", "/w", "/m")


def test_source_of_a_mount_helper_is_only_a_name() -> None:
    options = parse(["workdir=/w,upperdir=/u,lowerdir=/a:/b,dev,suid"], ["overlay", "/m"])
    assert options.lowers == ("/a", "/b")
    assert options.fsname == "overlay"
    assert options.flags == ()
    assert parse(["lowerdir=/a,fsname=mine"], ["overlay", "/m"]).fsname == "mine"


def test_lowers_as_source_and_upper_as_option() -> None:
    options = parse(["upperdir=/u"], ["/a:/b", "/m"])
    assert (options.lowers, options.upper, options.fsname) == (("/a", "/b"), "/u", "unionfs")


def test_lowers_one_by_one() -> None:
    assert parse(["lowerdir+=/a:b,lowerdir+=/c"], ["/m"]).lowers == ("/a:b", "/c")


def test_ro_keeps_the_upper_as_a_branch() -> None:
    options = with_options("ro")
    assert options.read_only
    assert options.upper == "/u"
    assert not with_options("ro,rw").read_only


def test_the_last_of_repeated_options_counts() -> None:
    options = parse(["lowerdir=/a,upperdir=/u", "lowerdir=/b,upperdir=/v"], ["/m"])
    assert (options.lowers, options.upper) == (("/b",), "/v")


@pytest.mark.parametrize(
    ("options", "positionals"),
    [
        ([], []),
        ([], ["/m"]),
        (["upperdir=/u"], ["/m"]),
        (["lowerdir=/a"], ["/a", "/u", "/m"]),
        (["upperdir=/u"], ["/a", "/u", "/m"]),
        ([], ["/a", "/u", "/m", "/n"]),
        (["lowerdir=/a,workdir=/w"], ["/m"]),
        (["lowerdir="], ["/m"]),
        (["lowerdir"], ["/m"]),
        (["lowerdir=/a::/b"], ["/m"]),
        (["lowerdir=:/a"], ["/m"]),
        (["lowerdir=/a:"], ["/m"]),
        (["lowerdir=/a,upperdir="], ["/m"]),
        (["lowerdir=/a"], [""]),
        (["lowerdir=/a\0b"], ["/m"]),
        (["=x"], ["/a", "/m"]),
    ],
)
def test_what_makes_no_sense_is_refused(options: list[str], positionals: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(options, positionals)


# --- escapes, quotes, empty options ---


def test_escaped_separators_in_paths() -> None:
    options = parse([r"lowerdir=/a\:b:/c\,d:/e\\f:/g\h,upperdir=/u\:v\,w"], ["/m:n"])
    assert options.lowers == ("/a:b", "/c,d", "/e\\f", "/g\\h")
    assert options.upper == "/u:v,w"
    assert options.mountpoint == "/m:n"
    assert parse([], [r"/a\:b:/c", r"/u\:v", r"/m\:n"])[:3] == (
        r"/m\:n",
        ("/a:b", "/c"),
        r"/u\:v",  # a single path on the command line needs no escapes and has none
    )


def test_a_backslash_may_escape_itself_before_a_separator() -> None:
    assert parse([r"lowerdir=/a\\:/b\\,volatile"], ["/m"])[1] == ("/a\\", "/b\\")


def test_quotes_protect_commas() -> None:
    options = with_options('context="system_u:object_r:container_file_t:s0:c1,c2",volatile')
    assert options.labels == (("context", "system_u:object_r:container_file_t:s0:c1,c2"),)
    assert options.volatile
    assert parse([r'lowerdir="/a,b:/c\"d"'], ["/m"]).lowers == ("/a,b", '/c"d')


def test_a_quote_inside_a_value_is_an_ordinary_character() -> None:
    assert parse(['lowerdir=/a"b,volatile'], ["/m"]).lowers == ('/a"b',)


@pytest.mark.parametrize("text", ['fsname="a', 'fsname="a"b', 'lowerdir="'])
def test_quotes_that_do_not_close(text: str) -> None:
    with pytest.raises(UsageError, match="quote"):
        list(split_options(text))


def test_empty_options_are_dropped() -> None:
    options = parse([",lowerdir=/l,,upperdir=/u,workdir=/w,,volatile,", "", ","], ["/m"])
    assert options.volatile
    assert options.unknown == ()


def test_values_may_lead_with_a_colon() -> None:
    assert list(split_options("uidmapping=:0:1:1001:1001:0:1,ro")) == [
        ("uidmapping", ":0:1:1001:1001:0:1"),
        ("ro", None),
    ]


KEEP_ID = ((0, 1, 1001), (1001, 0, 1), (1002, 1002, 64535))


@pytest.mark.parametrize(
    "text",
    [
        "uidmapping=:0:1:1001:1001:0:1:1002:1002:64535",  # containers/storage
        "uidmapping=0:1:1001:1001:0:1:1002:1002:64535",
        "uidmapping=0:1:1001,1001:0:1,1002:1002:64535",  # fuse-overlayfs(1)
        r"uidmapping=0:1:1001\,1001:0:1\,1002:1002:64535",
        'uidmapping="0:1:1001,1001:0:1,1002:1002:64535"',
    ],
)
def test_id_mappings_in_every_spelling(text: str) -> None:
    options = with_options(f"{text},volatile")
    assert (options.uid_map, options.gid_map) == (KEEP_ID, ())
    assert options.volatile
    assert options.unknown == ()
    options = with_options(f"ro,gidmapping=0:5:10,{text}")
    assert (options.uid_map, options.gid_map) == (KEEP_ID, ((0, 5, 10),))


@pytest.mark.parametrize(
    "value",
    [
        *("", ":", "0", "0:1", "0:1:", "0:1:2:", "::0:1:2", "0:1:2:3"),
        *("-1:0:1", "0:1:x", "0:1:\u0661"),
        *("0:1:0", "0:0:4294967296", "4294967295:0:1", "0:4294967294:2"),  # no ids
        *("0:1:5:4:20:1", "0:1:5:10:3:9"),  # two counterparts
    ],
)
def test_id_mappings_that_are_none(value: str) -> None:
    for name in ("uidmapping", "gidmapping"):
        with pytest.raises(UsageError, match=name):
            with_options(f"{name}={value}")


def test_the_whole_range_of_ids_can_be_mapped() -> None:
    assert with_options("uidmapping=0:0:4294967295").uid_map == ((0, 0, 2**32 - 1),)


@pytest.mark.parametrize("zeros", [1, 9, 5000])
def test_numbers_may_begin_with_zeros(zeros: int) -> None:
    lead = "0" * zeros
    options = with_options(f"uidmapping={lead}0:{lead}1001:{lead}10,squash_to_gid={lead}1001")
    assert options.uid_map == ((0, 1001, 10),)
    assert options.squash_gid == 1001


@pytest.mark.parametrize("number", ["4294967295", "000000000019999999999", "9" * 5000])
def test_numbers_that_are_no_ids(number: str) -> None:
    for option in ("squash_to_uid={}", "uidmapping={}:0:1", "uidmapping=0:{}:1"):
        with pytest.raises(UsageError, match=option.partition("=")[0]):
            with_options(option.format(number))


def test_a_mapping_continues_only_right_behind_itself() -> None:
    options = with_options("uidmapping=0:1:1,volatile,5:5:5")
    assert options.unknown == ("5:5:5",)


def test_squashing_to_an_id_outranks_squashing_to_root() -> None:
    for text in ("squash_to_root,squash_to_uid=5", "squash_to_uid=5,squash_to_root"):
        options = with_options(text)
        assert (options.squash_uid, options.squash_gid) == (5, 0)
    options = with_options("squash_to_gid=7")
    assert (options.squash_uid, options.squash_gid) == (None, 7)
    for text in ("squash_to_uid", "squash_to_uid=-1", "squash_to_gid=root", "squash_to_root=1"):
        with pytest.raises(UsageError, match="squash"):
            with_options(text)


def test_owners_in_attributes() -> None:
    for value in (0, 1, 2):
        assert with_options(f"xattr_permissions={value}").xattr_permissions == value
    for text in ("xattr_permissions", "xattr_permissions=3", "xattr_permissions=user"):
        with pytest.raises(UsageError, match="xattr_permissions is one of 0, 1, 2"):
            with_options(text)


def test_options_of_other_unions_that_ask_for_what_is_so() -> None:
    options = with_options("xino=on,xino=auto,noacl,static_nlink")
    assert options.unknown == ()
    assert (options.acls, options.static_nlink) == (False, True)
    with pytest.raises(UnsupportedOption, match="unique"):
        with_options("xino=off")


def test_500_lowers() -> None:
    lowers = tuple(f"/var/lib/containers/storage/overlay/l/{number:026}" for number in range(500))
    assert parse(["lowerdir=" + ":".join(lowers)], ["/m"]).lowers == lowers


def test_dots_are_left_to_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = parse(["lowerdir=l/../d"], ["./m"])
    assert options.lowers == (f"{tmp_path}/l/../d",)
    assert options.mountpoint == f"{tmp_path}/./m"


def test_relative_path_in_a_removed_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match="working directory"):
        parse([], ["a", "/m"])
    assert parse([], ["/a", "/m"]).lowers == ("/a",)


# --- single options ---


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("whiteout=overlay", "whiteout", "overlay"),
        ("whiteout=aufs", "whiteout", "aufs"),
        ("copyup=open", "copyup", "open"),
        ("rename_dir=exdev", "rename_dir", "exdev"),
        ("rename_dir=redirect", "rename_dir", "redirect"),
        ("volatile", "volatile", True),
        ("fsync=0", "volatile", True),
        ("volatile,fsync=1", "volatile", False),
        ("writeback", "writeback", True),
        ("writeback=1", "writeback", True),
        ("writeback,writeback=0", "writeback", False),
        ("timeout=0", "timeout", 0.0),
        ("timeout=1.5", "timeout", 1.5),
        ("timeout=1000000000", "timeout", 1e9),
        ("threads=1", "threads", 1),
        ("threads=64", "threads", 64),
        ("io=passthrough", "io", "passthrough"),
        ("io=cached", "io", "cached"),
        ("io=auto", "io", "auto"),
        ("io_uring=off", "io_uring", "off"),
        ("io_uring=auto", "io_uring", "auto"),
        ("allow_other", "allow_other", True),
        ("default_permissions", "allow_other", None),
        ("fsname=x", "fsname", "x"),
        ("log_file=/var/log/u", "log_file", "/var/log/u"),
        ("debug", "debug", True),
        ("debug", "foreground", True),
        ("private", "propagation", "private"),
        ("slave,rshared", "propagation", "rshared"),
    ],
)
def test_single_options(text: str, field: str, value: object) -> None:
    assert getattr(with_options(text), field) == value


@pytest.mark.parametrize(
    "text",
    [
        "whiteout=both",
        "whiteout",
        "whiteout=",
        "copyup=never",
        "rename_dir=move",
        "volatile=1",
        "fsync=2",
        "fsync",
        "writeback=yes",
        "io=direct",
        "io=passthrough,writeback",
        "io=auto,writeback",
        "io_uring=on",
        "timeout",
        "timeout=",
        "timeout=-1",
        "timeout=nan",
        "timeout=inf",
        "timeout=1e10",
        "timeout=soon",
        "threads=0",
        "threads=65",
        "threads=-1",
        "threads=1.0",
        "threads=\u0661",
        "threads=" + "9" * 5000,
        "allow_other=1",
        "ro=1",
        "private=1",
        "fsname=",
        "debug=0",
        "context=",
    ],
)
def test_bad_values_name_the_option(text: str) -> None:
    with pytest.raises(UsageError, match=f"option {text.partition('=')[0]} "):
        with_options(text)


def test_kernel_flags_and_what_takes_them_back() -> None:
    assert with_options("nosuid,nodev,noexec,sync").flags == ("nosuid", "nodev", "noexec", "sync")
    assert with_options("nosuid,nodev,noexec,sync,suid,dev,exec,async").flags == ()
    assert with_options("noatime,relatime").flags == ("relatime",)
    assert with_options("relatime,strictatime,noatime").flags == ("noatime",)
    assert with_options("noatime,atime").flags == ()
    assert set(with_options("noatime,nodiratime,lazytime,dirsync,nosymfollow").flags) <= set(
        KERNEL_FLAGS
    )


def test_kernel_flags_have_the_kernel_s_values() -> None:
    assert KERNEL_FLAGS["ro"] == os.ST_RDONLY
    assert KERNEL_FLAGS["nosuid"] == os.ST_NOSUID
    assert KERNEL_FLAGS["nodev"] == os.ST_NODEV
    assert KERNEL_FLAGS["noexec"] == os.ST_NOEXEC
    assert KERNEL_FLAGS["sync"] == os.ST_SYNCHRONOUS
    assert KERNEL_FLAGS["noatime"] == os.ST_NOATIME
    assert KERNEL_FLAGS["nodiratime"] == os.ST_NODIRATIME


def test_unknown_options_are_kept_for_one_warning_each() -> None:
    options = with_options("metacopy=on,frobnicate,metacopy=off,frobnicate=1")
    assert options.unknown == ("metacopy", "frobnicate")


def test_options_for_mount_8_are_not_unknown() -> None:
    text = "defaults,noauto,nofail,_netdev,user,x-systemd.automount,x-initrd.mount,comment=a"
    assert with_options(text).unknown == ()


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_would_have_to_be_ignored_are_refused(name: str) -> None:
    for text in (name, f"{name}=:0:1:1001"):
        with pytest.raises(UnsupportedOption) as caught:
            with_options(text)
        assert name in str(caught.value)


def test_every_option_is_documented() -> None:
    text = DOCUMENT.read_text()
    for name in [*OPTIONS, *KERNEL_FLAGS, *REFUSED, "context", "private"]:
        assert f"`{name}" in text, f"docs/options.md does not mention {name}"


# --- whatever comes ---

paths = st.text(st.characters(exclude_characters="\0"), min_size=1).map(lambda text: "/" + text)


@given(st.lists(paths, min_size=1, max_size=5), paths)
@example(lowers=["/\\"], upper="/\\")
@example(lowers=["/,\\:", '/"'], upper='/"')
def test_any_path_survives_escaping(lowers: list[str], upper: str) -> None:
    text = f"lowerdir={':'.join(map(escape, lowers))},upperdir={escape(upper)}"
    options = parse([text, "volatile"], ["/m"])
    assert options.lowers == tuple(lowers)
    assert options.upper == upper
    assert options.volatile


@given(st.text(alphabet='a:\\,"'))
def test_splitting_loses_nothing(text: str) -> None:
    """Cutting at separators and joining again gives the same characters, escapes resolved."""
    try:
        pieces = split_paths(text)
    except UsageError:
        return
    assert all(pieces)
    assert ":".join(map(escape, pieces)).replace("\\", "").count(":") >= len(pieces) - 1
    assert split_paths(":".join(map(escape, pieces))) == pieces


@given(st.text(alphabet='\\:,"a'))
def test_unescape_undoes_escape(text: str) -> None:
    assert unescape(escape(text)) == text


words = st.sampled_from(
    ["lowerdir", "upperdir", "workdir", "timeout", "threads", "ro", "context", "uidmapping", ".."]
) | st.sampled_from('=,:\\"\0\udcff /-')


@given(
    st.lists(st.lists(words | st.text(max_size=3), max_size=12).map("".join), max_size=3),
    st.lists(st.text(max_size=5), max_size=4),
)
def test_no_input_raises_anything_but_our_errors(
    options: list[str], positionals: list[str]
) -> None:
    try:
        result = parse(options, positionals)
    except UnionfsError:
        return
    assert result.lowers
    assert all(map(os.path.isabs, (*result.lowers, result.mountpoint)))
