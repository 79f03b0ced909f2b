"""What the type of a field says."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

import msgspec


def mapped(declared: Any) -> tuple[Any] | None:
    """The type of the entries of a mapping by strings, perhaps an optional one; None where it is none."""
    if typing.get_origin(declared) is typing.Annotated:
        declared = typing.get_args(declared)[0]
    if declared is dict:
        return (Any,)
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is dict and arguments[0] is str:
        return (arguments[1],)
    if origin in (typing.Union, types.UnionType):
        some = [each for each in arguments if each not in (type(None), msgspec.UnsetType)]
        if len(some) == 1:
            return mapped(some[0])
    return None


def holds_raw(declared: Any, around: tuple[Any, ...] = ()) -> bool:
    """Whether there is a `msgspec.Raw` in a type."""
    if declared is msgspec.Raw:
        return True
    if declared in around:
        return False
    around = (*around, declared)
    inner: list[Any] = list(typing.get_args(declared))
    kind: Any = declared
    if isinstance(declared, type) and issubclass(declared, msgspec.Struct):
        inner += [field.type for field in msgspec.structs.fields(declared)]
    elif dataclasses.is_dataclass(kind):
        inner += typing.get_type_hints(kind).values()
    return any(holds_raw(each, around) for each in inner)
