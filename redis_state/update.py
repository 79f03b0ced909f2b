"""Load, change, save if nobody else has: again until it holds."""

from __future__ import annotations

import asyncio
import inspect
import random
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from weakref import WeakValueDictionary

from redis_state.checks import check
from redis_state.errors import VersionConflictError
from redis_state.models import S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from datetime import timedelta

    from redis_state.protocol import StateStore


_PATIENCE: Final = 0.1  # seconds that an update waits for those ahead of it


class _Versioned(Protocol):
    version: int


class Lines:
    """Lets the updates of one session go one after the other, once some of this process have met.

    Without that, of many that start together one succeeds and the others have worked in vain, again and again.

    All of its state:
        locks: for each session that is contended, a lock, as long as somebody holds it or waits for it.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, session: tuple[str, str], *, contended: bool) -> AsyncGenerator[None]:
        """Wait for a turn, where there is a line or one is needed, but not long: the one ahead may be slow."""
        lock = self._locks.get(session)
        if lock is None and contended:
            lock = self._locks[session] = asyncio.Lock()
        has_turn = False
        if lock is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    has_turn = await lock.acquire()
        try:
            yield
        finally:
            if lock is not None and has_turn:
                lock.release()


async def update(
    store: StateStore[S],
    lines: Lines,
    agent_id: str,
    session_id: str,
    fn: Callable[[S], Any | Awaitable[Any]],
    *,
    attempts: int,
    ttl: timedelta | None,
) -> S:
    """See `SessionStore.update`."""
    check("fn", fn)
    check("attempts", attempts)
    for attempt in range(1, attempts + 1):
        async with lines.turn((agent_id, session_id), contended=attempt > 1):
            state = await store.load(agent_id, session_id)
            version = cast("_Versioned", state).version
            result = fn(state)
            if inspect.isawaitable(result):
                result = await result
            _check_change(agent_id, session_id, state, result)
            try:
                await cast("StateStore[Any]", store).save(state, if_version=version, ttl=ttl)
            except VersionConflictError:
                if attempt == attempts:
                    raise
            else:
                return state
        await asyncio.sleep(random.random() * min(0.1, 0.001 * 2 ** min(attempt, 10)))
    raise AssertionError  # the last attempt returned or raised


def _check_change(agent_id: str, session_id: str, state: Any, result: object) -> None:
    """Refuse what would write another session, or drop what the function returned."""
    if result is not state and isinstance(result, type(state)):
        kind = type(state).__name__
        raise TypeError(f"the function of update() returned another {kind} than it was given: change that one in place")
    if state.agent_id != agent_id or state.session_id != session_id:
        raise ValueError(
            f"update() writes the session that it loaded, {session_id!r} of agent {agent_id!r}, but the function has "
            "changed the ids; to make another session, save the state under them"
        )
