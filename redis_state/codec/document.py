"""States to bytes and back. README.md beside this file has the format."""

from __future__ import annotations

from typing import Any, Final, Generic, Literal

import msgspec

from redis_state.clock import microseconds, moment
from redis_state.codec.changes import Changed
from redis_state.codec.folding import fold
from redis_state.codec.foreign import fields_of, revision_of
from redis_state.codec.lines import LineCodec
from redis_state.codec.maps import MAP_16, with_one_more_field
from redis_state.codec.migrating import has_other_schema, lift, migrate
from redis_state.codec.nesting import TooDeepError, compile_nesting_check, in_fresh_stack
from redis_state.codec.proof import Proof
from redis_state.codec.refusal import UNDECODABLE, UNENCODABLE, undecodable
from redis_state.codec.revision import (
    SIZE,
    DamagedRevisionError,
    Ending,
    Origin,
    Revision,
    ending,
    latest,
    starts_with,
    unread,
)
from redis_state.codec.schema import FIRST_SCHEMA, OtherSchemaError, Schema, SchemaError
from redis_state.codec.state_type import StateType
from redis_state.errors import StateDecodeError, StateTooLargeError
from redis_state.models import S

Format = Literal["json", "msgpack"]

MAX_STATE_BYTES: Final = 64 * 1024 * 1024
_BRACE: Final = ord("{")  # what a document in JSON begins with
_BEFORE_TEXT: Final = 8  # bytes of the field's name and what opens its text, in either format


