r"""States to bytes and back.

A value is one document, JSON or MessagePack, and after it a line of JSON for every batch that `append` added:

    {"agent_id":"agent-1",...,"_rev":"3-Zk3x0A,91bQ_e"}
    {"messages":[...],"_rev":"4-p0LmXw@1468"}

See `redis_state.revision` for ``_rev``, which is always last.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final, Generic, Literal, cast

import msgspec

from redis_state import revision as revisions
from redis_state.clock import microseconds
from redis_state.errors import StateDecodeError, StateEncodeError
from redis_state.faithful import compile_check
from redis_state.revision import UNKNOWN, Origin, Revision
from redis_state.state import S, StateType

Format = Literal["json", "msgpack"]
_Encoder = msgspec.json.Encoder | msgspec.msgpack.Encoder

_UNENCODABLE: Final = (TypeError, ValueError, OverflowError, RecursionError, AttributeError, msgspec.MsgspecError)
UNDECODABLE: Final = (*_UNENCODABLE, UnicodeDecodeError)
_SHOWN: Final = 40  # letters of a key in a path
_MAX_PATH: Final = 32
_BRACE: Final = ord("{")  # what a document in JSON begins with
_FULL_FIXMAP: Final = 0x8F
_MAP_16: Final = 0xDE


class Codec(Generic[S]):
    """The bytes of one state type.

    Args:
        state_type: The type.
        format: What is written; either is read.
    """

    def __init__(self, state_type: StateType[S], format: Format) -> None:
        if format not in ("json", "msgpack"):
            raise ValueError(f"format must be 'json' or 'msgpack', not {format!r}")
        self.format: Format = format
        self._is_known = compile_check(state_type.cls)
        self._json = msgspec.json.Encoder()
        self._msgpack = msgspec.msgpack.Encoder()
        self._from_json: Any = msgspec.json.Decoder(state_type.cls)
        self._from_msgpack: Any = msgspec.msgpack.Decoder(state_type.cls)
        self._strict = getattr(getattr(state_type.cls, "__struct_config__", None), "forbid_unknown_fields", False)
        if state_type.has_messages:
            fields = [("messages", state_type.message_list), ("updated_at", datetime)]
            self._batches: msgspec.json.Decoder[Any] = msgspec.json.Decoder(msgspec.defstruct("Batch", fields))
            self._are_known = compile_check(state_type.message_list)
        self._stamps = state_type.has_updated_at

    def encode(self, state: S) -> bytes:
        """The document of a state, without a revision.

        Where the types inside it do not prove that it comes back as it is, it is decoded again and compared.

        Raises:
            StateEncodeError: What would be loaded is not equal to the state.
        """
        encoder = self._json
        try:
            document = encoder.encode(state)
            if self._is_known(state) or (loaded := self._from_json.decode(document)) == state:
                if self.format == "json":
                    return document
                encoder = self._msgpack
                return _one_more_field(encoder.encode(state))
        except _UNENCODABLE as error:
            refusal = _refusal(encoder, state, error)
        else:
            refusal = _difference(state, loaded, "$")
        raise refusal  # outside of the handler, whose error would be its context and may quote the payload

    @staticmethod
    def ending(document: bytes, revision: Revision) -> tuple[int, bytes]:
        """What adds a revision to what `encode` returned: how many bytes of that stay, and the bytes after them."""
        if document[0] != _BRACE:
            text = revision.text
            return len(document), b"\xa4_rev\xd9%c%b" % (len(text), text)
        end = b',"_rev":"%d-%b"}' % (revision.version, revision.ids)
        return len(document) - 1, end if len(document) > len(b"{}") else end[1:]

    @staticmethod
    def sealed(document: bytes, revision: Revision) -> bytes:
        """What `encode` returned, with the revision."""
        length, end = Codec.ending(document, revision)
        return document[:length] + end

    @staticmethod
    def unfinished(document: bytes) -> bytes:
        """What `encode` returned up to where a script adds the revision."""
        if document[0] != _BRACE:
            return document + b"\xa4_rev"
        return b'{"_rev":' if document == b"{}" else document[:-1] + b',"_rev":'

    def encode_batch(self, messages: list[Any], updated_at: datetime) -> bytes:
        """A line for `append` up to where the script adds the revision.

        Raises:
            StateEncodeError: What would be loaded is not equal to the messages.
        """
        batch: dict[str, Any] = {"messages": messages, "updated_at": updated_at}
        try:
            line = self._json.encode(batch)
            if self._are_known(messages) or (loaded := self._batches.decode(line).messages) == messages:
                return line[:-1] + b',"_rev":"'
        except _UNENCODABLE as error:
            refusal = _refusal(self._json, batch, error)
        else:
            refusal = _difference(messages, loaded, "$.messages")
        raise refusal  # outside of the handler, whose error would be its context and may quote the payload

    def decode(self, value: bytes, agent_id: str, session_id: str) -> tuple[S, Origin]:
        """The state under a key, appended messages in their place, and its revision, `UNKNOWN` where there is none.

        Args:
            value: What is stored.
            agent_id: The agent, for the error.
            session_id: The session, for the error.

        Raises:
            StateDecodeError: These bytes are no state of the type. The text says why and holds nothing of them.
        """
        origin: Origin = revisions.unread(value)
        try:
            if origin and value[0] == _BRACE and not self._strict:
                state = self._from_json.decode(value)
            else:
                origin, end = revisions.read(value)
                state = self._decode(value[:end], value[end:], has_revision=origin is not UNKNOWN)
        except UNDECODABLE as error:
            reason = _reason(error)
        else:
            return state, origin
        # Outside of the handler, whose error would be its context and may quote the payload.
        raise StateDecodeError(agent_id, session_id, reason)

    def time_of(self, value: bytes) -> int:
        """When a stored state was last saved, by its own word, in microseconds since 1970; 0 where it has none."""
        try:
            state: Any = self.decode(value, "", "")[0]
            return microseconds(state.updated_at) if self._stamps else 0
        except (StateDecodeError, ValueError, TypeError, AttributeError):
            return 0

    def _decode(self, document: bytes, lines: bytes, *, has_revision: bool) -> S:
        if self._strict and has_revision:
            state = self._decode_without_revision(document)
        elif document[:1] in (b"{", b" ", b"\n"):
            state = self._from_json.decode(document)
        else:
            state = self._from_msgpack.decode(document)
        if lines:
            self.extend(state, lines)
        return state

    def extend(self, state: Any, lines: bytes) -> None:
        """Add what was appended to a state: whole lines."""
        for batch in self._batches.decode_lines(lines):
            state.messages.extend(batch.messages)
            if self._stamps:
                state.updated_at = batch.updated_at

    def _decode_without_revision(self, document: bytes) -> S:
        """For types that forbid unknown fields, at the price of decoding twice."""
        decode = msgspec.json.decode if document[:1] == b"{" else msgspec.msgpack.decode
        fields: dict[str, Any] = decode(document)
        fields.pop("_rev", None)
        return self._from_json.decode(self._json.encode(fields))


def _one_more_field(document: bytes) -> bytes:
    """The MessagePack map with the count of its fields one higher."""
    if document[0] == _MAP_16:  # no type has 65,535 fields
        return b"\xde%b%b" % ((int.from_bytes(document[1:3], "big") + 1).to_bytes(2, "big"), document[3:])
    if document[0] == _FULL_FIXMAP:
        return b"\xde\x00\x10%b" % document[1:]
    return b"%c%b" % (document[0] + 1, document[1:])  # fixmap: the count stands in the low four bits


def _reason(error: Exception) -> str:
    """Why msgspec refused, without the words of the value that it may quote."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, msgspec.ValidationError):
        path = re.search(r"at `(?:key` in `)?(\$[^`]*)`", str(error))
        return f"{path[1] if path else '$'} does not fit its type"
    return "it is neither valid JSON nor valid MessagePack"


