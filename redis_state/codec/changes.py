"""What `merge` changes: fields of a state, each proved against its type before it is sent, and put in place on load."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from redis_state.codec.fields import holds_raw, mapped
from redis_state.codec.nesting import LEVELS
from redis_state.codec.proof import Proof
from redis_state.errors import StateEncodeError

if TYPE_CHECKING:
    from redis_state.codec.state_type import StateType

_KEPT: Final = ("agent_id", "session_id", "messages", "version", "created_at", "updated_at")


class _Part:
    """A field, or the entries of one that is a mapping.

    Attributes:
        name: The field's name in Python.
        has_raw: Whether there is a `msgspec.Raw` in its type, whose bytes are of one format.
        is_mapping: Whether it is a dict with strings as keys, whose entries are set one by one.
        encode: Makes JSON of a value, or an entry's, or refuses it.
        decode: The other way round.
    """

    def __init__(self, name: str, declared: Any, *, is_packed: bool) -> None:
        self.name = name
        self.has_raw = holds_raw(declared)
        self._declared = declared
        inner = mapped(declared)
        self.is_mapping = inner is not None
        self.is_limited = self.is_mapping and typing.get_origin(declared) is typing.Annotated
        kind: Any = declared if inner is None else inner[0]
        # A fold puts it into the head, which may be MessagePack.
        proof = Proof(kind, levels=LEVELS - 2 if self.is_mapping else LEVELS - 1, is_packed=is_packed)
        self.encode = proof.json
        self.decode = proof.from_json.decode

    def encode_none(self) -> msgspec.Raw:
        """The JSON of None for a mapping that may be missing."""
        try:
            msgspec.convert(None, self._declared)
        except msgspec.ValidationError:
            refusal = StateEncodeError(f"$.{self.name}", "NoneType, but a mapping is needed")
        else:
            return msgspec.Raw(b"null")
        raise refusal  # outside of the handler, whose error would be its context


class Changed(msgspec.Struct, omit_defaults=True):
    """The changes that a line holds, by the names under which fields are stored.

    Attributes:
        set: Entries of mappings.
        unset: The names of entries that are removed.
        put: Whole fields.
    """

    set: dict[str, dict[str, msgspec.Raw]] = {}
    unset: dict[str, list[str]] = {}
    put: dict[str, msgspec.Raw] = {}

    def __bool__(self) -> bool:
        return bool(self.set or self.unset or self.put)


class ChangeCodec:
    """Checks and applies changes of one state type.

    Args:
        state_type: The type.
        is_packed: Whether heads are MessagePack.
    """

    def __init__(self, state_type: StateType[Any], *, is_packed: bool = False) -> None:
        self._types = state_type
        self._is_packed = is_packed
        self._parts: dict[str, _Part] = {}  # made when they are first needed: most stores never merge

    def encode(self, changes: Any) -> Changed:
        """Changes as they stand in a line.

        Args:
            changes: Values by the Python names of fields. Of a mapping the entries that are to be set, or
                `msgspec.UNSET` for one that is to be removed.

        Raises:
            TypeError: They are no mapping, or a field cannot be changed apart from others.
            ValueError: A name is no field that can be merged.
            StateEncodeError: What would be loaded is not equal to a value.
        """
        if not isinstance(changes, Mapping):
            raise TypeError(f"changes must be a mapping from fields to values, not {type(changes).__name__}")
        result = Changed({}, {}, {})
        for name, value in cast("Mapping[Any, Any]", changes).items():
            part = self._mergeable(name)
            stored = self._types.names[name]
            if value is msgspec.UNSET:
                raise ValueError(
                    f"a whole field cannot be removed: give {name!r} a value, or UNSET entries of a mapping"
                )
            if part.is_mapping and value is None:
                result.put[stored] = part.encode_none()
                continue
            if not part.is_mapping:
                result.put[stored] = msgspec.Raw(part.encode(value, f"$.{name}"))
                continue
            self._encode_entries(part, value, result.set.setdefault(stored, {}), result.unset.setdefault(stored, []))
        result.set = {name: entries for name, entries in result.set.items() if entries}
        result.unset = {name: entries for name, entries in result.unset.items() if entries}
        return result

    @staticmethod
    def _encode_entries(part: _Part, value: Any, entries: dict[str, msgspec.Raw], removed: list[str]) -> None:
        if not isinstance(value, Mapping):
            raise StateEncodeError(f"$.{part.name}", f"{type(value).__name__}, but a mapping is needed")
        for key, item in cast("Mapping[Any, Any]", value).items():
            if type(key) is not str:
                raise StateEncodeError(f"$.{part.name}", "keys must be strings")
            try:
                key.encode()
            except UnicodeEncodeError:
                refusal = StateEncodeError(f"$.{part.name}", "a key holds a lone surrogate, which UTF-8 cannot express")
            else:
                refusal = None
            if refusal is not None:
                raise refusal
            if item is msgspec.UNSET:
                removed.append(key)
            else:
                entries[key] = msgspec.Raw(part.encode(item, f"$.{part.name}.{key}"))

    def _part(self, name: Any) -> _Part:
        if name in _KEPT:
            raise ValueError(f"{name!r} cannot be merged: " + ("use append()" if name == "messages" else "it is kept"))
        if not isinstance(name, str) or name not in self._types.names:
            raise ValueError(f"{self._types.cls.__name__} has no field of that name to merge into")
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = _Part(name, self._types.declared[name], is_packed=self._is_packed)
        return part

    def _mergeable(self, name: Any) -> _Part:
        part = self._part(name)
        if part.is_limited:
            raise TypeError(f"{name!r} is limited as a whole: load the state, change it, and save it")
        if part.has_raw and self._is_packed:
            raise TypeError(
                f"{name!r} holds msgspec.Raw, which has no form in both JSON and MessagePack: save the state"
            )
        return part

    def apply(self, state: Any, changed: Changed) -> None:
        """Make the changes on a loaded state. Fields that its type does not know are left out."""
        for stored, raw in changed.put.items():
            if (part := self._stored_part(stored)) is not None:
                setattr(state, part.name, None if part.is_mapping else part.decode(raw))
        for stored, entries in changed.set.items():
            if (part := self._stored_part(stored)) is not None:
                mapping = self._mapping(state, part)
                for key, raw in entries.items():
                    mapping[key] = part.decode(raw)
        for stored, removed in changed.unset.items():
            if (part := self._stored_part(stored)) is not None:
                mapping = self._mapping(state, part)
                for key in removed:
                    mapping.pop(key, None)

    def decode(self, stored: str, raw: msgspec.Raw) -> tuple[bool, Any]:
        """The value of a stored field, or of an entry of it, and before it whether that is known for MessagePack."""
        part = self._stored_part(stored)
        if part is None or part.has_raw:
            return False, None
        return True, None if part.is_mapping and bytes(raw) == b"null" else part.decode(raw)

    def _stored_part(self, stored: str) -> _Part | None:
        for name, under in self._types.names.items():
            if under == stored and name not in _KEPT:
                return self._part(name)
        if self._types.is_strict:
            raise msgspec.ValidationError("Object contains unknown field")
        return None

    @staticmethod
    def _mapping(state: Any, part: _Part) -> dict[str, Any]:
        if not part.is_mapping:
            raise msgspec.ValidationError(f"Expected a value - at `$.{part.name}`")
        mapping: Any = getattr(state, part.name)
        if mapping is None or mapping is msgspec.UNSET:
            mapping = {}
            setattr(state, part.name, mapping)
        return mapping
