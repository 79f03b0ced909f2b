"""What `append` adds behind a head: lines of JSON, each with messages and the revision that it makes."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from redis_state.codec.nesting import LEVELS, fits, in_fresh_stack
from redis_state.codec.refusal import UNENCODABLE, difference, too_deep, unencodable
from redis_state.codec.revision import HISTORY, DamagedRevisionError, line_ending, line_text
from redis_state.codec.roundtrip import compile_check
from redis_state.errors import StateEncodeError

_PATH: Final = "$.messages"
_BLOCK: Final = b"*"


class LineCodec:
    """The lines of a state type that has messages.

    Args:
        message_list: The type of its messages.
    """

    def __init__(self, message_list: Any) -> None:
        fields = [("messages", message_list), ("rev", str, msgspec.field(name="_rev"))]
        line = msgspec.defstruct("Line", fields, forbid_unknown_fields=True)
        self._is_known = compile_check(message_list, levels=LEVELS - 1)
        self._encoder = msgspec.json.Encoder()
        self._messages: msgspec.json.Decoder[Any] = msgspec.json.Decoder(message_list)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(line)

    def encode(self, messages: list[Any]) -> bytes:
        """A line up to its revision, the line feed before it included.

        Raises:
            StateEncodeError: What would be loaded is not equal to the messages.
        """
        text = None
        try:
            if self._is_known(messages):
                text = self._encoder.encode(messages)
        except (*UNENCODABLE, RecursionError):
            text = None
        if text is None:
            text = self._encode_and_compare(messages)
        return b'\n{"messages":%b,"_rev":"' % text

    def _encode_and_compare(self, messages: list[Any]) -> bytes:
        try:
            result = self._compared(messages)
        except RecursionError:
            result = in_fresh_stack(self._compared, messages)
        if isinstance(result, StateEncodeError):
            raise result
        return result

    def _compared(self, messages: list[Any]) -> bytes | StateEncodeError:
        if not fits(messages, LEVELS - 1):
            return too_deep(messages, _PATH, LEVELS - 1)
        try:
            text = self._encoder.encode(messages)
            loaded = self._messages.decode(text)
        except UNENCODABLE as error:
            return unencodable(self._encoder, messages, error, _PATH)
        return difference(messages, loaded, _PATH) or text

    def decode(self, text: bytes, version: int) -> tuple[list[Any], bytes]:
        """The messages of the lines and blocks behind a head, and the ids of the latest writes in them.

        Args:
            text: All of them.
            version: The head's.

        Raises:
            DamagedRevisionError: One is missing, or there is something else.
        """
        messages: list[Any] = []
        lines: list[Any] = self._decoder.decode_lines(text)
        for line in lines:
            version += 1
            if not line.rev.startswith(f"{version}-"):
                end = line_ending(line.rev.encode())
                if end.kind != _BLOCK or end.revision.version < version:
                    raise DamagedRevisionError
                version = end.revision.version
            messages += line.messages
        latest = [line_ending(line.rev.encode()).revision.ids for line in reversed(lines[-HISTORY:])]
        return messages, b"".join(latest)


def finish_line(line: bytes, version: int, write: bytes, before: int) -> bytes:
    """What `LineCodec.encode` returned, with its revision.

    Args:
        line: That.
        version: The version that the write makes.
        write: The entry of the write.
        before: From the head's end to where the line begins.
    """
    return b'%b%b"}' % (line, line_text(version, write, len(line) + len(b'"}'), before))