def _fields(value: Any) -> list[tuple[str, Any]]:
    """The children of a value, each with its step in a path."""
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = list(cast("dict[Any, Any]", value).items())
        return [(f".{_shown(k)}" if isinstance(k, str) else f"[{type(k).__name__} key]", v) for k, v in items]
    if isinstance(value, (list, tuple)):
        return [(f"[{i}]", v) for i, v in enumerate(cast("list[Any]", value))]
    if isinstance(value, msgspec.Struct):
        return [(f".{name}", getattr(value, name, None)) for name in value.__struct_fields__]
    names: Any = getattr(value, "__dataclass_fields__", ())
    return [(f".{name}", getattr(value, name, None)) for name in names]


def _shown(key: str) -> str:
    """A key as it may stand in a message: short, and on one line."""
    shown = key[:_SHOWN] + ("..." if len(key) > _SHOWN else "")
    return shown if shown.isprintable() else ascii(shown)[1:-1]


def _refusal(encoder: _Encoder, value: Any, error: Exception) -> StateEncodeError:
    """The error for a value that cannot be encoded, or encoded but not decoded: its path and why."""
    if isinstance(error, msgspec.ValidationError):
        path = re.search(r"at `(?:key` in `)?(\$[^`]*)`", str(error))
        return StateEncodeError(path[1] if path else "$", "its type is not the one that the field declares")
    path, steps = "$", 0
    while steps < _MAX_PATH:
        steps += 1
        for step, child in _fields(value):
            if not _encodes(encoder, child):
                path, value = path + step, child
                break
        else:
            break
    if isinstance(error, RecursionError):
        return StateEncodeError(path, "it is nested too deeply, or holds itself")
    if isinstance(error, AttributeError):
        return StateEncodeError(path, "one of its fields was deleted")
    if isinstance(error, UnicodeEncodeError):
        return StateEncodeError(path, "it holds a lone surrogate, which UTF-8 cannot express")
    return StateEncodeError(path, f"{type(value).__name__} has no faithful form there")


def _encodes(encoder: _Encoder, value: Any) -> bool:
    try:
        encoder.encode(value)
    except _UNENCODABLE:
        return False
    return True


def _difference(saved: Any, loaded: Any, path: str) -> StateEncodeError:
    """The error for a value that would come back different: the deepest place where it does."""
    for _ in range(_MAX_PATH):
        after = dict(_fields(loaded)) if type(saved) is type(loaded) else {}
        for step, child in _fields(saved):
            if step not in after or not _same(child, after[step]):
                if step not in after:
                    return StateEncodeError(path, "keys must be strings")
                path, saved, loaded = path + step, child, after[step]
                break
        else:
            break
    return StateEncodeError(path, f"{type(saved).__name__} would come back as {type(loaded).__name__}")


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except RecursionError:
        return False
