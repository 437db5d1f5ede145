"""Unknown options: which are passed over, and which are errors that name ours."""

import pytest

from unionfs import unknown
from unionfs.errors import UnsupportedOption, UsageError
from unionfs.options import KNOWN, parse
from unionfs.unknown import NO_TYPING_ERRORS, nearest

BRANCHES = ["/l", "/u", "/m"]

#: What mount(8), mount.fuse3(8), fuse(4), overlayfs.rst, fuse-overlayfs(1), mergerfs(1), sshfs(1),
#: bindfs(1), aufs(5), unionfs(8) and the manuals of ext4, xfs, btrfs, f2fs, tmpfs, nfs, cifs and 9p
#: understand and we do not: engines and fstab may hand it on, so it must not fail a mount.
FOREIGN = """
abort ac ac_attr_timeout access acl acregmin addr allocsize aname anchor assert async_dio
async_read atgc atomic_o_trunc attr2 attr_timeout auth_key auto_cache auto_da_alloc autodefrag
background_gc barrier bg big_writes bind blkdev blksize block branches-mount-timeout bs bsddf
bsdgroups bulk_read cache cache.files cache_timeout cachetag casefold category.action
category.create category.search check check_int chk_data_crc chmod-ignore clean_plink clear_cache
clientaddr clone_fd codepage commit compr compress congestion_threshold coo coo_all coo_none
create-for-user credentials cruft cto data datacow datasum dax debug_file degraded delalloc
delay_connect device dfltgid dfltuid dio dioread_lock dioread_nolock dir_mode dirdata direct_io
diropq dirperm1 dirren dirwh disable_roll_forward discard dmask domain dont_mask dont_measure
drop_privileges dropcacheonclose encryption enospc_debug entry_timeout errors export-support
export_support fd fg fhsm_sec file_mode filestreams flush flushoncommit fmask follow_symlinks
force-group force-user fragment from_code fsc fsuuid func.mkdir gc_merge gid gquota group_id grpid
grpjquota handle_killpriv hard hard_remove helper hide hide_meta_dir hide_meta_files hotplug huge
i_version i_versions idmap ignorepponrename ikeep index init_itable inlinecrypt ino32_t inode32
inode64 inodecalc intr intr_signal iocharset itrunc_xino iversion journal journal_async_commit
journal_checksum journal_dev journal_ioprio journal_path jqfmt kernel-permissions-check
kernel_cache kudzu large_read largefile largeio lastblock link-exdev link_cow list_plink
local_lock lock locktimeout logbsize logbufs logdev longad lookupcache loop loud lsattr managed
mand map max_background max_batch_time max_connect max_dir_size_kb max_files max_idle_threads
max_inline max_read max_readahead max_threads max_write mb_optimize_scan metacopy metadata_ratio
mfsymlinks migration min_batch_time minfreespace minixdf mirror mode modules mountproto move
moveonenospc mpol msize mtd multithreaded nconnect negative_timeout nfs_export nfsopenhack nfsvers
nls no_async_dio no_bulk_read no_check_root no_prefetch_block_bitmaps no_readahead no_readdirplus
no_remote_flock no_remote_lock no_remote_posix_lock no_splice_move no_splice_read no_splice_write
noac noadinicb noalign noatgc noattr2 noauto_cache noauto_da_alloc noautodefrag nobarrier nobrl
nocow nocto nodatacow nodatasum nodax nodelalloc nodfs nodio nodirperm1 nodirren nodiscard
noextend nofollow noforget nofsc nogc_merge nogrpid noikeep noinit_itable noinitgroups noipv4
noiversion nojoliet nolargefile nolargeio noload nolock nomand nombcache nomigration nonempty
nooverride_creds noperm noplink noquota nordirplus norecovery noresvport norock nosharecache
noshwh nosmackfs nosoftreval nospace_cache nossd nostats nostrict nosum notreelog notrunc_xib
nounix nouser_xattr nousers nouuid noverbose novrs nowarn_perm noxattr noxino nullrw offset
override_creds overriderockperm pamconsole parallel_direct_writes part passthrough password
password_stdin perm perms plink port posix posix_acl posixacl pquota prefetch_block_bitmaps
preserve_branch pri proto q quiet rbind rdblk rdcache rdhash rdirplus readahead readdir_ino
readdirplus realname reconnect recovery redirect_dir ref_verify refrof relaxed_permissions
remember rename-exdev rescue resgid resolve-symlinks resuid resvport retrans retry rfdno rodir
rootmode rsize rtdev sb seclabel security_capability session setuid sharecache shortad shortname
showassoc showexec shwh silent sizelimit skip_balance smackfsdef smackfsfloor smackfshat
smackfsroot smackfstransmute soft softerr softreval sourcename space_cache splice_move splice_read
splice_write ssd ssh_command sshfs_debug sshfs_sync statfs statfs_ignore statfs_omit_ro stats
stripe subdir subtype subvol subvolid sum sunit sw swalloc swap swidth symlinkify sync_read
sys_immutable sysvgroups tcp test_dummy_encryption thread_pool threaded timeo to_code trans
transform_symlinks treelog trunc_xib trunc_xino trunc_xino_path tz ubi udp uhelper uid umask
umounthelper undelete unhide uqnoenforce uquota use_ino usebackuproot user_id user_xattr username
userxattr usrjquota utf8 uuid v verbose verity vers volume warn_perm wfdno workaround
writeback_cache wsize wsum wsync xdir xprtsec
"""


