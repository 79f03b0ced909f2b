"""Blocking work of milliseconds to seconds, in itself and for the callers of an event loop."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from redis_state.testing.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_thread", "wait_until"]

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` in a thread; when cancelled, wait until it has returned before passing that on.

    A thread cannot be cancelled: without the wait its server would start after everybody had gone.
    """
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        if not call.cancelled():
            call.exception()  # seen, so that asyncio does not report it as lost
        raise


def wait_until(condition: Callable[[], bool], *, what: str, timeout: float, interval: float = 0.02) -> None:
    """Block until `condition()` is true; an error that a server's start or change explains counts as false.

    Args:
        condition: Asked every `interval` seconds.
        what: What is waited for, for the error's message.
        timeout: In seconds.
        interval: In seconds.

    Raises:
        TimeoutError: It was still false after `timeout`.
    """
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        try:
            if condition():
                return
            last = None
        except (OSError, CommandError) as error:
            last = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout:g} s.") from last
        time.sleep(interval)
