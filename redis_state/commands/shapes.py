"""What the reply to a command may look like. Anything else is no word of a Redis server."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from redis_state.commands.replies import ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable


def is_list(reply: Any) -> bool:
    """An array."""
    return type(reply) is list


def is_integer(reply: Any) -> bool:
    """A count, or yes or no."""
    return type(reply) is int


def is_text(reply: Any) -> bool:
    """A string; of INFO under RESP3 a verbatim one."""
    return isinstance(reply, bytes | str)


def is_value(reply: Any) -> bool:
    """A string, or nothing."""
    return type(reply) is bytes or reply is None


def is_score(reply: Any) -> bool:
    """A score, or nothing; under RESP3 a number."""
    return reply is None or type(reply) in (bytes, float)


def is_texts(reply: Any) -> bool:
    """Some strings."""
    return is_list(reply) and set(map(type, reply)) <= _TEXTS


def values_of(count: int) -> Callable[[Any], bool]:
    """So many strings, each may be missing."""

    def are_values(reply: Any) -> bool:
        return is_list(reply) and len(reply) == count and all(map(is_value, reply))

    return are_values


def statuses_of(count: int) -> Callable[[Any], bool]:
    """So many integers."""

    def are_statuses(reply: Any) -> bool:
        return is_list(reply) and len(reply) == count and set(map(type, reply)) <= {int}

    return are_statuses


def is_cursor(text: Any) -> bool:
    """Where a SCAN goes on."""
    return type(text) is bytes and text.isdigit() and len(text) <= _DIGITS


def is_scan(reply: Any) -> bool:
    """A cursor, and some keys."""
    return is_list(reply) and len(reply) == len(("cursor", "keys")) and is_cursor(reply[0]) and is_texts(reply[1])


def is_block(reply: Any) -> bool:
    """The results of the two commands of a transaction: the first may be a string, nothing or a count."""
    return (
        is_list(reply)
        and len(reply) == len(("first", "second"))
        and type(reply[0]) in _RESULTS
        and type(reply[1]) in _COUNTS
    )


def is_counts(reply: Any) -> bool:
    """The counts of the two commands of a transaction."""
    return is_list(reply) and len(reply) == len(("first", "second")) and all(type(n) in _COUNTS for n in reply)


def is_scored(reply: list[Any]) -> bool:
    """Members and scores in turn."""
    if len(reply) % 2 or not is_texts(reply):
        return False
    try:
        return not any(map(math.isnan, map(float, reply[1::2])))
    except ValueError:
        return False


_DIGITS = 20  # of a 64-bit cursor
_TEXTS = {bytes}
_RESULTS = (bytes, int, ReplyError, type(None))
_COUNTS = (int, ReplyError)
