"""What a store knows of its state type: its fields, and how a save stamps an object."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Generic

import msgspec

from redis_state.clock import moment
from redis_state.codec.fields import mapped
from redis_state.codec.refusal import lost_attribute
from redis_state.codec.revision import MAX_VERSION, UNKNOWN, Origin, Revision, parsed
from redis_state.errors import StateEncodeError
from redis_state.models import S

# Where an object keeps the revision that it stems from; no field, so neither stored nor compared.
_ORIGIN: Final = "_redis_state_origin"
# The version that the latest save of an object makes, until it has succeeded.
_UNDER_WAY: Final = "_redis_state_under_way"


class StateType(Generic[S]):
    """What a store knows of its state type: its fields, and how to stamp an object.

    Attributes:
        cls: The class.
        names: The names of its fields, and under which each is stored.
        declared: The types of its fields.

    Args:
        state_type: A msgspec Struct or a dataclass with `agent_id` and `session_id`. `version`, `updated_at` and
            `messages` are used where it has them.

    Raises:
        TypeError: The class is neither, lacks an id, or could not be stamped or told apart.
    """

    def __init__(self, state_type: type[S]) -> None:
        if isinstance(state_type, type) and issubclass(state_type, msgspec.Struct):  # pyright: ignore[reportUnnecessaryIsInstance]
            config = state_type.__struct_config__
            frozen, compares = config.frozen, config.eq
            if config.array_like:
                raise TypeError(f"{state_type.__name__} must encode as an object: leave out array_like=True")
            fields = msgspec.structs.fields(state_type)
            names = {field.name: field.encode_name for field in fields}
            declared = {field.name: field.type for field in fields}
            tag_field = config.tag_field
        elif isinstance(state_type, type) and dataclasses.is_dataclass(state_type):  # pyright: ignore[reportUnnecessaryIsInstance]
            params = state_type.__dataclass_params__  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
            frozen, compares = bool(params.frozen), bool(params.eq)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
            names = {field.name: field.name for field in dataclasses.fields(state_type)}
            declared = typing.get_type_hints(state_type, include_extras=True)
            tag_field = None
        else:
            raise TypeError(f"state_type must be a msgspec Struct or a dataclass, not {state_type!r}")
        name = state_type.__name__
        for required in ("agent_id", "session_id"):
            if required not in names:
                raise TypeError(f"{name} needs a field {required!r}")
        if "_rev" in names.values() or tag_field == "_rev":
            raise TypeError(f"{name} has a field '_rev', which is the store's own")
        if not compares:
            raise TypeError(f"{name} must compare by value: a save checks that it would load what it stores")
        self.cls = state_type
        hints = typing.get_type_hints(state_type)
        for field, kind in (("version", int), ("updated_at", datetime)):
            if field in names and kind not in (hints[field], *typing.get_args(hints[field])):
                raise TypeError(f"{name}.{field} must be annotated as {kind.__name__}: a save stamps it")
        self.names = names
        self.declared = declared
        self.message_list: Any = declared.get("messages")
        constrains_messages = typing.get_origin(self.message_list) is typing.Annotated
        if constrains_messages:
            self.message_list = typing.get_args(self.message_list)[0]
        self.hangs_together = constrains_messages or hasattr(state_type, "__post_init__")
        if "messages" in names and typing.get_origin(self.message_list) is not list:
            raise TypeError(f"{name}.messages must be annotated as a list")
        if getattr(self.message_list, "__parameters__", ()):
            raise TypeError(f"{name}.messages must be annotated with a type, not with a variable for one")
        self.has_room = bool(state_type.__dictoffset__)
        # How many attributes are fields: those of a Struct stand elsewhere, as those of a dataclass with slots do.
        self._attributes = len(names) if self.has_room and not issubclass(state_type, msgspec.Struct) else 0
        self.is_strict = bool(getattr(getattr(state_type, "__struct_config__", None), "forbid_unknown_fields", False))
        self.has_version = "version" in names
        self.has_updated_at = "updated_at" in names
        self.has_messages = "messages" in names
        if frozen and (self.has_version or self.has_updated_at):
            raise TypeError(f"{name} is frozen, but a save stamps its version and updated_at")

    def require(self, field: str, operation: str) -> None:
        """Refuse an operation that needs a field which the type lacks with a TypeError."""
        if not getattr(self, f"has_{field}"):
            raise TypeError(f"{operation} needs a state type with a field {field!r}; {self.cls.__name__} has none")

    def require_parts(self, operation: str) -> None:
        """Refuse an operation that changes a part of a state, whose validity cannot be told from that part."""
        if self.hangs_together:
            raise TypeError(
                f"{operation} changes a part of a state, but {self.cls.__name__} checks its fields together "
                "(__post_init__, or a limit on the list of messages): load it, change it, and save it"
            )

    def stamp(self, state: Any, if_version: int | None, now: int) -> Stamp:
        """The version and the time that the save which now begins will store an object with.

        Args:
            state: The object.
            if_version: The version that the save is conditional on; None: it is not.
            now: Microseconds since 1970.

        Raises:
            TypeError: It is an object of another type, or the version is no integer.
            ValueError: The version is negative, or too large to be counted on.
            StateEncodeError: The object has an attribute that is no field.
        """
        if state.__class__ is not self.cls:
            raise TypeError(f"this store keeps {self.cls.__name__} objects, not {type(state).__name__} objects")
        notes: dict[str, Any] = state.__dict__ if self.has_room else {}
        origin = notes.get(_ORIGIN, UNKNOWN)
        if type(origin) is bytes:
            origin = parsed(origin)
        if len(notes) != self._attributes + (_ORIGIN in notes) + (_UNDER_WAY in notes):
            self.check_attributes(state)
        version: int = state.version if self.has_version else origin.version
        based_on = version if if_version is None else if_version
        if type(version) is not int or type(based_on) is not int:
            raise TypeError("a version must be an integer")
        if if_version is not None:
            self.require("version", "save(if_version=)")
        elif _UNDER_WAY in notes:
            based_on = max(version, notes[_UNDER_WAY])
        if version < 0 or version >= MAX_VERSION or not 0 <= based_on < MAX_VERSION:
            raise ValueError("a version must be 0 or more, and below 2**53 - 1, which is the last one")
        # An object whose version was changed by hand, or is not the expected one, does not say which write it means.
        if origin.version != version or (if_version is not None and if_version != version):
            origin = UNKNOWN
        if not self.has_updated_at:
            return Stamp(self, state, based_on + 1, version, origin)
        return Stamp(self, state, based_on + 1, version, origin, moment(now), state.updated_at)

    def check_attributes(self, state: Any) -> None:
        """Refuse an object with an attribute that is no field."""
        lost = lost_attribute(state)
        if lost is not None:
            raise StateEncodeError(f"$.{lost}", f"it is no field of {self.cls.__name__}")

    def is_mapping(self, name: str) -> bool:
        """Whether entries of a field are merged one by one."""
        return mapped(self.declared[name]) is not None

    def last_write(self, state: Any) -> tuple[int, bytes]:
        """The version of a state that was loaded or saved, and the id of the write that made it.

        Raises:
            TypeError: Its type has no room to note that.
            ValueError: It was never loaded or saved, or its version was changed by hand.
        """
        if not self.has_room:
            name = self.cls.__name__
            raise TypeError(f"if_version= takes a state only where it has room for a note: {name} needs dict=True")
        origin = parsed(state.__dict__.get(_ORIGIN, UNKNOWN))
        if not origin.ids or (self.has_version and state.version != origin.version):
            raise ValueError(
                "if_version= takes a state that this library has saved and that was loaded or saved by its store, with "
                "the version as it was"
            )
        return origin.version, origin.newest

    def adopt(self, state: Any, origin: Origin) -> None:
        """Note on a loaded object which write it stems from."""
        if self.has_room:
            state.__dict__[_ORIGIN] = origin


class Stamp(msgspec.Struct):
    """What a save makes of its object: while its bytes are taken, and again when it has succeeded.

    Attributes:
        types: What is known of its type.
        state: The object.
        version: The version that the save makes.
        version_before: The object's version until then; 0 if it was never loaded or saved, as far as it can tell.
        origin: The revision that the object stems from, where it is known.
        time: When; None where the type has no room for it.
        time_before: The object's time until then.
        ended: Whether the save has succeeded or failed.
    """

    types: StateType[Any]
    state: Any
    version: int
    version_before: int
    origin: Revision
    time: datetime | None = None
    time_before: Any = None
    ended: bool = False

    def __del__(self) -> None:
        """A save that was cancelled before it had begun is over as well."""
        if not self.ended:
            self.drop()

    def encode(self, encode: Callable[[Any], bytes]) -> bytes:
        """The bytes of the object as the save makes it, which it is only meanwhile."""
        types, state = self.types, self.state
        try:
            if types.has_version:
                state.version = self.version
            if types.has_updated_at:
                state.updated_at = self.time
            document = encode(state)
        finally:
            if types.has_version:
                state.version = self.version_before
            if types.has_updated_at:
                state.updated_at = self.time_before
        if types.has_room:
            state.__dict__[_UNDER_WAY] = self.version
        return document

    def keep(self, revision: Revision) -> None:
        """The save has succeeded: leave the stamp on the object, unless a later save was faster."""
        self.ended = True
        types, state = self.types, self.state
        notes: dict[str, Any] = state.__dict__ if types.has_room else {}
        if notes.get(_UNDER_WAY) == self.version:
            del notes[_UNDER_WAY]
        if types.has_version:
            if self.version <= state.version != self.version_before:
                return
            state.version = self.version
        notes[_ORIGIN] = revision
        if types.has_updated_at:
            state.updated_at = self.time

    def keep_earlier(self, revision: Revision, time: int) -> None:
        """The save was a repetition: leave on the object what the first one made."""
        self.drop()
        types, state = self.types, self.state
        if types.has_version:
            state.version = revision.version
        if types.has_updated_at:
            state.updated_at = moment(time)
        types.adopt(state, revision)

    def drop(self) -> None:
        """The save has failed: the next one makes its version."""
        self.ended = True
        notes: dict[str, Any] = self.state.__dict__ if self.types.has_room else {}
        if notes.get(_UNDER_WAY) == self.version:
            notes[_UNDER_WAY] = self.version - 1
