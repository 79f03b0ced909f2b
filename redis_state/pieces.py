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
            return await self._decode(value, agent_id, session_id)
        return self._codec.decode(value, agent_id, session_id)  # it can be decoded in one piece, or is refused as any

    async def _decode(self, value: bytes, agent_id: str, session_id: str) -> tuple[S, Origin]:
        revision, end = revisions.read(value)
        start, separator = self._find_messages(value, end)
        messages, piece = list[Any](), list[Any]()
        last = at = start  # where the latest piece began, and where the rest does
        while True:
            await asyncio.sleep(0)
            found = self._cut(value, at, end, separator)
            if found is None:
                break
            piece, after = found
            messages += piece
            last, at = at, after
        state: Any
        state, _ = self._codec.decode(value[:start] + value[at:end], agent_id, session_id)
        if value.find(self._key, at, end) > 0:  # inside of another field, or this one a second time
            longer: Any
            longer, _ = self._codec.decode(value[:start] + value[last:end], agent_id, session_id)
            if len(longer.messages) != len(piece) + len(state.messages):
                raise ValueError("it has messages twice, and the last ones count")
        state.messages[:0] = messages
        for lines in _slices(value, end):
            await asyncio.sleep(0)
            self._codec.extend(state, lines)
        return state, revision

    def _find_messages(self, value: bytes, end: int) -> tuple[int, bytes]:
        """Where the messages begin, and what stands between two of them.

        Raises:
            ValueError: They are not there, or it is not sure that these are they.
        """
        found = value.find(self._opening, 0, end)
        start = found + len(self._opening)
        # Inside of a string its quotes would be escaped, inside of another object there would be a second brace before.
        if found < 0 or value[:1] != b"{" or value.count(b"{", 0, start) != 1:
            raise ValueError("no messages, or behind another object")
        beginning = _BEGINNING.match(value, start, end)
        if beginning is None:
            raise ValueError("no messages, or of another kind")
        return start, b"%b,%b" % (_CLOSING[beginning[0][:1]], beginning[0])

    def _cut(self, value: bytes, start: int, end: int, separator: bytes) -> tuple[list[Any], int] | None:
        """The messages of about one piece, and where the next one begins; None where there is no such cut."""
        near = start + _PIECE
        for _ in range(_TRIES):
            near = value.find(separator, near, end)
            if near < 0:
                break
            with contextlib.suppress(*UNDECODABLE):
                return self._messages.decode(b"[%b]" % value[start : near + 1]), near + len(b"},")
            near += 1
        return None


def _slices(value: bytes, start: int) -> Iterator[bytes]:
    """Whole lines from a position on."""
    while start < len(value):
        end = value.find(b"\n", start + _PIECE)
        yield value[start : end if end > 0 else len(value)]
        start = end if end > 0 else len(value)
