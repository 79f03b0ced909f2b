"""How deeply a state may be nested: a limit of our own, so that it is the same from any stack.

What msgspec and Python can decode depends on how much of the stack is in use where it happens. What is saved from a
shallow one must be loaded from a deep one.
"""

from __future__ import annotations

import re
import threading
import types
import typing
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import msgspec

R = TypeVar("R")
Check = Callable[[Any], bool]

LEVELS: Final = 200  # the document is the first
FLAT: Final = frozenset({str, int, float, bool, type(None)})
_FLAT_TYPES: Final = frozenset({*FLAT, bytes, datetime, date, timedelta, UUID, Decimal})
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class TooDeepError(ValueError):
    """Raised when what is stored is nested deeper than a state may be."""


def children(value: Any) -> Iterable[Any] | None:
    """What is in a value, None where it is no container."""
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value).values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return cast("list[Any]", value)
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name, None) for name in value.__struct_fields__]
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return [getattr(value, name, None) for name in value.__dataclass_fields__]
    return None


def fits(value: Any, levels: int = LEVELS) -> bool:
    """Whether a value is nested no deeper than so many levels; a text or a number has none."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is dict:
        inside = value.values()
    elif kind is list:
        inside = value
    elif kind in FLAT or (inside := children(value)) is None:
        return kind is not msgspec.Raw or _json_fits(bytes(value), levels)
    if levels < 1:
        return False
    for child in inside:  # noqa: SIM110  # a generator would cost as much again
        if type(child) not in FLAT and not fits(child, levels - 1):
            return False
    return True


def _json_fits(text: bytes, levels: int) -> bool:
    """The same of text in JSON: of nothing but its brackets, which go by pairs from the innermost on."""
    brackets = _STRING.sub(b"", text).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(levels):
        brackets = brackets.replace(b"[]", b"")
    return b"[]" not in brackets


def compile_nesting_check(declared: Any) -> Check:
    """A function that tells of a value of this type whether it `fits`, and looks only where it could be deep."""
    source = _Source()
    try:
        lines = source.lines(declared, "value", LEVELS)
        text = "\n".join(["def check(value):", *_indented(lines), " return True"])
        scope: dict[str, Any] = {}
        exec(text, source.names, scope)  # noqa: S102  # made of the names of types and fields
    except (TypeError, SyntaxError, RecursionError):
        return fits
    return scope["check"]


def in_fresh_stack(function: Callable[..., R], *args: Any) -> R:
    """Call a function where nothing of the stack is in use: in a thread, which is waited for."""
    results: list[R] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function(*args))
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class _Source:
    """Makes the source of a check.

    Attributes:
        names: What the source refers to.
    """

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"fits": fits, "FLAT": FLAT}
        self._around: list[Any] = []
        self._variables = 0

    def lines(self, declared: Any, value: str, levels: int) -> list[str]:
        """Statements that return False where a value is too deep; none where its type is flat enough."""
        origin = typing.get_origin(declared) or declared
        arguments = typing.get_args(declared)
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments, value, levels)
        if origin is list and arguments:
            return self._each(arguments[0], value, value, levels)
        if origin is dict and arguments:
            return self._each(arguments[1], value, f"{value}.values()", levels)
        if isinstance(declared, type) and issubclass(declared, msgspec.Struct) and declared not in self._around:
            return self._struct(declared, value, levels)
        if declared in _FLAT_TYPES:
            return []
        return [f"if type({value}) not in FLAT and not fits({value}, {levels}): return False"]

    def _union(self, declared: tuple[Any, ...], value: str, levels: int) -> list[str]:
        deep = [each for each in declared if each is not type(None) and self.lines(each, value, levels)]
        if not deep:
            return []
        if len(deep) == 1 and len(declared) == 2 and type(None) in declared:  # noqa: PLR2004  # X | None
            return [f"if {value} is not None:", *_indented(self.lines(deep[0], value, levels))]
        return [f"if type({value}) not in FLAT and not fits({value}, {levels}): return False"]

    def _each(self, declared: Any, value: str, items: str, levels: int) -> list[str]:
        self._variables += 1
        item = f"item{self._variables}"
        inner = self.lines(declared, item, levels - 1)
        return [f"if {value}:", f" for {item} in {items}:", *_indented(_indented(inner))] if inner else []

    def _struct(self, declared: type[msgspec.Struct], value: str, levels: int) -> list[str]:
        self._around.append(declared)
        lines: list[str] = []
        for field in msgspec.structs.fields(declared):
            self._variables += 1
            name = f"item{self._variables}"
            if inner := self.lines(field.type, name, levels - 1):
                lines += [f"{name} = {value}.{field.name}", *inner]
        self._around.pop()
        return lines


def _indented(lines: list[str]) -> list[str]:
    return [f" {line}" for line in lines]
