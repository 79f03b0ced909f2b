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
from typing import Final

HISTORY: Final = 16  # ids that a revision remembers; scripts/revision.lua says the same
_ID: Final = 6  # letters
_ENTRY: Final = _ID + 1
_REMEMBERED: Final = 4096
_TAIL: Final = 192  # bytes that hold any revision, with what closes it
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PAIRS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]
_WELL_FORMED: Final = re.compile(rb"\d+-[\w,.-]*").fullmatch
_NUMBER: Final = re.compile(rb"[0-9]+").fullmatch
_END: Final = re.compile(rb'(?:"_rev"\s*:\s*"|\xa4_rev\xd9.)(\d+-[\w,.-]*)(?:@(\d+))?(?:"\s*\}\s*)?\Z', re.DOTALL)


def write_ids() -> Iterator[str]:
    """Ids for the writes of one store: unique there, and for other stores as good as random, of 36 bits."""
    while True:
        prefix = random.choice(_PAIRS) + random.choice(_PAIRS)
        for pair in _PAIRS:
            yield prefix + pair


def make(version: int, write_id: str, parent: str = "", *, looked: bool = False) -> str:
    """The revision of a write.

    Args:
        version: What it makes.
        write_id: Its id.
        parent: The revision that its object stems from; empty where that is not known.
        looked: Whether it looks what it replaces.
    """
    older = _ids(parent)[: (HISTORY - 1) * _ENTRY] if parent else ""
    return f"{version}-{write_id}{',' if looked else '.'}{older}"


def version(revision: str) -> int:
    """How often the session had been written."""
    return int(revision[: revision.index("-")])


def newest(revision: str) -> str:
    """The id of the latest write; empty where there is none."""
    start = revision.find("-") + 1
    return revision[start : start + _ID]


class Seen:
    """The latest revision that a store has seen of each of its sessions, for as many as it has room for."""

    def __init__(self) -> None:
        self._revisions: dict[bytes, str] = {}

    def note(self, key: bytes, revision: str) -> None:
        """Note what stands, or stood, under a key."""
        if len(self._revisions) >= _REMEMBERED:
            self._revisions.clear()
        self._revisions[key] = revision

    def newest(self, key: bytes) -> str:
        """The id of the latest write that was seen; empty for none."""
        return newest(self._revisions.get(key, ""))


def read(value: bytes) -> tuple[str, int]:
    """The revision of a value, empty where there is none, and the length of the value's document."""
    revision, base = _read_end(value)
    if base is None:
        return revision, len(value)
    # Each batch holds one id, and the document the older ones.
    lines = value[base + 1 :].split(b"\n")[-HISTORY:]
    newer = "".join(_ids(_read_end(line)[0]) for line in reversed(lines))
    older = _ids(_read_end(value[:base])[0])
    return f"{version(revision)}-{(newer + older)[: HISTORY * _ENTRY]}", base


def _ids(revision: str) -> str:
    return revision[revision.find("-") + 1 :]


def _read_end(value: bytes) -> tuple[str, int | None]:
    """The revision at the very end of some bytes, and the length of the document if they are an appended line."""
    start = value.rfind(b"_rev", -_TAIL)
    if start < 0:
        return "", None
    # As this library writes it; anything else, such as a document that was edited by hand, takes the longer way.
    if value[start - 1 : start + 7] == b'"_rev":"' and value[-2:] == b'"}':
        revision, _, base = value[start + 7 : -2].partition(b"@")
        if _WELL_FORMED(revision) and (not base or _NUMBER(base)):
            return revision.decode(), int(base) if base else None
    match = _END.match(value, start - 1)
    if match is None:
        return "", None
    return match[1].decode(), int(match[2]) if match[2] else None
