"""The connections to one server, and what waits for them."""

from __future__ import annotations

import asyncio
import errno
import random
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis.exceptions import MaxConnectionsError

from redis_state.commands.request import LARGE
from redis_state.errors import printable
from redis_state.redis_py.failure import Failure, describe
from redis_state.redis_py.topology import detach_transport
from redis_state.transport.connection import Connection

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Coroutine, Sequence

    from redis_state.commands.replies import ReplyError
    from redis_state.commands.request import Request
    from redis_state.config.limits import Limits
    from redis_state.redis_py.topology import Server

_FIRST_PAUSE, _LAST_PAUSE = 0.02, 0.5  # seconds between two attempts to connect, about
_ENOUGH: Final = 1.0  # seconds without an attempt at one more connection after one has failed


class Dispatcher(Protocol):
    """What a pool reports to: see `redis_state.transport.dispatcher`."""

    limits: Limits
    log: logging.Logger

    def settle(self, request: Request, result: Any = None, error: BaseException | None = None) -> None: ...
    def refused(self, pool: NodePool, connection: Connection, request: Request, error: ReplyError) -> None: ...
    def replicated(self, request: Request, result: Any, replicas: int) -> None: ...
    def give_back(self, requests: Sequence[Request], *, executed: bool) -> None: ...
    def lost(self, pool: NodePool) -> None: ...
    def opened(self, pool: NodePool) -> None: ...
    def unreachable(self, pool: NodePool, failure: Failure) -> None: ...
    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...


