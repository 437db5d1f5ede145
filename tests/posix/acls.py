"""POSIX ACLs in the form that the kernel takes them: linux/posix_acl_xattr.h."""

import struct

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

_TAGS = {"u": 0x01, "U": 0x02, "g": 0x04, "G": 0x08, "m": 0x10, "o": 0x20}
_UNDEFINED = 0xFFFFFFFF


def acl(text: str) -> bytes:
    """Encode "u:7 U4321:6 g:5 G777:4 m:7 o:0": owner, a user, group, a group, mask, others."""
    data = struct.pack("<I", 2)
    for entry in text.split():
        tag, bits = entry.split(":")
        who = int(tag[1:]) if tag[1:] else _UNDEFINED
        data += struct.pack("<HHI", _TAGS[tag[0]], int(bits), who)
    return data


def decode(data: bytes) -> str:
    """The text of an encoded ACL, as `acl` takes it."""
    letters = {value: letter for letter, value in _TAGS.items()}
    return " ".join(
        f"{letters[tag]}{'' if who == _UNDEFINED else who}:{bits}"
        for tag, bits, who in struct.iter_unpack("<HHI", data[4:])
    )
