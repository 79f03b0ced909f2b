"""Which write a value stems from.

A revision reads ``3-Zk3x0A,91bQ_e``: the version, and the ids of the latest writes, newest first. It stands at the very
end of a value, after ``_rev``, so that neither this side nor a script parses a document for it. A write's id makes a
replay recognisable, and two writes distinguishable that made the same version. In an appended line the length of the
document follows: ``4-p0LmXw@1468``. scripts/revision.lua reads the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Final

HISTORY: Final = 12  # ids that a revision remembers; scripts/revision.lua says the same
_ID: Final = 6  # letters
_TAIL: Final = 160  # bytes that hold any revision, with what closes it
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PAIRS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]
_WELL_FORMED: Final = re.compile(rb"\d+-[\w,-]*").fullmatch
_END: Final = re.compile(rb'(?:"_rev"\s*:\s*"|\xa4_rev\xd9.)(\d+-[\w,-]*)(?:@(\d+))?(?:"\s*\}\s*)?\Z', re.DOTALL)


def write_ids() -> Iterator[str]:
    """Ids for the writes of one store: unique there, and for other stores as good as random, of 36 bits."""
    while True:
        prefix = random.choice(_PAIRS) + random.choice(_PAIRS)
        for pair in _PAIRS:
            yield prefix + pair


def make(version: int, write_id: str, parent: str) -> str:
    """The revision of a write whose object stems from `parent`, which is empty where that is not known."""
    if not parent:
        return f"{version}-{write_id}"
    older = parent[parent.index("-") + 1 :][: (HISTORY - 1) * (_ID + 1) - 1]
    return f"{version}-{write_id},{older}" if older else f"{version}-{write_id}"


def version(revision: str) -> int:
    """How often the session had been written."""
    return int(revision[: revision.index("-")])


def newest(revision: str) -> str:
    """The id of the latest write; empty where there is none."""
    start = revision.index("-") + 1
    return revision[start : start + _ID]


def read(value: bytes) -> tuple[str, int]:
    """The revision at the end of a value, empty where there is none, and the length of the value's document."""
    start = value.rfind(b"_rev", -_TAIL)
    if start < 0:
        return "", len(value)
    # As this library writes it; anything else, such as a document that was edited by hand, takes the longer way.
    if value[start - 1 : start + 7] == b'"_rev":"' and value[-2:] == b'"}':
        revision, _, base = value[start + 7 : -2].partition(b"@")
        if _WELL_FORMED(revision):
            return revision.decode(), int(base) if base else len(value)
    match = _END.match(value, start - 1)
    if match is None:
        return "", len(value)
    return match[1].decode(), int(match[2]) if match[2] else len(value)
