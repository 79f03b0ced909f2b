"""The parts of a value as documents: what folding and migrations work on, whatever the state type."""

from __future__ import annotations

from typing import Final

import msgspec

from redis_state.codec.changes import Changed
from redis_state.codec.lines import latest_of
from redis_state.codec.maps import with_one_more_field
from redis_state.codec.revision import (
    UNKNOWN,
    DamagedRevisionError,
    Ending,
    Revision,
    ending,
    latest,
    line_ending,
    with_time,
)

_BRACE: Final = ord("{")


class Line(Changed, forbid_unknown_fields=True, kw_only=True):
    """What a line or block holds.

    Attributes:
        rev: Its revision.
        messages: Its messages.
    """

    rev: str = msgspec.field(name="_rev")
    messages: list[msgspec.Raw] = msgspec.field(default_factory=list[msgspec.Raw])


_decode_lines: Final = msgspec.json.Decoder(Line).decode_lines


class Parts(msgspec.Struct):
    """A value in its parts.

    Attributes:
        head: The bytes of the head.
        head_end: What stands at its end; None of a document that another program wrote.
        lines: The lines and blocks.
        ends: What stands at the end of each.
    """

    head: bytes
    head_end: Ending | None
    lines: list[Line]
    ends: list[Ending]

    @property
    def is_json(self) -> bool:
        """Whether the head is JSON."""
        return self.head[0] == _BRACE

    @property
    def schemas(self) -> set[int]:
        """The schemas of all parts."""
        return {1 if self.head_end is None else self.head_end.schema, *(each.schema for each in self.ends)}

    @property
    def revision(self) -> Revision:
        """The revision of the session."""
        older = UNKNOWN if self.head_end is None else self.head_end.revision
        if not self.ends:
            return older
        ids, is_complete = latest_of(reversed(self.ends))
        return Revision(self.ends[-1].revision.version, latest(ids if is_complete else ids + older.ids))

    @property
    def time(self) -> int | None:
        """When it was last written, where that does not stand in the document."""
        last = self.ends[-1] if self.ends else self.head_end
        return None if last is None else last.time

    @property
    def entries(self) -> bytes:
        """The ids of the latest writes, of which the newest says when."""
        return with_time(self.revision.ids, self.time)


def split(value: bytes) -> Parts:
    """A value in its parts.

    Raises:
        ValueError: It is damaged.
    """
    end = ending(value, len(value)) if value else None
    stop = len(value) - (end.distance if end is not None and end.kind else 0)
    head_end = ending(value, stop) if stop > 0 else None
    if stop < 1 or (head_end is not None and head_end.kind):
        raise DamagedRevisionError
    lines = _decode_lines(value[stop:]) if stop < len(value) else []
    return Parts(value[:stop], head_end, lines, [line_ending(line.rev.encode()) for line in lines])


def sealed(fields: object, text: bytes, *, is_json: bool) -> bytes:
    """A head from its fields, with the text of a revision."""
    if is_json:
        document = msgspec.json.encode(fields)
        return b'%b%b"_rev":"%b"}' % (document[:-1], b"," if len(document) > len(b"{}") else b"", text)
    document = with_one_more_field(msgspec.msgpack.encode(fields))
    return b"%b\xa4_rev\xda%b%b" % (document, len(text).to_bytes(2, "big"), text)
