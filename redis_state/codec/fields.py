"""What the type of a field says."""

from __future__ import annotations

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
