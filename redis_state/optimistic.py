"""Load, change, save if nobody else has: again until it holds."""

from __future__ import annotations

import asyncio
import inspect
import random
from typing import TYPE_CHECKING, Any, Protocol, cast

from redis_state.errors import VersionConflictError
from redis_state.state import S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from redis_state.protocol import StateStore


class _Versioned(Protocol):
    version: int


async def update(
    store: StateStore[S],
    agent_id: str,
    session_id: str,
    fn: Callable[[S], Any | Awaitable[Any]],
    *,
    attempts: int,
    ttl: timedelta | None,
) -> S:
    """See `SessionStore.update`."""
    if attempts < 1:
        raise ValueError("attempts must be 1 or more")
    for attempt in range(1, attempts + 1):
        state = await store.load(agent_id, session_id)
        version = cast("_Versioned", state).version
        result = fn(state)
        if inspect.isawaitable(result):
            await result
        try:
            await store.save(state, if_version=version, ttl=ttl)
        except VersionConflictError:
            if attempt == attempts:
                raise
        else:
            return state
        await asyncio.sleep(random.random() * min(0.1, 0.001 * 2 ** min(attempt, 10)))
    raise AssertionError  # the last attempt returned or raised
