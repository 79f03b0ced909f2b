"""The revision of a session: its version, and the ids of its latest writes. See README.md for what stands in a value.

A write's id makes a replay recognisable, and two writes distinguishable that made the same version.
scripts/revision.lua reads and writes the same.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, final

import msgspec

from redis_state.codec.write_ids import ID

HISTORY: Final = 16  # writes that a revision remembers; scripts/revision.lua says the same
MAX_VERSION: Final = 2**53 - 1  # up to there Lua's numbers are exact
SIZE: Final = 4  # bytes: a colon, and how long the text is
_ENTRY: Final = ID + 1
_FULL: Final = (HISTORY - 1) * _ENTRY  # bytes that hold no more entries than are remembered of what a write replaces
_KEY_ID: Final = 16  # letters of an id that comes from a caller's key
_SIGNS: Final = (b",", b".", b"")
_OPENING: Final = b'"_rev":"'
_FIELD: Final = b',"_rev":"'
_FIELD_OF: Final = _FIELD + b"%d-"  # a version
_MSGPACK_OPENING: Final = b"\xa4_rev\xda"
_OPENINGS: Final = (_FIELD, _MSGPACK_OPENING)
_CLOSING: Final = b'"}'
_BRACE: Final = ord("{")
_COMMA: Final = ord(",")
_HASH: Final = ord("#")  # before a schema
_AT: Final = ord("@")  # stands in the revisions of lines, and of a head whose document does not say its time
_WRITE: Final = rb"(?:[\w-]{6}|[\w-]{16}=\d{1,16})(?:@\d{1,16})?[,.]"
_TEXT: Final = re.compile(
    rb"([1-9]\d{0,15})-((?:%b)+)(?:#([1-9]\d{0,8}))?(?:([+*])([1-9]\d{0,8})/([1-9]\d{0,8}))?:(\d{3})" % _WRITE
)
_WRITES: Final = re.compile(rb"([\w-]{6,16})(=\d+)?(?:@(\d+))?([,.])")


class DamagedRevisionError(ValueError):
    """Raised when there is something else in a revision's place, or a version that no store can have given."""


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
        """It as it stands in a head."""
        text = b"%d-%b" % (self.version, self.ids)
        return b"%b:%03d" % (text, len(text) + SIZE)

    @property
    def newest(self) -> bytes:
        """The id of the latest write; empty where there is none."""
        return self.ids[: ID if self.ids[ID : ID + 1] in _SIGNS else _KEY_ID]


UNKNOWN: Final = Revision(0)
Origin = Revision | bytes  # as bytes it is the end of a value, see `unread`


class Ending(msgspec.Struct):
    """What stands at the end of a part.

    Attributes:
        revision: The writes that it names.
        start: Where its text begins.
        time: When the newest of them was made, in microseconds since 1970; None where the document says it.
        schema: The schema of its data.
        kind: ``b"+"`` of a line, ``b"*"`` of a block, empty of a head.
        length: How long the part is; 0 of a head.
        distance: From the head's end to the part's; 0 of a head.
    """

    revision: Revision
    start: int
    time: int | None
    schema: int
    kind: bytes
    length: int
    distance: int


def make(version: int, write_id: bytes, older: bytes = b"", *, guarded: bool = False) -> Revision:
    """The revision of a write.

    Args:
        version: What it makes.
        write_id: Its id.
        older: The ids of the revision that its object stems from; empty where that is not known.
        guarded: Whether it checks what it replaces.
    """
    if len(older) > _FULL:
        older = latest(older, HISTORY - 1)
    return Revision(version, write_id + (b"," if guarded else b".") + older)


def entry_of(write_id: bytes, version: int, time: int) -> bytes:
    """The entry of a write, without its sign: that of a caller's key says which version it made, and when."""
    return b"%b=%d@%d" % (write_id, version, time) if len(write_id) > ID else write_id


def made_by_key(revision: Revision, entry: bytes) -> tuple[Revision, int] | None:
    """What an earlier write with the key of an entry has made, and when, in microseconds; None if there is none."""
    write_id = entry.partition(b"=")[0]
    if len(write_id) == ID or write_id not in revision.ids:
        return None
    for found, version, time, _ in _WRITES.findall(revision.ids):
        if found == write_id:
            made = int(version[1:])
            return make(made, entry_of(write_id, made, int(time)), guarded=True), int(time)
    return None


def replaced_by(version: int, stored: Revision) -> bytes:
    """The ids that a write which makes a version goes on remembering of what it replaces.

    Where its version does not follow, nobody could count back from it to those without a version of their own.
    """
    if stored.version + 1 == version:
        return stored.ids
    return b"".join(match[0] for match in _WRITES.finditer(stored.ids) if match[2])


def latest(ids: bytes, count: int = HISTORY) -> bytes:
    """The first of some ids."""
    if b"=" not in ids:
        return ids[: count * _ENTRY]
    return b"".join(match[0] for match in list(_WRITES.finditer(ids))[:count])


@lru_cache(maxsize=1024)  # a reply is looked at when it comes, and again when its caller runs
def parse(text: bytes) -> Revision:
    """A revision from the text of a head.

    Raises:
        DamagedRevisionError: It is none.
    """
    end = _ending(text, 0, len(text))
    if end.kind:
        raise DamagedRevisionError
    return end.revision


