"""Folding: lines become what they amount to, fields in the head and messages in blocks. README.md has the form.

A fold is no write: version, time, and the remembered writes stay as they are. It works on documents, not on the state
type, so that fields which a worker's type does not know stay.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from redis_state.codec.changes import ChangeCodec
from redis_state.codec.lines import BLOCK
from redis_state.codec.parts import Line, Parts, sealed, split
from redis_state.codec.revision import Ending, head_text, latest, line_text

_FLOOR: Final = 4096  # bytes of lines that are worth it
_BLOCK_BYTES: Final = 4096  # of messages in a block, about
_WORTH: Final = 15 / 16  # of the value's size; a fold that leaves more is left
_BRACE: Final = ord("{")


_json_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_msgpack_fields: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_json_entries: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_msgpack_entries: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw] | None)


class _UnknownFieldError(Exception):
    """Raised when a value in JSON cannot be put into MessagePack, because its type is not known."""


def is_due(length: int, behind: int, added: int) -> bool:
    """Whether the write that added a line is the one that folds, so that of all writers one does.

    Args:
        length: Bytes of the value.
        behind: Bytes behind the head.
        added: Bytes of the line.
    """
    step = max(_FLOOR, 1 << max(length // 2, 1).bit_length() - 1)
    return behind // step != (behind - added) // step


def fold(value: bytes, changes: ChangeCodec) -> bytes | None:
    """The value with its lines folded, None where it has none, or little would be saved.

    Args:
        value: What is stored.
        changes: Knows the types of fields, for a head in MessagePack.

    Raises:
        ValueError: It is damaged.
    """
    parts = split(value)
    if not parts.ends or parts.head_end is None or len(parts.schemas) > 1:
        return None
    end, stop, is_json = parts.ends[-1], len(parts.head), parts.is_json
    try:
        head = _head(parts.head, parts.lines, changes)
    except _UnknownFieldError:
        return None
    blocks = _blocks(parts)
    if not blocks:
        text = head_text(end.revision.version, parts.entries, end.schema)
        folded = sealed(head or _head(parts.head, None, changes), text, is_json=is_json)
    elif head is None:
        folded = parts.head + blocks
    else:
        text = value[parts.head_end.start : stop - 2 if is_json else stop]
        folded = sealed(head, text, is_json=is_json) + blocks
    return folded if len(folded) < len(value) * _WORTH else None


def _blocks(parts: Parts) -> bytes:
    """The messages of all lines and blocks in blocks; the last one names the latest writes."""
    blocks: list[bytes] = []
    waiting: list[msgspec.Raw] = []
    size = behind = 0
    ids = b"" if parts.head_end is None else parts.head_end.revision.ids
    made = parts.ends[0]
    for line, end in zip(parts.lines, parts.ends, strict=True):
        if line.messages and size >= _BLOCK_BYTES:
            blocks.append(_block(waiting, made, latest(ids), behind))
            behind += len(blocks[-1])
            waiting, size = [], 0
        waiting += line.messages
        size += sum(map(len, map(bytes, line.messages)))
        ids = end.revision.ids if end.kind == BLOCK else latest(end.revision.ids + ids)
        made = end
    if waiting:
        blocks.append(_block(waiting, made, parts.entries, behind))
    return b"".join(blocks)


def _block(messages: list[msgspec.Raw], made: Ending, entries: bytes, behind: int) -> bytes:
    body = b'\n{"messages":[%b],"_rev":"' % b",".join(map(bytes, messages))
    text = line_text(made.revision.version, entries, len(body) + 2, behind, kind=BLOCK, schema=made.schema)
    return b'%b%b"}' % (body, text)


def _head(head: bytes, lines: list[Line] | None, changes: ChangeCodec) -> dict[str, msgspec.Raw] | None:
    """The fields of a head with the changes of lines, None if there are none; its fields as they are without lines."""
    changed = [line for line in lines or () if line]
    if lines is not None and not changed:
        return None
    is_json = head[0] == _BRACE
    fields = (_json_fields if is_json else _msgpack_fields).decode(head)
    fields.pop("_rev")
    entries_of: Any = (_json_entries if is_json else _msgpack_entries).decode
    encode: Any = msgspec.json.encode if is_json else msgspec.msgpack.encode
    for line in changed:
        for stored, raw in line.put.items():
            fields[stored] = raw if is_json else _packed(changes, stored, raw)
        for stored in {**line.set, **line.unset}:
            entries: dict[str, msgspec.Raw] = entries_of(fields.get(stored, encode(None))) or {}
            for key, raw in line.set.get(stored, {}).items():
                entries[key] = raw if is_json else _packed(changes, stored, raw)
            for key in line.unset.get(stored, ()):
                entries.pop(key, None)
            fields[stored] = msgspec.Raw(encode(entries))
    return fields


def _packed(changes: ChangeCodec, stored: str, raw: msgspec.Raw) -> msgspec.Raw:
    """A value of a field in MessagePack, which has forms of its own for bytes and times."""
    known, value = changes.decode(stored, raw)
    if not known:
        raise _UnknownFieldError
    return msgspec.Raw(msgspec.msgpack.encode(value))
