"""Large values, decoded in pieces: the event loop has its turn between them.

A megabyte of JSON takes a millisecond to decode, in which nothing else of the process runs. Nearly all of it are
messages, so these are decoded a few at a time, and the document without them at the end.

It is cut where one message seems to end and the next to begin. A cut elsewhere, inside a message or a string, leaves
unbalanced brackets or quotes, so a piece that can be decoded was cut right.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final, Generic

import msgspec

from redis_state import revision as revisions
from redis_state.codec import UNDECODABLE, Codec
from redis_state.errors import StateDecodeError
from redis_state.revision import Origin
from redis_state.state import S, StateType

LARGE: Final = 256 * 1024  # bytes, above which it is worth the detour
_PIECE: Final = 64 * 1024  # bytes decoded in one turn, about
_TRIES: Final = 4  # cuts tried for one piece
_BEGINNING: Final = re.compile(rb'\{"[^"\\]*":|"|\[')  # of a message: an object's first key, a string, or an array
_BACKSLASH: Final = ord("\\")
_CLOSING: Final = {b"{": b"}", b'"': b'"', b"[": b"]"}


class Pieces(Generic[S]):
    """Decodes large values of a state type that has messages.

    Args:
        state_type: The type.
        codec: Decodes what is not in pieces.
    """

    def __init__(self, state_type: StateType[S], codec: Codec[S]) -> None:
        self._codec = codec
        self._key = msgspec.json.encode(state_type.messages_key)
        self._opening = self._key + b":["
        self._messages: Any = msgspec.json.Decoder(state_type.message_list)

    @staticmethod
    def suit(state_type: StateType[Any]) -> bool:
        """Whether an object may be made with some of its messages first; none that looks at them all by itself."""
        return (
            state_type.has_messages
            and not state_type.constrains_messages
            and not hasattr(state_type.cls, "__post_init__")
        )

    async def decode(self, value: bytes, agent_id: str, session_id: str) -> tuple[S, Origin]:
        """See `Codec.decode`."""
        with contextlib.suppress(*UNDECODABLE, StateDecodeError):
            return await self._decode(value)
        return self._codec.decode(value, agent_id, session_id)  # it can be decoded in one piece, or is refused as any

    async def _decode(self, value: bytes) -> tuple[S, Origin]:
        revision, end = revisions.read(value)
        document = value[:end]
        found = self._find_messages(document)
        state = self._whole(document) if found is None else await self._in_pieces(document, *found)
        for lines in _slices(value, end):
            await asyncio.sleep(0)
            self._codec.extend(state, lines)
        return state, revision

    async def _in_pieces(self, document: bytes, start: int, separator: bytes) -> Any:
        messages, piece = list[Any](), list[Any]()
        last = at = start  # where the latest piece began, and where the rest does
        while True:
            await asyncio.sleep(0)
            found = self._cut(document, at, separator)
            if found is None:
                break
            piece, after = found
            messages += piece
            last, at = at, after
        state = self._whole(document[:start] + document[at:])
        # Inside of another field, or this one for a second time, perhaps with its letters escaped.
        if document.find(self._key, at) > 0 or document.find(b"\\u", at) > 0:
            longer = self._whole(document[:start] + document[last:])
            if len(longer.messages) != len(piece) + len(state.messages):
                raise ValueError("it has messages twice, and the last ones count")
        state.messages[:0] = messages
        return state

    def _whole(self, document: bytes) -> Any:
        return self._codec.decode(document, "", "")[0]

    def _find_messages(self, document: bytes) -> tuple[int, bytes] | None:
        """Where the messages begin, and what stands between two of them; None where that is not sure."""
        found = document.find(self._opening)
        start = found + len(self._opening)
        # Inside of a string its quotes would be escaped, inside of another object there would be a second brace before.
        if (
            found < 0
            or document[found - 1] == _BACKSLASH
            or document[:1] != b"{"
            or document.count(b"{", 0, start) != 1
        ):
            return None
        beginning = _BEGINNING.match(document, start)
        if beginning is None:
            return None
        return start, b"%b,%b" % (_CLOSING[beginning[0][:1]], beginning[0])

    def _cut(self, document: bytes, start: int, separator: bytes) -> tuple[list[Any], int] | None:
        """The messages of about one piece, and where the next one begins; None where there is no such cut."""
        near = start + _PIECE
        for _ in range(_TRIES):
            near = document.find(separator, near)
            if near < 0:
                break
            with contextlib.suppress(*UNDECODABLE):
                return self._messages.decode(b"[%b]" % document[start : near + 1]), near + len(b"},")
            near += 1
        return None


def _slices(value: bytes, start: int) -> Iterator[bytes]:
    """Whole lines from a position on."""
    while start < len(value):
        end = value.find(b"\n", start + _PIECE)
        yield value[start : end if end > 0 else len(value)]
        start = end if end > 0 else len(value)