def is_text(text: bytes) -> bool:
    """Whether it is the text of a head."""
    try:
        parse(text)
    except DamagedRevisionError:
        return False
    return True


def line_ending(text: bytes) -> Ending:
    """What the text at the end of a line or block says.

    Raises:
        DamagedRevisionError: It is none.
    """
    end = _ending(text, 0, len(text))
    if not end.kind:
        raise DamagedRevisionError
    return end


def parsed(origin: Origin) -> Revision:
    """A revision that may still stand in bytes; `UNKNOWN` where they hold none that can be read."""
    if type(origin) is Revision:
        return origin
    try:
        return parse(origin[9:-2] if origin[:1] == b"," else origin[8:])
    except DamagedRevisionError:
        return UNKNOWN


def unread(value: bytes, mark: bytes = b"") -> bytes:
    """The end of a value that seems to be nothing but a head, from the name of its revision on; empty otherwise.

    Args:
        value: What is stored.
        mark: The schema that it must have, as `Schema.mark` has it.

    To find it takes a tenth of the time of reading it, and most of what is loaded is not saved by the same object.
    """
    try:
        end = value[-11 - int(value[-5:-2]) :] if value[0] == _BRACE else value[-8 - int(value[-3:]) :]
    except (ValueError, IndexError):
        return b""
    if end.startswith(_OPENINGS) and _AT not in end and (b"%b:" % mark in end if mark else _HASH not in end):
        return end
    return b""


def starts_with(end: bytes, version: object) -> bool:
    """Whether what `unread` returned is of this version, which may be what somebody else wrote in its place."""
    if type(version) is not int or not 0 < version <= MAX_VERSION:
        return False
    if end[0] == _COMMA:
        return end.startswith(_FIELD_OF % version)
    return end.startswith(b"%d-" % version, len(_MSGPACK_OPENING) + 2)


def ending(value: bytes, stop: int) -> Ending | None:
    """What stands at the end of the part that ends there; None where it has no revision.

    Raises:
        DamagedRevisionError: There is something else in its place.
    """
    is_json = value[max(stop - 2, 0) : stop] == _CLOSING
    close = stop - 2 if is_json else stop
    digits = value[max(close - 3, 0) : close]
    if len(digits) < SIZE - 1 or not digits.isdigit():
        return None
    size = int(digits)
    start = close - size
    opening = value[max(start - 9, 0) : max(start, 0)]
    if is_json:
        stands = opening in (_FIELD, b"{" + _OPENING)
    else:
        stands = len(opening) > len(_OPENING) and opening[1:] == _MSGPACK_OPENING + size.to_bytes(2, "big")
    return _ending(value, start, close) if stands else None


def _ending(value: bytes, start: int, stop: int) -> Ending:
    match = _TEXT.fullmatch(value, start, stop)
    if match is None:
        raise DamagedRevisionError
    version, ids, schema, kind, length, distance, size = match.groups()
    if int(version) > MAX_VERSION or int(size) != stop - start or int(length or 0) > int(distance or 0):
        raise DamagedRevisionError
    time = None
    if b"@" in ids:
        writes: list[tuple[bytes, ...]] = _WRITES.findall(ids)
        time = int(writes[0][2]) if writes[0][2] else None
        kept = [
            b"%b%b@%b%b" % write if write[1] and write[2] else b"%b%b%b" % (write[0], write[1], write[3])
            for write in writes
        ]
        ids = b"".join(kept)
    revision = Revision(int(version), ids)
    return Ending(revision, start, time, int(schema or 1), kind or b"", int(length or 0), int(distance or 0))


def head_text(version: int, entries: bytes, schema: int = 1) -> bytes:
    """The text of a head's revision, with entries that may say when."""
    text = _begin(version, entries, schema)
    return b"%b:%03d" % (text, len(text) + SIZE)


def with_time(ids: bytes, time: int | None) -> bytes:
    """Ids of which the newest says when, as it must where a part's data does not."""
    newest = ids[: ID if ids[ID : ID + 1] in _SIGNS else 0]
    return ids if not newest or time is None else b"%b@%d%b" % (newest, time, ids[ID:])


def _begin(version: int, entries: bytes, schema: int) -> bytes:
    return b"%d-%b" % (version, entries) if schema == 1 else b"%d-%b#%d" % (version, entries, schema)


def line_text(version: int, entries: bytes, used: int, before: int, *, kind: bytes = b"+", schema: int = 1) -> bytes:
    """The text of the revision of a line or block.

    Args:
        version: What the write makes.
        entries: Its entry; of a block the latest ones.
        used: The bytes of the line without this text, the line feed included.
        before: From the head's end to where the line begins.
        kind: ``b"*"`` of a block.
        schema: The schema of its data.
    """
    text = _begin(version, entries, schema)
    length = distance = 0
    while True:  # the numbers count their own digits
        place = b"%b%d/%d" % (kind, length, distance)
        size = len(text) + len(place) + SIZE
        if length == used + size:
            return b"%b%b:%03d" % (text, place, size)
        length = used + size
        distance = before + length
