"""Large values, decoded in pieces: the event loop has its turn between them.

A megabyte of JSON takes a millisecond to decode, in which nothing else of the process runs. Nearly all of it are
messages, so these are decoded a few at a time, and the document without them at the end. It is cut where one message
seems to end and the next to begin. A cut elsewhere, between two objects inside a message, leaves a piece that is no
JSON, so what can be decoded was cut right.
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
_BEGINNING: Final = re.compile(rb'\{"[^"\\]*":|"')  # of a message: an object's first key, or a string


class Pieces(Generic[S]):
    """Decodes large values of a state type that has messages, and does nothing of its own when all are there.

    Args:
        state_type: The type.
        codec: Decodes what is not in pieces.
    """

    @staticmethod
    def suit(state_type: StateType[Any]) -> bool:
        """Whether objects of a type may be put together from pieces."""
        return state_type.has_messages and not hasattr(state_type.cls, "__post_init__")

    def __init__(self, state_type: StateType[S], codec: Codec[S]) -> None:
        self._codec = codec
        self._opening = b"%b:[" % msgspec.json.encode(state_type.messages_key)
        self._messages: Any = msgspec.json.Decoder(state_type.message_list)

    async def decode(self, value: bytes, agent_id: str, session_id: str) -> tuple[S, Origin]:
        """See `Codec.decode`."""
        with contextlib.suppress(*UNDECODABLE, StateDecodeError):
            return await self._decode(value, agent_id, session_id)
        return self._codec.decode(value, agent_id, session_id)  # it can be decoded in one piece, or is refused as any

    async def _decode(self, value: bytes, agent_id: str, session_id: str) -> tuple[S, Origin]:
        revision, end = revisions.read(value)
        start, separator = self._find_messages(value, end)
        messages, at = list[Any](), start
        while True:
            await asyncio.sleep(0)
            piece, cut = self._cut(value, at, end, separator)
            if not cut:
                break
            messages += piece
            at = cut
        state: Any
        state, _ = self._codec.decode(value[:start] + value[at:end], agent_id, session_id)
        if value.find(self._opening, at, end) > start:
            raise ValueError("it may have messages twice")
        state.messages[:0] = messages
        for lines in _slices(value, end):
            await asyncio.sleep(0)
            self._codec.extend(state, lines)
        return state, revision

    def _find_messages(self, value: bytes, end: int) -> tuple[int, bytes]:
        """Where the messages begin, and what stands between two of them.

        Raises:
            ValueError: This is not the form in which a store writes them.
        """
        start = value.find(self._opening, 0, end) + len(self._opening)
        first = _BEGINNING.match(value, start, end)
        # Inside a string its quotes would be escaped, inside an inner object there would be a second brace before it.
        if first is None or value.count(b"{", 0, start) != 1:
            raise ValueError("no messages, or in another form")
        return start, (b"}," if first[0].startswith(b"{") else b'",') + first[0]

    def _cut(self, value: bytes, start: int, end: int, separator: bytes) -> tuple[list[Any], int]:
        """The messages of about one piece, and where the next one begins: 0 if none was found."""
        cut = start + _PIECE
        for _ in range(_TRIES):
            cut = value.find(separator, cut, end) + len(b"},")
            if cut < start:
                break
            with contextlib.suppress(*UNDECODABLE):
                return self._messages.decode(b"[%b]" % value[start : cut - 1]), cut
        return [], 0


def _slices(value: bytes, start: int) -> Iterator[bytes]:
    """Whole lines from a position on."""
    while start < len(value):
        end = value.find(b"\n", start + _PIECE)
        yield value[start : end if end > 0 else len(value)]
        start = end if end > 0 else len(value)
