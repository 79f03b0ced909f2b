"""Why a state cannot be stored, or what is stored is none: where, and what was needed, never what it holds.

What is searched for the place is looked at once, so a refusal costs no more than the check that found the state unfit.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Final, cast

import msgspec

from redis_state.codec.nesting import LEVELS, TooDeepError, fits
from redis_state.codec.revision import DamagedRevisionError
from redis_state.errors import StateEncodeError

UNENCODABLE: Final = (TypeError, ValueError, OverflowError, AttributeError, msgspec.MsgspecError)
UNDECODABLE: Final = (*UNENCODABLE, UnicodeDecodeError)
_SHOWN: Final = 40  # letters of a key in a path
_MAX_PATH: Final = 32  # steps
_FLAT: Final = frozenset({int, bool, type(None)})
_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**64 - 1
NOTE: Final = "_redis_state_"  # what the store's own attributes of a state begin with
_Found = tuple[list[str], str]  # the steps of a path, the last one first, and the reason

Encoder = msgspec.json.Encoder | msgspec.msgpack.Encoder
_at: Final = re.compile(r"at `(?:key` in `)?(\$[^`]*)`")
_expected: Final = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")


def undecodable(error: Exception) -> str:
    """Why a value is no state, without the words of it that msgspec may quote."""
    if isinstance(error, (TooDeepError, RecursionError)):
        return f"it is nested deeper than {LEVELS} levels"
    if isinstance(error, DamagedRevisionError):
        return "its version and history are damaged"
    if isinstance(error, msgspec.ValidationError):
        path = _at.search(str(error))
        return f"{path[1] if path else '$'} does not fit its type"
    return "it is neither valid JSON nor valid MessagePack"


def difference(saved: Any, loaded: Any, path: str = "$") -> StateEncodeError | None:
    """The error for a value that would come back different, None where it would not: the first place where it does."""
    found = _difference(saved, loaded)
    return None if found is None else _error(path, found)


def unencodable(encoder: Encoder, value: Any, error: Exception, path: str = "$") -> StateEncodeError:
    """The error for a value that cannot be encoded, or encoded but not decoded."""
    found = _unencodable(encoder, value)
    if found is None and isinstance(error, msgspec.ValidationError):
        place, kinds = _at.search(str(error)), _expected.search(str(error))
        reason = f"{kinds[2]}, but {kinds[1]} is needed" if kinds else "its type is not the one that the field declares"
        return StateEncodeError(path + place[1].removeprefix("$") if place else path, reason)
    return _error(path, found or ([], f"{type(value).__name__} has no faithful form there"))


def too_deep(value: Any, path: str = "$", levels: int = LEVELS) -> StateEncodeError:
    """The error for a value that is nested too deeply: where that begins."""
    steps: list[str] = []
    for level in range(levels, levels - _MAX_PATH, -1):
        for step, child in fields(value):
            if not fits(child, level - 1):
                steps.append(step)
                value = child
                break
        else:
            break
    return StateEncodeError(path + "".join(steps), f"it is nested deeper than {LEVELS} levels, or holds itself")


def lost_attribute(value: Any) -> str | None:
    """The name of an attribute that is no field, None where there is none. What can be computed anew is none."""
    names, cls = _names(value), cast("type[Any]", type(value))
    for name in getattr(value, "__dict__", ()):
        if name in names or name.startswith(NOTE) or isinstance(getattr(cls, name, None), cached_property):
            continue
        return name
    return None


def fields(value: Any) -> list[tuple[str, Any]]:
    """The children of a value, each with its step in a path."""
    if isinstance(value, dict):
        return [(_step(key), child) for key, child in cast("dict[Any, Any]", value).items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{i}]", v) for i, v in enumerate(cast("list[Any]", value))]
    return [(f".{name}", getattr(value, name, None)) for name in _names(value)]


def _names(value: Any) -> Any:
    if isinstance(value, type):
        return ()
    return value.__struct_fields__ if isinstance(value, msgspec.Struct) else getattr(value, "__dataclass_fields__", ())


def _step(key: Any) -> str:
    """A key as a step: short, and on one line."""
    if not isinstance(key, str):
        return f"[{type(key).__name__} key]"
    shown = key[:_SHOWN] + ("..." if len(key) > _SHOWN else "")
    return f".{shown if shown.isprintable() else ascii(shown)[1:-1]}"


def _error(path: str, found: _Found) -> StateEncodeError:
    steps, reason = found
    return StateEncodeError(path + "".join(steps[: -_MAX_PATH - 1 : -1]), reason)


def _inside(found: _Found, step: str) -> _Found:
    found[0].append(step)
    return found


def _difference(saved: Any, loaded: Any) -> _Found | None:
    kind: type[Any] = type(saved)  # pyright: ignore[reportUnknownVariableType]
    if kind is str or kind in _FLAT:
        return None if saved == loaded else _changed(saved, loaded)
    if isinstance(saved, dict):
        return _difference_of_dicts(cast("dict[Any, Any]", saved), loaded)
    if isinstance(saved, (list, tuple)):
        return _difference_of_lists(cast("list[Any]", saved), loaded)
    if _names(saved):
        return _difference_of_objects(saved, loaded)
    return None if _equal(saved, loaded) else _changed(saved, loaded)


def _equal(saved: Any, loaded: Any) -> bool:
    try:
        return bool(saved == loaded)
    except Exception:  # noqa: BLE001  # a comparison of the user's
        return False


def _difference_of_objects(saved: Any, loaded: Any) -> _Found | None:
    if type(loaded) is not type(saved):
        return _changed(saved, loaded)
    for name in _names(saved):
        if found := _difference(getattr(saved, name), getattr(loaded, name)):
            return _inside(found, f".{name}")
    if (lost := lost_attribute(saved)) is not None:
        return [_step(lost)], f"it is no field of {type(saved).__name__}"
    return None


def _difference_of_dicts(saved: dict[Any, Any], loaded: Any) -> _Found | None:
    if not isinstance(loaded, dict):
        return _changed(saved, loaded)
    others = cast("dict[Any, Any]", loaded)
    for key, child in saved.items():
        if key not in others or type(key) is bool:
            return [], "keys must be strings"
        if found := _difference(child, others[key]):
            return _inside(found, _step(key))
    return None if len(saved) == len(others) else ([], "keys must be strings")


def _difference_of_lists(saved: Any, loaded: Any) -> _Found | None:
    if isinstance(saved, tuple) is not isinstance(loaded, tuple) or not isinstance(loaded, (list, tuple)):
        return _changed(saved, loaded)
    if len(saved) != len(cast("list[Any]", loaded)):
        return _changed(saved, loaded)
    for number, (mine, other) in enumerate(zip(saved, cast("list[Any]", loaded), strict=True)):
        if found := _difference(mine, other):
            return _inside(found, f"[{number}]")
    return None


def _changed(saved: Any, loaded: Any) -> _Found:
    mine, other = type(saved).__name__, type(loaded).__name__
    if type(saved) is type(loaded):
        return [], f"this {mine} would come back as another"
    if _names(loaded):
        return [], f"{mine}, but {other} is needed"
    return [], f"{mine} would come back as {other}"


def _unencodable(encoder: Encoder, value: Any) -> _Found | None:
    """The first place that cannot be encoded: containers are looked into, only what is none is encoded."""
    kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is bool or value is None or (kind is int and _MIN_INT <= value <= _MAX_INT):
        return None
    if isinstance(value, dict):
        return _unencodable_in_dict(encoder, cast("dict[Any, Any]", value))
    if not isinstance(value, (list, tuple)) and not _names(value):
        return _unencodable_leaf(encoder, value, value)
    for name in _names(value):
        if not hasattr(cast("Any", value), name):
            return [f".{name}"], "this field was deleted"
    for step, child in fields(value):
        if found := _unencodable(encoder, child):
            return _inside(found, step)
    return None


def _unencodable_in_dict(encoder: Encoder, value: dict[Any, Any]) -> _Found | None:
    for key, child in value.items():
        if found := _unencodable(encoder, child):
            return _inside(found, _step(key))
        if type(key) is not str:
            if _unencodable_leaf(encoder, {key: None}, key):
                return [], "keys must be strings"
        elif found := _unencodable_leaf(encoder, key, key):
            return found
    return None


def _unencodable_leaf(encoder: Encoder, value: Any, shown: Any) -> _Found | None:
    if type(value) is str and value.isascii():
        return None
    decode = msgspec.json.decode if isinstance(encoder, msgspec.json.Encoder) else msgspec.msgpack.decode
    try:
        text = encoder.encode(value)
        if type(value) is msgspec.Raw:
            decode(text)
    except UnicodeEncodeError:
        return [], "it holds a lone surrogate, which UTF-8 cannot express"
    except (*UNENCODABLE, RecursionError):
        return [], f"{type(shown).__name__} has no faithful form there"
    return None
