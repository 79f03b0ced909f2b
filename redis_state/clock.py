"""When things happened, and for how long they stay."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_from_seconds: Final = datetime.fromtimestamp
_MICROSECOND: Final = timedelta(microseconds=1)
_MILLISECOND: Final = timedelta(milliseconds=1)


class Clock:
    """Microseconds since 1970, each reading later than the one before."""

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> int:
        """The time."""
        now = time.time_ns() // 1000
        if now <= self._last:
            now = self._last + 1
        self._last = now
        return now


def moment(microseconds: float) -> datetime:
    """The time that many microseconds after 1970 began, aware, in UTC."""
    return _from_seconds(microseconds / 1e6, UTC)  # until 2255 a float of seconds tells microseconds apart


def microseconds(moment: datetime) -> int:
    """The microseconds from 1970 to a time.

    Raises:
        ValueError: The time is naive.
    """
    if moment.utcoffset() is None:
        raise ValueError("the time must be aware: give it a tzinfo")
    return (moment - _EPOCH) // _MICROSECOND


def milliseconds(ttl: timedelta | None) -> int | None:
    """A time to live in whole milliseconds, what Redis counts in.

    Raises:
        TypeError: It is no timedelta.
        ValueError: It is below a millisecond.
    """
    if ttl is None:
        return None
    if not isinstance(ttl, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"ttl must be a timedelta, not {type(ttl).__name__}")
    count = ttl // _MILLISECOND
    if count < 1:
        raise ValueError("ttl must be at least a millisecond")
    return count
