"""What an append or a merge is going to write, checked before anything is sent."""

from __future__ import annotations

import dataclasses
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

import msgspec

from redis_state.checks import check
from redis_state.clock import moment
from redis_state.errors import StateEncodeError

if TYPE_CHECKING:
    from redis_state.codec.document import Codec
    from redis_state.codec.state_type import StateType


class Condition(msgspec.Struct):
    """What must be stored for a write to happen.

    Attributes:
        version: That version; 0: nothing; None: any.
        write: The id of the write that made it; empty: any.
    """

    version: int | None = None
    write: bytes = b""


class Addition(msgspec.Struct):
    """What is added to a session.

    Attributes:
        line: The line up to its revision.
        created: The document of the state that it makes where nothing is stored; empty: it makes none.
        condition: What must be stored.
    """

    line: bytes
    created: bytes
    condition: Condition


def draft_addition(
    types: StateType[Any],
    codec: Codec[Any],
    ids: tuple[str, str],
    now: int,
    *,
    messages: list[Any] | None = None,
    changes: Any = None,
    if_version: Any = None,
    create: Any = None,
) -> Addition:
    """Check what is to be added.

    Args:
        types: What is known of the state type.
        codec: Makes the bytes.
        ids: Of agent and session.
        now: Microseconds since 1970.
        messages: What is appended; None: nothing.
        changes: What is merged; None: nothing.
        if_version: A version or a state.
        create: The state that is stored first where there is none.

    Raises:
        TypeError: Something is of another type, or the state type cannot be changed in part.
        ValueError: There is no such field, the ids of a state are not those of the call, or the version is none.
        StateEncodeError: What would be loaded is not equal to what was given.
    """
    types.require_parts("append()" if changes is None else "merge()")
    condition = _condition(types, ids, if_version)
    if condition.version == 0 and create is None:
        raise ValueError("if_version=0 means that nothing is stored: give create= as well")
    changed = None if changes is None else codec.encode_changes(changes)
    line = codec.encode_line(messages, changed)
    created = b""
    if create is not None:
        _check_state(types, ids, create, "create")
        types.check_attributes(create)
        created = codec.encode(_made(types, create, messages, changes, now))
    return Addition(line, created, condition)


def key_id(key: object) -> bytes:
    """The write id that stands for a caller's idempotency key: 96 bits of its hash.

    Raises:
        TypeError: The key is no string.
        ValueError: It is empty, longer than 512 bytes, or not encodable as UTF-8.
    """
    check("key", key)
    return urlsafe_b64encode(sha256(cast("str", key).encode()).digest()[:12])


def _condition(types: StateType[Any], ids: tuple[str, str], if_version: Any) -> Condition:
    if if_version is None:
        return Condition()
    if type(if_version) is types.cls:
        _check_state(types, ids, if_version, "if_version")
        return Condition(*types.last_write(if_version))
    types.require("version", "if_version=")
    check("if_version", if_version)
    return Condition(if_version)


def _check_state(types: StateType[Any], ids: tuple[str, str], state: Any, name: str) -> None:
    if type(state) is not types.cls:
        raise TypeError(f"{name} must be a {types.cls.__name__}, not {type(state).__name__}")
    if (state.agent_id, state.session_id) != ids:
        raise ValueError(f"{name} is the state of another session than the call's")


def _made(types: StateType[Any], create: Any, messages: list[Any] | None, changes: Any, now: int) -> Any:
    """A new state with messages and changes in it; the one that was given stays as it is."""
    fields: dict[str, Any] = {}
    if types.has_version:
        fields["version"] = 1
    if types.has_updated_at:
        fields["updated_at"] = moment(now)
    if messages:
        before: Any = create.messages
        if type(before) is not list:
            raise StateEncodeError("$.messages", f"{type(before).__name__} would come back as list")
        fields["messages"] = [*cast("list[Any]", before), *messages]
    for name, value in cast("Mapping[str, Any]", changes or {}).items():
        fields[name] = value
        if types.is_mapping(name) and value is not None:
            if not isinstance(getattr(create, name), dict | None):
                raise StateEncodeError(f"$.{name}", f"{type(getattr(create, name)).__name__} would come back as dict")
            entries: dict[str, Any] = {**(getattr(create, name) or {}), **value}
            fields[name] = {key: item for key, item in entries.items() if item is not msgspec.UNSET}
    replace: Any = msgspec.structs.replace if isinstance(create, msgspec.Struct) else dataclasses.replace
    return replace(create, **fields)
