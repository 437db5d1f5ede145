# cython: language_level=3, boundscheck=False, wraparound=False
"""Listing directories."""
from libc.errno cimport EINVAL, ENOENT
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from unionfs._call cimport done, fill_entry
from unionfs._channel cimport Call
from unionfs._operations cimport tree_lookup, tree_readdir
from unionfs._sys cimport Stat
from unionfs._wire cimport Dirent, DirentPlus, ReadIn

cdef enum:
    NAME_LENGTH = 255

# A reply being filled.
cdef struct Filling:
    char *at
    size_t used
    size_t room
    size_t head         # bytes before the name: a Dirent or a DirentPlus
    bint full


cdef inline size_t record_size(size_t head, size_t name_length) noexcept nogil:
    return (head + name_length + 7) & ~<size_t>7


cdef int add(void *arg, const char *name, size_t length, uint64_t ino, uint32_t dtype,
             uint64_t cookie) noexcept nogil:
    cdef Filling *filling = <Filling *>arg
    cdef size_t size = record_size(filling.head, length)
    cdef char *record = filling.at + filling.used
    cdef Dirent *dirent = <Dirent *>(record + filling.head - sizeof(Dirent))
    if length > NAME_LENGTH or size > filling.room - filling.used:
        filling.full = True
        return 1
    memset(record, 0, size)
    dirent.ino = ino
    dirent.off = cookie
    dirent.namelen = <uint32_t>length
    dirent.type = dtype
    memcpy(record + filling.head, name, length)
    filling.used += size
    return 0


cdef int64_t fill(Call *call, Filling *filling, uint64_t offset) noexcept nogil:
    """A reply's worth of entries from `offset` on; the bytes, 0 at the end of the directory."""
    cdef int64_t result
    filling.used = 0
    filling.full = False
    result = tree_readdir(call.channel.table, &call.op, call.header.nodeid, offset, add, filling)
    if filling.used:
        return <int64_t>filling.used
    # Nothing fits: an empty reply would say that the directory ends here.
    return -EINVAL if filling.full else done(result, 0)


cdef Filling new_filling(Call *call, size_t head) noexcept nogil:
    cdef Filling filling
    filling.at = call.reply
    filling.room = min(<size_t>(<const ReadIn *>call.body).size, call.capacity)
    filling.head = head
    filling.used = 0
    filling.full = False
    return filling


cdef int64_t on_readdir(Call *call) noexcept nogil:
    cdef Filling filling = new_filling(call, sizeof(Dirent))
    return fill(call, &filling, (<const ReadIn *>call.body).offset)


cdef bint look_up(Call *call, DirentPlus *record) noexcept nogil:
    """Fill in the entry, with the reference the kernel takes; False: the name is gone.

    An entry without a node is listed too, and the kernel asks for the rest when it wants it: so
    "." and "..", which carry no reference, and what would have to wait or fails otherwise.
    """
    cdef char name[NAME_LENGTH + 1]
    cdef size_t length = record.dirent.namelen
    cdef uint64_t node = 0
    cdef Stat st
    cdef int result
    # In the record a name whose length is a multiple of 8 has no zero behind it.
    memcpy(name, <char *>record + sizeof(DirentPlus), length)
    name[length] = 0
    if name[0] == c"." and (length == 1 or length == 2 and name[1] == c"."):
        return True
    result = tree_lookup(call.channel.table, &call.op, call.header.nodeid, name, length, &node,
                         &st)
    if result == 0:
        fill_entry(call.channel, &record.entry, node, &st)
    return result != -ENOENT


cdef int64_t on_readdirplus(Call *call) noexcept nogil:
    """The listing first and the look-ups after it: none runs inside tree_readdir(), and none is
    made for an entry that does not fit."""
    cdef Filling filling = new_filling(call, sizeof(DirentPlus))
    cdef uint64_t offset = (<const ReadIn *>call.body).offset
    cdef char *reply = call.reply
    cdef DirentPlus *record
    cdef int64_t length
    cdef size_t size, at, kept
    while True:
        length = fill(call, &filling, offset)
        if length <= 0:
            return length
        at = kept = 0
        while at < <size_t>length:
            record = <DirentPlus *>(reply + at)
            size = record_size(sizeof(DirentPlus), record.dirent.namelen)
            offset = record.dirent.off
            if look_up(call, record):
                if kept != at:
                    memmove(reply + kept, record, size)
                kept += size
            at += size
        if kept:
            return <int64_t>kept
        # Every one of them is gone; an empty reply would say that the directory ends here.
