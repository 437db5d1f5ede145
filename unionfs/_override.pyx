# cython: language_level=3
"""Owner, mode and type of a file kept in an extended attribute; see the declarations."""
from libc.stdint cimport UINT32_MAX, int64_t, uint16_t, uint32_t
from libc.stdio cimport snprintf, sscanf
from libc.string cimport strcmp

from unionfs._idmap cimport NO_ID
from unionfs._sys cimport (
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    S_ISGID,
    Stat,
    sys_getxattr,
    sys_getxattrat,
    sys_setxattr,
)
from unionfs._unmapped cimport Unmapped, unmapped_show

cdef enum:
    NAMES = 3
    RECORD_SIZE = 96
    MOST_MODE = 0o177777    # fuse-overlayfs 1.10 writes the bits of the type as well

# In the order in which fuse-overlayfs looks for them.
cdef const char **names = [
    b"security.fuseoverlayfs.override_stat", b"user.fuseoverlayfs.override_stat",
    b"user.containers.override_stat"]


cdef Override override_of(int root, uint32_t owner, Unmapped *unmapped) noexcept nogil:
    cdef Override o
    cdef int i
    o.name = NULL
    o.by_root = False
    o.owner = owner
    o.unmapped = unmapped
    for i in range(NAMES):
        if sys_getxattr(root, names[i], NULL, 0) >= 0:
            o.name = names[i]
            o.by_root = i == 0
            break
    return o


cdef bint override_trusts(const Override *o, const Stat *stored) noexcept nogil:
    if o.by_root or stored.stx_uid == o.owner:
        return True
    return stored.stx_uid == NO_ID and o.unmapped != NULL and o.unmapped.believed


cdef uint32_t read_type(const char *text, uint32_t *major, uint32_t *minor) noexcept nogil:
    """The type bits of a file that is stored as a regular one; 0 for any other."""
    cdef unsigned long long a = 0, b = 0
    cdef uint32_t type_ = 0
    if strcmp(text, b"pipe") == 0:
        return S_IFIFO
    if strcmp(text, b"socket") == 0:
        return S_IFSOCK
    if sscanf(text, b"char-%llu-%llu", &a, &b) == 2:
        type_ = S_IFCHR
    elif sscanf(text, b"block-%llu-%llu", &a, &b) == 2:
        type_ = S_IFBLK
    if a > UINT32_MAX or b > UINT32_MAX:
        return 0
    major[0] = <uint32_t>a
    minor[0] = <uint32_t>b
    return type_


cdef void apply(const Override *o, char *record, int64_t length, Stat *st) noexcept nogil:
    cdef char text[32]
    # Wider than what they become: scanf(3) cuts off what is too much, and takes signs for no error.
    cdef unsigned long long uid, gid, mode
    cdef uint32_t type_ = 0, major = 0, minor = 0
    cdef int fields
    if length <= 0:
        return
    record[length] = 0
    fields = sscanf(record, b"%llu:%llu:%llo:%31s", &uid, &gid, &mode, text)
    if fields < 3 or uid >= NO_ID or gid >= NO_ID or mode > MOST_MODE:
        return
    if not override_trusts(o, st):
        if uid != st.stx_uid or gid != st.stx_gid:
            return
        # chmod(2) by an owner outside the group would not set this bit.
        mode &= ~<unsigned long long>S_ISGID | (st.stx_mode & S_ISGID)
    if fields == 4 and (st.stx_mode & S_IFMT) == S_IFREG:
        type_ = read_type(text, &major, &minor)
    if (type_ == S_IFCHR or type_ == S_IFBLK) and not override_trusts(o, st):
        return
    if type_ == 0:
        type_ = st.stx_mode & S_IFMT
    else:
        st.stx_rdev_major = major
        st.stx_rdev_minor = minor
    st.stx_uid = <uint32_t>uid
    st.stx_gid = <uint32_t>gid
    st.stx_mode = <uint16_t>(type_ | (mode & 0o7777))


cdef void override_show(const Override *o, int fd, Stat *st) noexcept nogil:
    cdef char record[RECORD_SIZE]
    unmapped_show(o.unmapped, fd, b"", st)
    if o.name != NULL:
        apply(o, record, sys_getxattr(fd, o.name, record, RECORD_SIZE - 1), st)


cdef void override_show_at(const Override *o, int dirfd, const char *file, Stat *st) noexcept nogil:
    cdef char record[RECORD_SIZE]
    unmapped_show(o.unmapped, dirfd, file, st)
    if o.name != NULL:
        apply(o, record, sys_getxattrat(dirfd, file, o.name, record, RECORD_SIZE - 1), st)


cdef void write_type(char *text, size_t size, const Stat *st) noexcept nogil:
    cdef uint32_t type_ = st.stx_mode & S_IFMT
    cdef const char *word = b"file"
    if type_ == S_IFCHR or type_ == S_IFBLK:
        word = b"char" if type_ == S_IFCHR else b"block"
        snprintf(text, size, b"%s-%u-%u", word, st.stx_rdev_major, st.stx_rdev_minor)
        return
    if type_ == S_IFDIR:
        word = b"dir"
    elif type_ == S_IFLNK:
        word = b"symlink"
    elif type_ == S_IFIFO:
        word = b"pipe"
    elif type_ == S_IFSOCK:
        word = b"socket"
    snprintf(text, size, b"%s", word)


cdef int override_write(const Override *o, int fd, const Stat *st) noexcept nogil:
    cdef char type_[32]
    cdef char record[RECORD_SIZE]
    cdef int length
    if o.name == NULL:
        return 0
    write_type(type_, sizeof(type_), st)
    length = snprintf(record, RECORD_SIZE, b"%u:%u:0%o:%s", st.stx_uid, st.stx_gid,
                      <unsigned>(st.stx_mode & 0o7777), type_)
    return sys_setxattr(fd, o.name, record, <size_t>length, 0)


cdef uint32_t override_mode(uint32_t mode) noexcept nogil:
    cdef uint32_t daemon = 0o700 if (mode & S_IFMT) == S_IFDIR else 0o600
    return daemon | (mode & 0o777)
