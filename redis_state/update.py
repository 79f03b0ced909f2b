"""Load, change, save if nobody else has: again until it holds."""

from __future__ import annotations

import asyncio
import inspect
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from weakref import WeakValueDictionary

from redis_state.checks import check
from redis_state.errors import VersionConflictError
from redis_state.models import S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from datetime import timedelta

    from redis_state.protocol import StateStore


_PATIENCE: Final = 0.1  # seconds that an update waits for those ahead of it while none of them ends


class _Versioned(Protocol):
    version: int


class _Line:
    """The updates of one session that go one after the other.

    Attributes:
        lock: Whose turn it is.
        ended: How many attempts have ended, also of those who are in no line.
    """

    __slots__ = ("__weakref__", "ended", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.ended = 0

    async def wait(self) -> bool:
        """Wait for a turn as long as the line moves: the one ahead may be slow. Returns whether it has come."""
        turn = asyncio.ensure_future(self.lock.acquire())
        try:
            before = -1
            while not turn.done() and before != self.ended:
                before = self.ended
                await asyncio.wait((turn,), timeout=_PATIENCE)
        except asyncio.CancelledError:
            if turn.done():
                self.lock.release()
            raise
        finally:
            if not turn.done():
                turn.cancel()
        return turn.done() and not turn.cancelled()


class Lines:
    """Lets the updates of one session go one after the other, once some of this process have met.

    Without that, of many that start together one succeeds and the others have worked in vain, again and again.

    All of its state:
        lines: for each session that is contended, its line, as long as somebody is in it.
    """

    def __init__(self) -> None:
        self._lines: WeakValueDictionary[tuple[str, str], _Line] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, session: tuple[str, str], *, contended: bool) -> AsyncGenerator[None]:
        """Wait for a turn, where there is a line or one is needed."""
        line = self._lines.get(session)
        if line is None and contended:
            line = self._lines[session] = _Line()
        has_turn = line is not None and await line.wait()
        try:
            yield
        finally:
            if line is not None and has_turn:
                line.lock.release()
            if (line := self._lines.get(session)) is not None:
                line.ended += 1


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
