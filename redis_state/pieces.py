"""Large values, decoded in pieces: the event loop has its turn between them.

A megabyte of JSON takes a millisecond to decode, in which nothing else of the process runs. Nearly all of it are
messages, so these are decoded a few at a time, and the document without them at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final, Generic

import msgspec

from redis_state import revision as revisions
from redis_state.codec import UNDECODABLE, Codec
from redis_state.revision import Origin
from redis_state.state import S, StateType

LARGE: Final = 256 * 1024  # bytes, above which it is worth the detour
_PIECE: Final = 64 * 1024  # bytes decoded in one turn, about


class Pieces(Generic[S]):
    """Decodes large values of a state type that has messages.

    Args:
        state_type: The type.
        codec: Decodes what is not in pieces.
    """

    def __init__(self, state_type: StateType[S], codec: Codec[S]) -> None:
        self._codec = codec
        field = ("messages", list[msgspec.Raw], msgspec.field(name=state_type.messages_key))
        self._outline: Any = msgspec.json.Decoder(msgspec.defstruct("Outline", [field]))
        self._messages: Any = msgspec.json.Decoder(state_type.message_list)

    async def decode(self, value: bytes, agent_id: str, session_id: str) -> tuple[S, Origin]:
        """See `Codec.decode`."""
        with contextlib.suppress(*UNDECODABLE):
            return await self._decode(value, agent_id, session_id)
        return self._codec.decode(value, agent_id, session_id)  # it can be decoded in one piece, or is refused as any

    async def _decode(self, value: bytes, agent_id: str, session_id: str) -> tuple[S, Origin]:
        revision, end = revisions.read(value)
        document, messages = value[:end], list[Any]()
        raw: list[Any] = self._outline.decode(document).messages
        size = max(1, len(raw) * _PIECE // end)
        texts = [b",".join(raw[start : start + size]) for start in range(0, len(raw), size)]
        for text in texts:
            await asyncio.sleep(0)
            messages += self._messages.decode(b"[%b]" % text)
        before, found, after = document.partition(b",".join(texts))
        if not found:
            raise ValueError("somebody else has written it, with spaces between the messages")
        await asyncio.sleep(0)
        state: Any
        state, _ = self._codec.decode(before + after, agent_id, session_id)
        state.messages.extend(messages)
        for lines in _slices(value, end):
            await asyncio.sleep(0)
            self._codec.extend(state, lines)
        return state, revision


def _slices(value: bytes, start: int) -> Iterator[bytes]:
    """Whole lines from a position on."""
    while start < len(value):
        end = value.find(b"\n", start + _PIECE)
        yield value[start : end if end > 0 else len(value)]
        start = end if end > 0 else len(value)
