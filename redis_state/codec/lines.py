"""What `append` and `merge` add behind a head: lines of JSON with messages, changes, and a revision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from redis_state.codec.changes import ChangeCodec, Changed
from redis_state.codec.nesting import LEVELS
from redis_state.codec.proof import Proof
from redis_state.codec.revision import HISTORY, DamagedRevisionError, Ending, line_ending, line_text
from redis_state.codec.schema import OtherSchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_state.codec.state_type import StateType

_PATH: Final = "$.messages"
BLOCK: Final = b"*"
_encode: Final = msgspec.json.Encoder().encode


class Behind(msgspec.Struct):
    """What stands behind a head.

    Attributes:
        messages: The messages of all lines and blocks.
        changed: The changes, oldest first.
        ids: The ids of the latest writes in them, newest first.
        is_complete: Whether those are all that are remembered: a block names also what was before it.
    """

    messages: list[Any]
    changed: list[Changed]
    ids: bytes
    is_complete: bool


class _Revised(msgspec.Struct):
    rev: str = msgspec.field(name="_rev")


_decode_revisions: Final = msgspec.json.Decoder(_Revised).decode_lines


class LineCodec:
    """The lines of a state type.

    Args:
        state_type: The type.
        is_packed: Whether heads are MessagePack.
    """

    def __init__(self, state_type: StateType[Any], *, is_packed: bool = False) -> None:
        message_list = state_type.message_list if state_type.has_messages else list[msgspec.Raw]
        fields: list[Any] = [("rev", str, msgspec.field(name="_rev")), ("messages", message_list, [])]
        line = msgspec.defstruct("Line", fields, bases=(Changed,), forbid_unknown_fields=True, kw_only=True)
        # The next save puts them into the head, which may be MessagePack.
        self._proof = Proof(message_list, levels=LEVELS - 1, is_packed=is_packed)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(line)
        self.changes = ChangeCodec(state_type, is_packed=is_packed)

    def encode(self, messages: list[Any] | None, changed: Changed | None = None) -> bytes:
        """A line up to its revision, the line feed before it included.

        Args:
            messages: What is appended; None: it has no messages.
            changed: What is merged.

        Raises:
            StateEncodeError: What would be loaded is not equal to the messages.
        """
        fields = _encode(changed)[1:-1] + b"," if changed else b""
        if messages is not None:
            fields += b'"messages":%b,' % self._proof.json(messages, _PATH)
        return b'\n{%b"_rev":"' % fields

    def decode_last(self, text: bytes, schema: int) -> list[Any]:
        """The messages of the last lines and blocks.

        Raises:
            DamagedRevisionError: One is missing, or there is something else.
            OtherSchemaError: One has another schema than this one.
        """
        lines = _decode_revisions(text)
        ends = [line_ending(line.rev.encode()) for line in lines]
        if any(end.schema != schema for end in ends):
            raise OtherSchemaError
        return self.decode(text, ends[0].revision.version - 1, schema).messages

    def decode(self, text: bytes, version: int, schema: int) -> Behind:
        """What stands in the lines and blocks behind a head.

        Args:
            text: All of them.
            version: The version of what is before them.
            schema: The schema that they must have.

        Raises:
            DamagedRevisionError: One is missing, or there is something else.
            OtherSchemaError: One has another schema.
        """
        mark = "" if schema == 1 else f"#{schema}"
        lines: list[Any] = self._decoder.decode_lines(text)
        messages: list[Any] = []
        for line in lines:
            version += 1
            if ("#" in line.rev) if not mark else (f"{mark}+" not in line.rev and f"{mark}*" not in line.rev):
                raise OtherSchemaError
            if not line.rev.startswith(f"{version}-"):
                end = line_ending(line.rev.encode())
                if end.kind != BLOCK or end.revision.version < version:
                    raise DamagedRevisionError
                version = end.revision.version
            messages += line.messages
        ids, is_complete = latest_of(line_ending(line.rev.encode()) for line in reversed(lines))
        return Behind(messages, [line for line in lines if line], ids, is_complete)


def latest_of(endings: Iterator[Ending]) -> tuple[bytes, bool]:
    """The ids of the latest writes of lines and blocks, the newest first, and whether they are all.

    Args:
        endings: Of the parts, the last one first.
    """
    ids: list[bytes] = []
    for end in endings:
        ids.append(end.revision.ids)
        if end.kind == BLOCK:
            return b"".join(ids), True
        if len(ids) == HISTORY:
            break
    return b"".join(ids), len(ids) >= HISTORY


def finish_line(line: bytes, version: int, write: bytes, before: int, schema: int = 1) -> bytes:
    """What `LineCodec.encode` returned, with its revision.

    Args:
        line: That.
        version: The version that the write makes.
        write: The entry of the write.
        before: From the head's end to where the line begins.
        schema: The schema of what it holds.
    """
    return b'%b%b"}' % (line, line_text(version, write, len(line) + len(b'"}'), before, schema=schema))