class NodePool:
    """Sends requests to one server.

    They go out in the same turn of the event loop in which they came, all of them in one write, on the first connection
    that is not congested. Large ones go alone, on an idle connection. Another one is opened only when none will do.

    All of its state:
        queue: small requests that are not sent, oldest first.
        large: large ones.
        connections: the open connections, first opened first.
        limit: how many there may be.
        dialing: the task that opens another, if one does.
        flushing: whether a flush will run in this turn of the loop.
        dials_from: when another connection may be opened again, by the loop's clock.
        closed: whether nothing may be opened any more.

    Args:
        server: How to connect.
        owner: What it reports to.
    """

    def __init__(self, server: Server, owner: Dispatcher) -> None:
        self.server = server
        self.limits = owner.limits
        self.log = owner.log
        self.queue: deque[Request] = deque()
        self.large: deque[Request] = deque()
        self.connections: list[Connection] = []
        self.limit = owner.limits.pool_size
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._dialing: asyncio.Task[None] | None = None
        self._flushing = False
        self._dials_from = 0.0
        self._closed = False
        # What connections report and the dispatcher takes as it is.
        self.settle = owner.settle
        self.replicated = owner.replicated
        self.give_back = owner.give_back

    def __repr__(self) -> str:
        in_flight = sum(len(connection.inflight) for connection in self.connections)
        queued = len(self.queue) + len(self.large)
        return f"<{self.server.name}: {len(self.connections)} connections, {in_flight} in flight, {queued} queued>"

    def push(self, request: Request) -> None:
        """Take a request. A lone one goes straight out, others at the end of this turn of the loop."""
        if len(request.payload) > LARGE:
            self.large.append(request)
        else:
            self.queue.append(request)
            if not self._flushing and self.connections and not self.connections[0].inflight:
                self.flush()
                return
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush_soon(self) -> None:
        """Flush at the end of this turn of the loop."""
        if not self._flushing and (self.queue or self.large):
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what waits, as far as connections take it; open another where they do not."""
        self._flushing = False
        while self.large and (connection := self._choose_for_large()) is not None:
            connection.send(self.large)
        while self.queue and (connection := self._choose()) is not None:
            connection.send(self.queue)
        if (self.queue or self.large) and not self._closed and self._may_dial():
            self._dialing = self._owner.spawn(self._dial())

    def _choose(self) -> Connection | None:
        """The first connection that takes a small request at once."""
        for connection in self.connections:
            if not connection.congested and connection.usable:
                return connection
        return None

    def _choose_for_large(self) -> Connection | None:
        """An idle connection; any that is not congested where the pool has no more."""
        usable = [each for each in self.connections if each.usable and not each.congested]
        idle = next((each for each in usable if not each.inflight), None)
        if idle is None and usable and (len(self.connections) >= self.limit or self._loop.time() < self._dials_from):
            return min(usable, key=lambda each: len(each.inflight))
        return idle

    def _may_dial(self) -> bool:
        return (
            self._dialing is None
            and sum(connection.usable for connection in self.connections) < self.limit
            and (not self.connections or self._loop.time() >= self._dials_from)
        )

    async def _dial(self) -> None:
        """Open one more connection. Where there is none, try until there is one or nobody waits for it."""
        pause = _FIRST_PAUSE
        try:
            while True:
                failure = await self._open()
                if failure is None:
                    break
                self.log.debug("not connected: %s", failure.reason)
                if any(connection.usable for connection in self.connections):
                    self._dials_from = self._loop.time() + _ENOUGH
                    break
                self._owner.unreachable(self, failure)
                self.forget_settled()
                if self._closed or not (self.queue or self.large):
                    break
                await asyncio.sleep(pause * (0.5 + random.random() / 2))
                pause = min(_LAST_PAUSE, pause * 2)
        finally:
            self._dialing = None
        self.flush()

    async def _open(self) -> Failure | None:
        server = self.server
        try:
            async with asyncio.timeout(self.limits.dial_timeout):
                opened = await server.open(wait=not self.connections)
        except MaxConnectionsError:
            if self.connections:
                self.limit = len(self.connections)  # the caller's pool is smaller than was asked for
            return describe(None, server.name, tls=server.tls)
        except Exception as error:  # noqa: BLE001  # redis-py raises its own errors, OSError, ssl's and asyncio's
            return describe(error, server.name, tls=server.tls)
        if self._closed:  # the node has gone while this was under way
            await server.close(opened)
            return None
        transport = detach_transport(opened)
        if transport.is_closing():  # lost already, which only redis-py was told
            await server.close(opened)
            return describe(ConnectionResetError(errno.ECONNRESET, ""), server.name, tls=server.tls)
        self.connections.append(Connection(self, opened, transport))
        self.log.debug("connected to %s, %d of %d", printable(server.name), len(self.connections), self.limit)
        self._owner.opened(self)
        return None

    # What connections report

    def refused(self, connection: Connection, request: Request, error: ReplyError) -> None:
        """Deal with an error reply."""
        self._owner.refused(self, connection, request, error)

    def lost(self, connection: Connection, *, in_doubt: bool) -> None:
        """Forget a connection that is gone, and have it closed.

        What the server has received on it and not read yet is executed before anything on a connection that is opened
        later, but perhaps after what is sent on one that is open: so writes in doubt are sent again on a new one.
        """
        if connection in self.connections:
            self.connections.remove(connection)
        if in_doubt:
            for other in list(self.connections):
                other.drain()
        self._owner.spawn(self.server.close(connection.opened))
        self._owner.lost(self)
        self.flush_soon()

    # What the dispatcher asks for

    def check(self, now: float) -> float:
        """Close connections that are silent. Returns when to look again, infinity if all are idle."""
        self.forget_settled()
        return min((connection.check(now) for connection in list(self.connections)), default=float("inf"))

    def forget_settled(self) -> None:
        """Drop what was settled while it waited."""
        for queue in (self.queue, self.large):
            if any(request.future.done() for request in queue):
                waiting = [request for request in queue if not request.future.done()]
                queue.clear()
                queue.extend(waiting)

    def take(self, wanted: Callable[[Request], bool]) -> list[Request]:
        """Give back the requests that were not sent, those that are wanted."""
        taken: list[Request] = []
        for queue in (self.large, self.queue):
            everything = list(queue)
            queue.clear()
            queue.extend(request for request in everything if not wanted(request))
            taken += [request for request in everything if wanted(request)]
        return taken

    def drain(self, keep: Callable[[Any], bool]) -> None:
        """Take no connection any more that is not to be kept, by what redis-py knows of it."""
        for connection in list(self.connections):
            if not keep(connection.opened):
                connection.drain()

    def close(self) -> None:
        """Close every connection and open none any more."""
        self._closed = True
        if self._dialing is not None:
            self._dialing.cancel()
        for connection in list(self.connections):
            connection.abort()
