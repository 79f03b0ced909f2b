"""Which values are known to come back from JSON and MessagePack as they were, by their types alone.

A save must not alter anything silently, and msgspec writes many values in a form that reads back as something else: a
tuple as a list, bytes as text, NaN as null. Decoding what was encoded and comparing shows that, at three times the
price of encoding. Most states hold nothing but what JSON has a form for, in fields of the declared types, and a look at
every type proves it. The answer is "known" or "not known"; what is not known is decoded and compared, so a check need
not be complete.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from redis_state.codec.nesting import LEVELS

Check = Callable[[Any], bool]

_ATOMS: Final = frozenset({str, bool, type(None)})
_LARGE: Final = 2**63  # numbers from here on are decoded and compared: MessagePack has no form, and JSON readers limits


def is_plain(value: Any, levels: int) -> bool:
    """Whether a value consists of strings, finite numbers, booleans, None, and lists and dicts of them.

    Args:
        value: The value.
        levels: How deeply lists and dicts may be nested.
    """
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is dict:
        if levels < 1:
            return False
        for key, item in value.items():
            if type(key) is not str or (type(item) not in _ATOMS and not is_plain(item, levels - 1)):
                return False
    elif kind is list:
        if levels < 1:
            return False
        for item in value:
            if type(item) not in _ATOMS and not is_plain(item, levels - 1):
                return False
    else:
        return (
            kind in _ATOMS
            or (kind is int and -_LARGE < value < _LARGE)
            or (kind is float and value - value == 0.0)  # neither infinite nor NaN
        )
    return True


def compile_check(declared: Any, *, levels: int = LEVELS, is_state: bool = False) -> Check:
    """A function that looks at the types inside a value which is declared as this type, and how deep it is.

    Args:
        declared: A type annotation. Where a look cannot be enough, such as for a class that does something of its own
            when it is decoded, the function never knows.
        levels: How deeply it may be nested.
        is_state: Whether it is a state type: attributes of the store's own are on its objects, see `StateType`.
    """
    try:
        return _Source(is_state=is_state).function(declared, levels)
    except (TypeError, SyntaxError):  # SyntaxError: lists nested deeper than Python's loops, a field named as a keyword
        return lambda _: False


# What speaks against a value, by the declared type.
_DOUBTS: Final[dict[Any, str]] = {
    str: "type({0}) is not str",
    int: "type({0}) is not int or not -large < {0} < large",
    bool: "type({0}) is not bool",
    float: "type({0}) is not float or {0} - {0} != 0.0",
    type(None): "{0} is not None",
    datetime: "type({0}) is not datetime or {0}.tzinfo is not UTC",  # another zone comes back as one of the same offset
    Any: "type({0}) not in atoms and not is_plain({0}, {1})",
}
_BARE: Final[dict[Any, Any]] = {list: (Any,), dict: (str, Any)}  # what is in a list and a dict that do not say it


class _Source:
    """Makes the source of a check: a call for each field would cost what decoding does, comparisons in line do not.

    Attributes:
        names: What the source refers to.
        around: The Structs around the type at hand.
    """

    def __init__(self, *, is_state: bool) -> None:
        self.names: dict[str, Any] = {
            "is_plain": is_plain,
            "atoms": _ATOMS,
            "large": _LARGE,
            "datetime": datetime,
            "UTC": UTC,
        }
        self.around: list[type] = []
        self._variables = 0
        self._is_state = is_state

    def function(self, declared: Any, levels: int) -> Check:
        """The check for a type."""
        lines = ["def check(value):", *_indented(self.lines(declared, "value", levels)), " return True"]
        scope: dict[str, Any] = {}
        exec("\n".join(lines), self.names, scope)  # noqa: S102  # made of the names of types and fields
        return scope["check"]

    def name(self, thing: Any) -> str:
        """A name for something that the source refers to."""
        name = f"_{len(self.names)}"
        self.names[name] = thing
        return name

    def variable(self) -> str:
        """A variable that is not in use."""
        self._variables += 1
        return f"value{self._variables}"

    def lines(self, declared: Any, value: str, levels: int) -> list[str]:
        """Statements that return False where a value of the declared type may not come back.

        Raises:
            TypeError: Nothing is known about that type.
        """
        if declared in _DOUBTS:
            return [f"if {_DOUBTS[declared].format(value, levels)}: return False"]
        if levels < 1:
            raise TypeError
        origin = typing.get_origin(declared) or declared
        arguments = typing.get_args(declared) or _BARE.get(origin, ())
        if origin in (typing.Union, types.UnionType):
            # Beside Any the others do not count: all is decoded as if it alone stood there.
            return self.lines(Any, value, levels) if Any in arguments else self.any_of(arguments, value, levels)
        item = self.variable()
        if origin is list:
            return [
                f"if type({value}) is not list: return False",
                f"for {item} in {value}:",
                *_indented(self.lines(arguments[0], item, levels - 1)),
            ]
        if origin is dict and arguments[0] is str:
            return [
                f"if type({value}) is not dict: return False",
                f"for key, {item} in {value}.items():",
                " if type(key) is not str: return False",
                *_indented(self.lines(arguments[1], item, levels - 1)),
            ]
        if not isinstance(declared, type) or not issubclass(declared, msgspec.Struct):
            raise TypeError
        return self.struct(declared, value, levels)

    def any_of(self, declared: tuple[Any, ...], value: str, levels: int) -> list[str]:
        """Statements for a union: None passes, anything else is looked at."""
        some = [each for each in declared if each is not type(None)]
        if len(some) > 1:
            checks = [f"{self.name(self.function(each, levels))}({value})" for each in some]
            lines = [f"if not ({' or '.join(checks)}): return False"]
        else:
            lines = self.lines(some[0], value, levels)
        return lines if len(some) == len(declared) else [f"if {value} is not None:", *_indented(lines)]

    def struct(self, declared: type[msgspec.Struct], value: str, levels: int) -> list[str]:
        """Statements for a Struct: its class and all its fields. One that holds itself is not known."""
        if declared in self.around or not declared.__struct_config__.eq or hasattr(declared, "__post_init__"):
            raise TypeError
        is_inner = bool(self.around) or not self._is_state
        self.around.append(declared)
        lines = [f"if type({value}) is not {self.name(declared)}: return False"]
        if is_inner and declared.__dictoffset__:
            lines.append(f"if {value}.__dict__: return False")
        for field in msgspec.structs.fields(declared):
            name = self.variable()
            lines += [f"{name} = {value}.{field.name}", *self.lines(field.type, name, levels - 1)]
        self.around.pop()
        return lines


def _indented(lines: list[str]) -> list[str]:
    return [f" {line}" for line in lines]
