"""Which write a value stems from.

A revision reads ``3-Zk3x0A,91bQ_e.``: the version, and the ids of the latest writes, newest first. A comma follows the
id of a write that looked what it replaced, a full stop that of one that did not, a plain save. The revision stands at
the very end of a value, after ``_rev``, so that neither this side nor a script parses a document for it. A write's id
makes a replay recognisable, and two writes distinguishable that made the same version. In an appended line the length
of the document follows: ``4-p0LmXw,@1468``. scripts/revision.lua reads the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Final, final

import msgspec

HISTORY: Final = 16  # ids that a revision remembers; scripts/revision.lua says the same
_ID: Final = 6  # letters
_ENTRY: Final = _ID + 1
_TAIL: Final = 192  # bytes that hold any revision, with what closes it
_OPENING: Final = b'"_rev":"'
_OPENING_OF: Final = _OPENING + b"%d-"  # a version
_AT: Final = ord("@")  # what the revision of an appended line holds
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PAIRS: Final = [(a + b).encode() for a in _ALPHABET for b in _ALPHABET]
_END: Final = re.compile(rb'(?:"_rev"\s*:\s*"|\xa4_rev\xd9.)(\d+)-([\w,.-]*)(?:@(\d+))?(?:"\s*\}\s*)?\Z', re.DOTALL)


@final
class Revision(msgspec.Struct, frozen=True):
    """The latest writes of a session.

    Attributes:
        version: How often the session had been written.
        ids: The writes' ids, newest first, each with the sign behind it.
    """

    version: int
    ids: bytes = b""

    @property
    def text(self) -> bytes:
        """It as it stands in a value."""
        return b"%d-%b" % (self.version, self.ids)

    @property
    def newest(self) -> bytes:
        """The id of the latest write; empty where there is none."""
        return self.ids[:_ID]


UNKNOWN: Final = Revision(0)
Origin = Revision | bytes  # as bytes it is the end of a value, see `unread`


def write_ids() -> Iterator[bytes]:
    """Ids for the writes of one store: unique there, and for other stores as good as random, of 36 bits."""
    while True:
        prefix = random.choice(_PAIRS) + random.choice(_PAIRS)
        for pair in _PAIRS:
            yield prefix + pair


def make(version: int, write_id: bytes, older: bytes = b"", *, looked: bool = False) -> Revision:
    """The revision of a write.

    Args:
        version: What it makes.
        write_id: Its id.
        older: The ids of the revision that its object stems from; empty where that is not known.
        looked: Whether it looks what it replaces.
    """
    return Revision(version, write_id + (b"," if looked else b".") + older[: (HISTORY - 1) * _ENTRY])


def parse(text: bytes) -> Revision:
    """A revision from its text."""
    version, _, ids = text.partition(b"-")
    return Revision(int(version), ids)


def parsed(origin: Origin) -> Revision:
    """A revision that may still stand in bytes; `UNKNOWN` where they hold none."""
    return origin if type(origin) is Revision else _read_end(origin)[0]


def unread(value: bytes) -> bytes:
    """The end of a document in JSON that holds its revision; empty where batches follow, or where there is none.

    To find it takes a third of the time of reading it, and most of what is loaded is not saved by the same object.
    """
    start = value.rfind(_OPENING, -_TAIL)
    end = value[start:] if start > 0 else b""
    return b"" if _AT in end else end


def starts_with(end: bytes, version: object) -> bool:
    """Whether what `unread` returned is of this version, which may be what somebody else wrote in its place."""
    return type(version) is int and end.startswith(_OPENING_OF % version)


def read(value: bytes) -> tuple[Revision, int]:
    """The revision of a value, `UNKNOWN` where there is none, and the length of the value's document."""
    revision, base = _read_end(value)
    if base is None:
        return revision, len(value)
    # Each batch holds one id, and the document the older ones.
    lines = value[base + 1 :].split(b"\n")[-HISTORY:]
    newer = b"".join(_read_end(line)[0].ids for line in reversed(lines))
    older = _read_end(value[:base])[0].ids
    return Revision(revision.version, (newer + older)[: HISTORY * _ENTRY]), base


def _read_end(value: bytes) -> tuple[Revision, int | None]:
    """The revision at the very end of some bytes, and the length of the document if they are an appended line."""
    start = value.rfind(b"_rev", -_TAIL)
    match = _END.match(value, start - 1) if start > 0 else None
    if match is None:
        return UNKNOWN, None
    return Revision(int(match[1]), match[2]), int(match[3]) if match[3] else None
