"""MessagePack maps, whose first bytes count their fields."""

from __future__ import annotations

from typing import Final

_FULL_FIXMAP: Final = 0x8F
MAP_16: Final = 0xDE


def with_one_more_field(document: bytes) -> bytes:
    """The MessagePack map with the count of its fields one higher."""
    if document[0] == MAP_16:  # no type has 65,535 fields
        return b"\xde%b%b" % ((int.from_bytes(document[1:3], "big") + 1).to_bytes(2, "big"), document[3:])
    if document[0] == _FULL_FIXMAP:
        return b"\xde\x00\x10%b" % document[1:]
    return b"%c%b" % (document[0] + 1, document[1:])  # fixmap: the count stands in the low four bits
