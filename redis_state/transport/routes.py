"""Which server a request goes to, and how that is learned."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis_state.redis_py.failure import Failure, describe

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from redis_state.commands.request import Request
    from redis_state.redis_py.topology import Server, Topology

_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0  # seconds between two questions for the slot map
_QUIET: Final = 2.0  # seconds without a question after which the pause is the first one again


class Learner(Protocol):
    """Who uses the routes: see `redis_state.transport.dispatcher`."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...

    def routes_learned(self) -> None:
        """The routes were learned; some may be as they were."""
        ...

    def routes_failed(self, failure: Failure) -> None:
        """The routes could not be learned."""
        ...


class Routes:
    """The routes of a topology, learned by one task with a pause that grows.

    All of its state:
        moved: where a redirect said that a slot is, until the slot map has been learned.
        waiting: requests that no server takes as far as is known.
        task: the one that learns, if it runs.
        stale: whether something has shown since the last question that the map is not as it was.
        failed: the server that showed it; it is asked only if no other answers.
        asked: when the slot map was asked for last, by the loop's clock.
        pause: seconds from then to the next question.

    Args:
        topology: Which servers there are.
        timeout: Seconds for one question.
        learner: Who is told.
    """

    def __init__(self, topology: Topology, timeout: float, learner: Learner) -> None:
        self.topology = topology
        self.waiting: list[Request] = []
        self._timeout = timeout
        self._learner = learner
        self._moved: dict[int | None, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._stale = False
        self._failed = ""
        self._asked = float("-inf")
        self._pause = _FIRST_PAUSE

    def find(self, request: Request) -> Server | None:
        """The server for a request; None where it is not known, or gone."""
        name = request.node or self._moved.get(request.slot)
        return self.topology.named(name) if name is not None else self.topology.route(request.slot)

    def wait(self, request: Request) -> None:
        """Keep a request that no server takes until one does."""
        self.waiting.append(request)
        self.learn()

    def moved(self, slot: int, server: Server) -> None:
        """Note what a redirect said."""
        routed = self.topology.route(slot)
        if routed is None or routed.name != server.name:  # else it was learned while the request was under way
            self._moved[slot] = server.name
            self.learn()

    def learn(self, failed: str = "") -> None:
        """Have the routes learned anew."""
        self._stale = True
        self._failed = failed or self._failed
        if self._task is None:
            self._task = self._learner.spawn(self._learn())

    def forget_settled(self) -> None:
        """Drop what was settled while it waited."""
        self.waiting = [request for request in self.waiting if not request.future.done()]

    def close(self) -> None:
        """Ask for nothing any more."""
        if self._task is not None:
            self._task.cancel()

    async def _learn(self) -> None:
        try:
            while self._stale:
                loop = asyncio.get_running_loop()
                since = loop.time() - self._asked
                if since < self._pause:
                    await asyncio.sleep(self._pause - since)
                self._pause = _FIRST_PAUSE if since > _QUIET else min(_LAST_PAUSE, self._pause * 2)
                self._stale, failed, self._failed = False, self._failed, ""
                self._asked = loop.time()
                failure = await self._ask(failed)
                if failure is None:
                    self._moved.clear()
                    self._learner.routes_learned()  # it may route again what still waits, which makes this stale
                else:
                    self._learner.routes_failed(failure)
                    self.forget_settled()
                    self._stale = self._stale or bool(self.waiting)
        finally:
            self._task = None

    async def _ask(self, failed: str) -> Failure | None:
        try:
            async with asyncio.timeout(self._timeout):
                await self.topology.learn(failed)
        except Exception as error:  # noqa: BLE001  # redis-py raises its own errors, OSError, ssl's and asyncio's
            return describe(error, self.topology.name, tls=self.topology.tls)
        return None
