"""An event loop with virtual time: when nothing is ready, the clock jumps to the next event."""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

TURN: Final = 1e-5  # virtual seconds that one turn of the loop takes
MAX_TURNS: Final = 12_000  # in one virtual second; a few requests a millisecond stay far below


class DeadlockError(Exception):
    """Raised when tasks wait and nothing is left that could wake them."""


class BusyLoopError(Exception):
    """Raised when the loop turns more often in a virtual second than any sensible work needs."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks as asyncio does, and draws the order wherever asyncio leaves it open.

    Callbacks of `call_soon` run in the order of their registration, as asyncio promises. Events of independent
    sources that are due at once, and timers of the same time, run in a drawn order.

    Args:
        rng: Draws the order.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._now = 1000.0
        self._events: list[tuple[float, float, Callable[[], object]]] = []
        self._second = 0
        self._turns = 0
        self.turns = 0
        self.most_turns = 0
        self.problems: list[str] = []
        self.network: Any = None
        self.set_exception_handler(self._note_problem)

    def time(self) -> float:
        return self._now

    def happen(self, when: float, event: Callable[[], object]) -> None:
        """Let something happen in the world: it is no timer of the library's."""
        heapq.heappush(self._events, (when, self._rng.random(), event))

    def freeze(self, seconds: float) -> None:
        """Let time pass in which the loop runs nothing, as a long callback would."""
        self._now += seconds

    def timers(self) -> list[asyncio.TimerHandle]:
        """The timers that are still set."""
        scheduled: list[asyncio.TimerHandle] = cast("Any", self)._scheduled
        return [handle for handle in scheduled if not handle.cancelled()]

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        return await self.network.connect(protocol_factory, host, port)

    def _note_problem(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error, task = context.get("exception"), context.get("task") or context.get("future")
        coroutine = cast("Any", task).get_coro() if isinstance(task, asyncio.Task) else None
        whose = f" in {coroutine.__qualname__}" if coroutine is not None else ""
        self.problems.append(f"{context['message']}: {error!r}{whose}")

    def _run_once(self) -> None:
        inside = cast("Any", self)
        ready = inside._ready
        scheduled = inside._scheduled
        while scheduled and scheduled[0].cancelled():
            self._forget(heapq.heappop(scheduled))
        if not ready and not inside._stopping:
            due = [heap[0][0] for heap in (self._events,) if heap] + [timer.when() for timer in scheduled[:1]]
            if not due:
                raise DeadlockError
            self._now = max(self._now, min(due))
        self._count()
        while self._events and self._events[0][0] <= self._now:
            ready.append(asyncio.Handle(heapq.heappop(self._events)[2], (), self))
        timers: list[tuple[float, float, Any]] = []
        while scheduled and scheduled[0].when() <= self._now:
            handle = heapq.heappop(scheduled)
            if handle.cancelled():
                self._forget(handle)
            else:
                handle._scheduled = False
                timers.append((handle.when(), self._rng.random(), handle))
        ready.extend(handle for _, _, handle in sorted(timers, key=lambda timer: timer[:2]))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
        self._now += TURN

    def _forget(self, handle: Any) -> None:
        cast("Any", self)._timer_cancelled_count -= 1
        handle._scheduled = False

    def _count(self) -> None:
        self.turns += 1
        second = int(self._now)
        if second != self._second:
            self._second, self._turns = second, 0
        self._turns += 1
        self.most_turns = max(self.most_turns, self._turns)
        if self._turns > MAX_TURNS:
            raise BusyLoopError

    def _write_to_self(self) -> None:
        """Nothing sleeps that would have to be woken."""