class Codec(Generic[S]):
    """The bytes of one state type.

    Args:
        state_type: The type.
        format: What is written; either is read.
        max_state_bytes: How large a state may be.
        schema: The schema of the type, and how documents of older ones become its.
    """

    def __init__(
        self,
        state_type: StateType[S],
        format: Format,
        *,
        max_state_bytes: int = MAX_STATE_BYTES,
        schema: Schema = FIRST_SCHEMA,
    ) -> None:
        if format not in ("json", "msgpack"):
            raise ValueError(f"format must be 'json' or 'msgpack', not {format!r}")
        self.format: Format = format
        self.max_state_bytes = max_state_bytes
        self.schema = schema
        cls = state_type.cls
        self._types = state_type
        self._proof = Proof(cls, is_state=True, is_packed=format == "msgpack")
        self._is_known = self._proof.is_known
        self._fits = compile_nesting_check(cls)
        self._json = msgspec.json.Encoder()
        self._msgpack = msgspec.msgpack.Encoder()
        self._from_json = self._proof.from_json
        self._from_msgpack: Any = msgspec.msgpack.Decoder(cls)
        self._strict = state_type.is_strict
        self._lines = LineCodec(state_type, is_packed=format == "msgpack")
        self._messages = state_type.names.get("messages", "messages")
        self._reads_version = state_type.has_version and not self._strict

    # Writing

    def encode(self, state: S) -> bytes:
        """The document of a state, without a revision.

        Where the types inside it do not prove that it comes back as it is, it is decoded again and compared.

        Raises:
            StateEncodeError: What would be loaded is not equal to the state.
            StateTooLargeError: The document is larger than `max_state_bytes`.
        """
        document = None
        try:
            if self._is_known(state):
                document = (self._json if self.format == "json" else self._msgpack).encode(state)
        except (*UNENCODABLE, RecursionError):
            document = None
        if document is None:
            document = self._proof.compare(state)[-1]
        if len(document) > self.max_state_bytes:
            raise StateTooLargeError(len(document), self.max_state_bytes)
        return document if self.format == "json" else with_one_more_field(document)

    @staticmethod
    def ending(document: bytes, revision: Revision, mark: bytes = b"") -> tuple[int, bytes]:
        """What adds a revision to what `encode` returned: how many bytes of that stay, and the bytes after them.

        Args:
            document: That.
            revision: What the write makes.
            mark: The schema, as `Schema.mark` has it.
        """
        text = b"%d-%b%b" % (revision.version, revision.ids, mark)
        length = len(document)
        if document[0] == _BRACE:
            end = b',"_rev":"%b:%03d"}' % (text, len(text) + SIZE)
            return length - 1, end if length > len(b"{}") else end[1:]
        return length, b"\xa4_rev\xda%b%b:%03d" % ((len(text) + SIZE).to_bytes(2, "big"), text, len(text) + SIZE)

    def sealed(self, document: bytes, revision: Revision) -> bytes:
        """What `encode` returned, with the revision."""
        length, end = self.ending(document, revision, self.schema.mark)
        return document[:length] + end

    @staticmethod
    def unfinished(document: bytes) -> bytes:
        """What `encode` returned up to where a script adds the revision."""
        if document[0] != _BRACE:
            return document + b"\xa4_rev\xda"
        return b'{"_rev":"' if document == b"{}" else document[:-1] + b',"_rev":"'

    def encode_line(self, messages: list[Any] | None, changed: Changed | None = None) -> bytes:
        """A line for `append` or `merge` up to where the script adds the revision. See `LineCodec.encode`."""
        return self._lines.encode(messages, changed)

    def encode_changes(self, changes: Any) -> Changed:
        """See `ChangeCodec.encode`."""
        return self._lines.changes.encode(changes)

    # Reading

    def decode(self, value: bytes, agent_id: str, session_id: str) -> tuple[S, Origin]:
        """The state under a key, appended messages in their place, and its revision, `UNKNOWN` where there is none.

        Args:
            value: What is stored.
            agent_id: The agent whose key it is.
            session_id: The session whose key it is.

        Raises:
            StateDecodeError: These bytes are no state of the type, or one of another session. The text says why and
                holds nothing of them.
        """
        try:
            end = unread(value, self.schema.mark) if self._reads_version else b""
            if end:
                state = (self._from_json if value[0] == _BRACE else self._from_msgpack).decode(value)
                if (
                    starts_with(end, state.version)
                    and state.agent_id == agent_id
                    and state.session_id == session_id
                    and self._fits(state)
                ):
                    return state, end
        except (*UNDECODABLE, RecursionError):
            pass  # it is read anew, for the reason
        return self._decode_slowly(value, agent_id, session_id)

    def _decode_slowly(self, value: bytes, agent_id: str, session_id: str) -> tuple[S, Revision]:
        try:
            try:
                state, revision = self._decode(value)
            except RecursionError:
                state, revision = in_fresh_stack(self._decode, value)
            except OtherSchemaError:
                state, revision = self._decode_migrated(value)
            except UNDECODABLE:  # perhaps because it is older
                if not has_other_schema(value, self.schema):
                    raise
                state, revision = self._decode_migrated(value)
            if state.agent_id == agent_id and state.session_id == session_id:
                return state, revision
            reason = "it is the state of another session"
        except SchemaError as error:
            reason = str(error)
        except (*UNDECODABLE, RecursionError) as error:
            reason = undecodable(error)
        # Outside of the handler, whose error would be its context and may quote the payload.
        raise StateDecodeError(agent_id, session_id, reason)

    def fold(self, value: bytes) -> bytes | None:
        """See `redis_state.codec.folding.fold`; None also where it fails, since a fold is no failure of a write."""
        try:
            return fold(value, self._lines.changes)
        except (*UNDECODABLE, RecursionError):
            return None

    @staticmethod
    def head_of(value: bytes) -> int:
        """How many bytes of a value are its head."""
        end = ending(value, len(value))
        return len(value) - (end.distance if end else 0)

    def decode_tail(self, parts: bytes, agent_id: str, session_id: str) -> list[Any]:
        """The messages of the last lines and blocks of a value.

        Raises:
            StateDecodeError: They are damaged, or hold no messages of the type.
            OtherSchemaError: One has another schema than the store.
        """
        try:
            return self._lines.decode_last(parts, self.schema.number)
        except (*UNDECODABLE, RecursionError) as error:
            reason = undecodable(error)
        raise StateDecodeError(agent_id, session_id, reason)

    def time_of(self, value: bytes) -> int:
        """When a stored state was last saved, by its own word, in microseconds since 1970; 0 where it has none."""
        try:
            state: Any = self._decode(value)[0]
            return microseconds(state.updated_at) if self._types.has_updated_at else 0
        except (*UNDECODABLE, RecursionError):
            return 0

    def _decode(self, value: bytes) -> tuple[Any, Revision]:
        end = ending(value, len(value))
        if end is None or not end.kind:
            state, revision = self._decode_head(value, end)
        else:
            state, revision = self._decode_parts(value, end)
        if not self._fits(state):
            raise TooDeepError
        return state, revision

    def _decode_parts(self, value: bytes, end: Ending) -> tuple[Any, Revision]:
        stop = len(value) - end.distance
        if stop < 1:
            raise DamagedRevisionError
        state, older = self._decode_head(value[:stop], ending(value, stop))
        behind = self._lines.decode(value[stop:], older.version, self.schema.number)
        if behind.messages:
            if not self._types.has_messages:
                raise DamagedRevisionError
            state.messages.extend(behind.messages)
        for changed in behind.changed:
            self._lines.changes.apply(state, changed)
        ids = behind.ids if behind.is_complete else behind.ids + older.ids
        return state, self._stamped(state, Revision(end.revision.version, latest(ids)), end.time)

    def _decode_head(self, document: bytes, end: Ending | None) -> tuple[Any, Revision]:
        if end is None:
            return self._decode_foreign(document)
        if end.kind:
            raise DamagedRevisionError
        if end.schema != self.schema.number:
            raise OtherSchemaError
        is_json = document[:1] == b"{"
        decoder = self._from_json if is_json else self._from_msgpack
        if self._strict:
            document = _without_revision(document, end.start, is_json=is_json)
        state = decoder.decode(document)
        return state, self._stamped(state, end.revision, end.time)

    def _decode_migrated(self, value: bytes) -> tuple[Any, Revision]:
        """A state of which a part has another schema than the store."""
        lifted = lift(value, self.schema, self._messages)
        state: Any = msgspec.convert(lifted.document, self._types.cls)
        if not self._fits(state):
            raise TooDeepError
        return state, self._stamped(state, lifted.revision, lifted.time)

    def migrate(self, value: bytes, agent_id: str, session_id: str) -> bytes | None:
        """A value with the store's schema, None where it has that already.

        Raises:
            StateDecodeError: It is damaged, its schema is newer, or a migration is missing or fails.
        """
        try:
            return migrate(value, self.schema, self._types, self._messages, (agent_id, session_id))
        except SchemaError as error:
            reason = str(error)
        except (*UNDECODABLE, RecursionError) as error:
            reason = undecodable(error)
        raise StateDecodeError(agent_id, session_id, reason)

    def _decode_foreign(self, document: bytes) -> tuple[Any, Revision]:
        fields = fields_of(document)
        revision = revision_of(fields)
        if self.schema.number > 1:
            raise OtherSchemaError
        if self._strict and revision.ids:
            fields.pop("_rev")
            document = msgspec.json.encode(fields)
        is_json = b"{" in document[:1] or document[:1].isspace()
        state = (self._from_json if is_json else self._from_msgpack).decode(document)
        return state, self._stamped(state, revision, None)

    def _stamped(self, state: Any, revision: Revision, time: int | None) -> Revision:
        """The revision, after its version and time have been put where the document may say others."""
        if self._types.has_version:
            state.version = revision.version
        if time is not None and self._types.has_updated_at:
            state.updated_at = moment(time)
        return revision


def _without_revision(document: bytes, start: int, *, is_json: bool) -> bytes:
    """A document without its last field, for types that forbid unknown ones.

    Args:
        document: A head.
        start: Where the text of its revision begins.
        is_json: Its format; MessagePack otherwise.
    """
    body = document[: start - _BEFORE_TEXT]
    if is_json:
        return body.removesuffix(b",") + b"}"
    if body[0] == MAP_16:
        return b"\xde%b%b" % ((int.from_bytes(body[1:3], "big") - 1).to_bytes(2, "big"), body[3:])
    return b"%c%b" % (body[0] - 1, body[1:])
