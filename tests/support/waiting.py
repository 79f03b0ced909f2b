"""Waits that block, for servers that come together."""

from __future__ import annotations

import time
from collections.abc import Callable

from redis_state.testing import CommandError


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