def test_options_of_other_filesystems_are_passed_over() -> None:
    for name in FOREIGN.split():
        for text in (name, f"{name}=1", f"{name}=on"):
            assert parse([text], BRANCHES).unknown == (name,)


def test_every_exemption_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name there resembles one of ours."""
    exempted = NO_TYPING_ERRORS
    monkeypatch.setattr(unknown, "NO_TYPING_ERRORS", frozenset())
    for name in exempted:
        assert nearest(name, KNOWN), name


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("uperdir", "upperdir"),
        ("loweridr", "lowerdir"),
        ("volatil", "volatile"),
        ("whiteouts", "whiteout"),
        ("RO", "ro"),
        ("roo", "ro"),
        ("r0", "ro"),
        ("or", "ro"),
        ("Volatile", "volatile"),
        ("allow-other", "allow_other"),
        ("lwoerdri", "lowerdir"),
        ("nosiud", "nosuid"),
        ("auto_unmout", "auto_unmount"),
    ],
)
def test_a_typing_error_is_an_error_that_names_both(wrong: str, meant: str) -> None:
    for text in (wrong, f"{wrong}=/a"):
        with pytest.raises(UsageError) as caught:
            parse([text], BRANCHES)
        assert str(caught.value) == f"there is no option {wrong}: did you mean {meant}?"


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("size=1g", "filesystem of the upper"),
        ("quota=5", "filesystem of the upper"),
        ("usrquota", "filesystem of the upper"),
        ("br=/a=rw:/b=ro", "lowerdir=A:B,upperdir=U"),
        ("br:/a=rw:/b=ro", "lowerdir=A:B,upperdir=U"),
        ("dirs=/a=rw:/b=ro", "lowerdir=A:B,upperdir=U"),
        ("append:/c=ro", "lowerdir=A:B,upperdir=U"),
        ("cow", "leave the option out"),
        ("COW", "leave the option out"),
        ("udba=notify", "must not change"),
        ("create=mfs", "no policy"),
        ("lowerdir=/b=ro,upperdir=/a=rw", "lowerdir=A:B,upperdir=U"),
    ],
)
def test_what_elsewhere_is_a_promise_is_refused(text: str, ours: str) -> None:
    with pytest.raises(UnsupportedOption) as caught:
        parse([text], ["/m"] if "lowerdir" in text else BRANCHES)
    assert ours in str(caught.value)


@pytest.mark.parametrize("arguments", [["/a=RW:/b=RO", "/m"], ["/b=rr+wh", "/a=rw", "/m"]])
def test_modes_behind_branches_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UnsupportedOption, match="lowerdir=A:B,upperdir=U"):
        parse([], arguments)


def test_a_directory_may_be_called_like_a_mode() -> None:
    options = parse([], ["/b=RO/:/c=x", "/a=rw/", "/m"])
    assert (options.lowers, options.upper) == (("/b=RO/", "/c=x"), "/a=rw/")
