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

Check = Callable[[Any], bool]

_ATOMS: Final = frozenset({str, int, bool, type(None)})


def is_plain(value: Any) -> bool:
    """Whether a value consists of strings, finite numbers, booleans, None, and lists and dicts of them."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif kind is not list:
        return kind in _ATOMS or (kind is float and value - value == 0.0)  # neither infinite nor NaN
    try:
        for item in value:
            if type(item) not in _ATOMS and not is_plain(item):
                return False
    except RecursionError:  # deeper than calls nest in Python, or a loop
        return False
    return True


def compile_check(declared: Any) -> Check:
    """A function that looks at the types inside a value which is declared as this type.

    Args:
        declared: A type annotation. Where a look cannot be enough, such as for a class that does something of its own
            when it is decoded, the function never knows.
    """
    source = _Source()
    try:
        return source.function(f"return {source.condition(declared, 'value')}")
    except TypeError:
        return lambda _: False


# What is looked at, by the declared type.
_CONDITIONS: Final[dict[Any, str]] = {
    str: "type({0}) is str",
    int: "type({0}) is int",
    bool: "type({0}) is bool",
    float: "(type({0}) is float and {0} - {0} == 0.0)",
    type(None): "{0} is None",
    datetime: "(type({0}) is datetime and {0}.tzinfo is UTC)",  # another zone comes back as one with the same offset
    list: "(type({0}) is list and is_plain({0}))",
    dict: "(type({0}) is dict and is_plain({0}))",
    Any: "is_plain({0})",
}


class _Source:
    """Makes the source of a check: a call for each field would cost what decoding does, comparisons in line do not.

    Attributes:
        names: What the source refers to.
        around: The Structs around the type at hand.
    """

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"is_plain": is_plain, "datetime": datetime, "UTC": UTC}
        self.around: list[type] = []

    def function(self, body: str) -> Check:
        """A function of `value`."""
        scope: dict[str, Any] = {}
        exec(f"def check(value):\n {body}", self.names, scope)  # noqa: S102  # made of the names of types and fields
        return scope["check"]

    def name(self, thing: Any) -> str:
        """A name for something that the source refers to."""
        name = f"_{len(self.names)}"
        self.names[name] = thing
        return name

    def condition(self, declared: Any, value: str) -> str:
        """An expression for whether a value of the declared type comes back.

        Raises:
            TypeError: Nothing is known about that type.
        """
        if declared in _CONDITIONS:
            return _CONDITIONS[declared].format(value)
        origin, arguments = typing.get_origin(declared), typing.get_args(declared)
        if origin in (typing.Union, types.UnionType):  # None is tried first
            return f"({' or '.join(self.condition(each, value) for each in reversed(arguments))})"
        if declared in (list[Any], dict[str, Any]):
            return _CONDITIONS[origin].format(value)
        if origin is list:
            return f"(type({value}) is list and {self.each('item', 'value', arguments[0])}({value}))"
        if origin is dict and arguments[0] is str:
            each = self.each("key, item", "value.items()", arguments[1], "type(key) is str and ")
            return f"(type({value}) is dict and {each}({value}))"
        if not isinstance(declared, type) or not issubclass(declared, msgspec.Struct):
            raise TypeError
        return self.struct(declared, value)

    def each(self, variables: str, items: str, declared: Any, also: str = "") -> str:
        """The name of a function that looks at each item of a list or dict."""
        condition = also + self.condition(declared, "item")
        return self.name(
            self.function(f"for {variables} in {items}:\n  if not ({condition}): return False\n return True")
        )

    def struct(self, declared: type[msgspec.Struct], value: str) -> str:
        """An expression for a Struct: its class and all its fields. One that holds itself is not known."""
        if declared in self.around or not declared.__struct_config__.eq or hasattr(declared, "__post_init__"):
            raise TypeError
        self.around.append(declared)
        fields = msgspec.structs.fields(declared)
        conditions = [self.condition(field.type, f"{value}.{field.name}") for field in fields]
        self.around.pop()
        return " and ".join((f"(type({value}) is {self.name(declared)}", *conditions)) + ")"
