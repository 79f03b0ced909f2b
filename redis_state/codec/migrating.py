"""Values of which a part has an older schema: read as plain documents, brought to the store's, and written anew.

A migration is no write: version, time, and the remembered writes stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from redis_state.codec.foreign import fields_of, revision_of
from redis_state.codec.parts import Line, Parts, sealed, split
from redis_state.codec.revision import Revision, head_text, with_time
from redis_state.codec.schema import SchemaError

if TYPE_CHECKING:
    from redis_state.codec.schema import Document, Schema
    from redis_state.codec.state_type import StateType


class Lifted(msgspec.Struct):
    """A value with the store's schema.

    Attributes:
        document: All of it as one plain document.
        revision: Its writes.
        time: When the newest was made, where the document does not say it, in microseconds since 1970.
        parts: What it was made of.
    """

    document: Any
    revision: Revision
    time: int | None
    parts: Parts


def has_other_schema(value: bytes, schema: Schema) -> bool:
    """Whether a part has another schema than the store. What is damaged has none."""
    try:
        return split(value).schemas != {schema.number}
    except (ValueError, msgspec.MsgspecError):
        return False


def lift(value: bytes, schema: Schema, messages: str) -> Lifted:
    """A value as a document of the store's schema, with the lines in their place.

    Args:
        value: What is stored.
        schema: The store's.
        messages: Under which name a document has its messages.

    Raises:
        SchemaError: It is newer, a step is missing, or one fails.
        ValueError: It is damaged.
    """
    parts = split(value)
    document: Document = fields_of(parts.head)
    revision, number = parts.revision, 1
    if parts.head_end is None:
        revision = revision_of(document)
    else:
        number = parts.head_end.schema
    document.pop("_rev", None)
    for line, end in zip(parts.lines, parts.ends, strict=True):
        if end.schema > number:
            document, number = schema.lift(document, number, end.schema), end.schema
        _add(document, _content(line, end.schema, number, schema, messages), messages)
    document = schema.lift(document, number)
    if "version" in document:
        document["version"] = revision.version
    return Lifted(document, revision, parts.time, parts)


def migrate(value: bytes, schema: Schema, types: StateType[Any], messages: str, ids: tuple[str, str]) -> bytes | None:
    """A value with the store's schema, None where it has that already.

    Args:
        value: What is stored.
        schema: The store's.
        types: The state type.
        messages: Under which name a document has its messages.
        ids: Of the agent and the session whose value it is.

    Raises:
        SchemaError: It is newer, a step is missing, or one fails.
        ValueError: It is damaged, or does not fit the state type then.
    """
    if split(value).schemas == {schema.number}:
        return None
    lifted = lift(value, schema, messages)
    state: Any = msgspec.convert(lifted.document, types.cls)
    if (state.agent_id, state.session_id) != ids:
        raise SchemaError("a migration has changed its agent_id or session_id")
    is_json = lifted.parts.is_json
    # What lines hold is JSON, which is not how MessagePack has bytes and times.
    fields: Any = lifted.document if is_json or not lifted.parts.lines else msgspec.msgpack.decode(_packed(state))
    text = head_text(lifted.revision.version, with_time(lifted.revision.ids, lifted.time), schema.number)
    return sealed(fields, text, is_json=is_json)


def _packed(state: Any) -> bytes:
    return msgspec.msgpack.encode(state)


class _Content(msgspec.Struct):
    """What a line adds, as plain values."""

    messages: list[Any]
    set: dict[str, dict[str, Any]]
    unset: dict[str, list[str]]
    put: dict[str, Any]


def _content(line: Line, schema: int, wanted: int, lifter: Schema, messages: str) -> _Content:
    """The content of a line in the schema of what it is added to, which may be newer than its own."""
    plain = msgspec.json.decode
    content = _Content(
        [plain(raw) for raw in line.messages],
        {name: {key: plain(raw) for key, raw in entries.items()} for name, entries in line.set.items()},
        line.unset,
        {name: plain(raw) for name, raw in line.put.items()},
    )
    if schema >= wanted:
        return content
    # An older worker wrote it without having read the rest: it is lifted as a document of its own. What an empty one
    # becomes as well was not in it.
    lifted = lifter.lift({**content.put, **content.set, messages: content.messages}, schema, wanted)
    nothing = lifter.lift({messages: []}, schema, wanted)
    found: Any = lifted.pop(messages, [])
    changed = {name: value for name, value in lifted.items() if name not in nothing or nothing[name] != value}
    entries = {name: value for name, value in changed.items() if _is_dict(value) and name not in content.put}
    put = {name: value for name, value in changed.items() if name not in entries}
    return _Content(found, entries, _renamed(content.unset, schema, wanted, lifter, messages), put)


def _renamed(
    unset: dict[str, list[str]], schema: int, wanted: int, lifter: Schema, messages: str
) -> dict[str, list[str]]:
    """Removed entries under the names that their mappings have in another schema."""
    found: dict[str, list[str]] = {}
    for name, keys in unset.items():
        lifted = lifter.lift({name: {}, messages: []}, schema, wanted)
        others = [each for each, value in lifted.items() if each != messages and value == {}]
        found[name if name in lifted or not others else others[0]] = keys
    return found


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _add(document: Document, content: _Content, messages: str) -> None:
    if content.messages:
        document.setdefault(messages, []).extend(content.messages)
    document.update(content.put)
    for name, entries in content.set.items():
        document[name] = {**(document.get(name) or {}), **entries}
    for name, keys in content.unset.items():
        stored: dict[str, Any] = document.get(name) or {}
        document[name] = {key: value for key, value in stored.items() if key not in keys}
