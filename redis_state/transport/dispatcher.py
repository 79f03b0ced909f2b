"""Where a request goes, what becomes of it when it is refused or lost, and until when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis_state.errors import NotReplicatedError, StoreUnavailableError
from redis_state.transport.node_pool import NodePool
from redis_state.transport.outcomes import unanswered
from redis_state.transport.pending import PendingRequests
from redis_state.transport.recovery import Recovery
from redis_state.transport.routes import Routes
from redis_state.transport.waiting import FailoverGate

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Coroutine, Iterable

    from redis_state.commands.replies import ReplyError
    from redis_state.commands.request import Request
    from redis_state.config.limits import Limits
    from redis_state.redis_py.failure import Failure
    from redis_state.redis_py.topology import Server, Topology
    from redis_state.transport.connection import Connection


_LONGEST_FAILOVER = 60.0  # seconds after which writes are held no more, if nobody says that it has ended


class NodeGoneError(StoreUnavailableError):
    """Raised when a request was bound to a node that has left the cluster."""


class Dispatcher:
    """Sends requests to the servers that take them, until they are settled.

    A request that is pending is in one place: in the queue of a pool, in flight on a connection, or in one of the lists
    below. Every list may hold settled ones; who takes from it leaves them out.

    All of its state:
        pending: the table of requests.
        routes: which server takes what, and the requests that wait for a route.
        pools: the connections, by the name of the server.
        opened: whether the servers were found fit; until then requests wait in `unopened`.
        connected: whether any connection was ever made. Before, a failure is reported at once.
        recovery: what was refused or lost, and waits for its next attempt.
        gate: writes that wait for the end of a failover.
        timer: the one timer, while anything is pending or in flight.
        tasks: what runs beside: dialing, closing, learning routes; `watching` is the one that listens to Sentinels.

    Args:
        topology: Which servers there are.
        limits: Times and counts.
        log: Where debug lines go.
        on_connect: Called with the name of a server that is connected, for the first time or again.
    """

    def __init__(
        self, topology: Topology, limits: Limits, log: logging.Logger, on_connect: Callable[[str], None]
    ) -> None:
        self.limits = limits
        self.log = log
        self.pending = PendingRequests(self._start, limits.dial_timeout)
        self.settle = self.pending.settle
        self.routes = Routes(topology, limits.dial_timeout, self)
        self.pools: dict[str, NodePool] = {}
        self.connected = False
        self._on_connect = on_connect
        self._loop = asyncio.get_running_loop()
        self._opened = False
        self._unopened: list[Request] = []
        self.recovery = Recovery(self)
        self.give_back = self.recovery.give_back
        self._gate = FailoverGate()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        self._patience = limits.budget + limits.dial_timeout
        self._tick_every = limits.read_timeout / 4

    def __repr__(self) -> str:
        pools = [pool for pool in self.pools.values() if pool.connections or pool.queue]
        return f"<{len(self.pending)} pending, {len(self._tasks)} tasks, {pools}>"

    @property
    def topology(self) -> Topology:
        """Which servers there are."""
        return self.routes.topology

    # Taking requests

    def submit(self, request: Request) -> None:
        """Take a request with a future; it is settled within the budget, the first ones after the time to connect."""
        request.deadline = self._loop.time() + self._patience
        if self._timer is None:
            self.wake_in(self._tick_every)
        self.pending.add(request)

    def submit_early(self, request: Request) -> None:
        """Take a request before the servers were found fit."""
        request.deadline = self._loop.time() + self._patience
        self.wake_in(self._tick_every)
        self.pending.add_started(request)
        self.route(request)

    def hold(self, request: Request) -> None:
        """Take a request that is begun later."""
        request.deadline = self._loop.time() + self._patience
        self.wake_in(self._tick_every)
        self.pending.add_started(request)

    def open(self) -> None:
        """Let requests pass."""
        self._opened = True
        waiting, self._unopened = self._unopened, []
        for request in waiting:
            self._start(request)

    def _start(self, request: Request) -> None:
        if self._opened:
            self.route(request)
        else:
            self._unopened.append(request)

    # Routes

    def route(self, request: Request) -> None:
        if request.future.done():
            self.settle(request)  # to end its turn
            return
        if self._gate.is_shut and request.writes:
            self._gate.hold([request])
            return
        server = self.routes.find(request)
        if server is not None:
            self._pool(server).push(request)
        elif request.node is not None and self.topology.names():
            self.settle(request, error=NodeGoneError(f"{request.node} is no node of the cluster any more"))
        else:
            self.routes.wait(request)

    def send_to(self, server: Server, request: Request) -> None:
        """Send a request to a server, whatever the routes say."""
        self._pool(server).push(request)

    def _pool(self, server: Server) -> NodePool:
        pool = self.pools.get(server.name)
        if pool is None:
            pool = self.pools[server.name] = NodePool(server, self)
        if self._opened and not self.topology.is_cluster and not self._gate.is_shut:
            self.pending.start = pool.push  # there is no other way, and nothing to look at
        return pool

    def _route_all(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.route(request)

    def routes_learned(self) -> None:
        """Route anew what waits, and leave the servers that have none."""
        waiting, self.routes.waiting = self.routes.waiting, []
        for name in [name for name in self.pools if self.topology.named(name) is None]:
            pool = self.pools.pop(name)
            waiting += pool.take(lambda _: True)
            pool.close()
        for pool in self.pools.values():  # a slot may be elsewhere now
            waiting += pool.take(lambda request, pool=pool: self.routes.find(request) is not pool.server)
        self._route_all(waiting)

    def routes_failed(self, failure: Failure) -> None:
        """Fail what waits, where waiting longer is no use."""
        if failure.final or not self.connected:
            waiting, self.routes.waiting = self.routes.waiting, []
            self._fail(waiting, failure)
        else:
            for request in self.routes.waiting:
                request.why = request.why or failure.reason

    # What pools report

    def opened(self, pool: NodePool) -> None:
        """Take note of a connection."""
        if len(pool.connections) == 1:
            self._on_connect(pool.server.name)
        if not self.connected:
            self.connected = True
            self._patience = self.limits.budget
            self.topology.on_new_credentials(self._reconnect)
            watch = self.topology.watch(self)
            if watch is not None:
                self._watching = self.spawn(watch)

    def unreachable(self, pool: NodePool, failure: Failure) -> None:
        """Deal with a server that cannot be connected to."""
        if failure.final or not self.connected:
            self._fail(pool.take(lambda _: True), failure)
            return
        for request in (*pool.queue, *pool.large):
            request.why = request.why or failure.reason
        if self.topology.is_cluster:
            self.routes.learn(pool.server.name)

    def lost(self, pool: NodePool) -> None:
        """Take note of a lost connection: the slot map may have changed."""
        if self.topology.is_cluster and not self._closed:
            self.routes.learn(pool.server.name)

    def refused(self, pool: NodePool, connection: Connection, request: Request, error: ReplyError) -> None:
        """Deal with an error reply."""
        self.recovery.refused(pool.server, connection, request, error)

    def replicated(self, request: Request, result: Any, replicas: int) -> None:
        """Settle a write by the number of replicas that confirmed it."""
        if replicas >= request.replicas:
            self.settle(request, result)
        else:
            self.settle(request, error=NotReplicatedError(request.replicas, replicas))

    # Ends

    def _fail(self, requests: Iterable[Request], failure: Failure) -> None:
        """Fail requests that no server takes."""
        for request in requests:
            lost = request.sent and request.writes
            self.settle(request, error=unanswered() if lost else failure.error())

    # Sentinel

    def hold_writes(self) -> None:
        """Hold writes, each as long as it has time: what the old primary acknowledges from now on may be lost."""
        if self._closed:
            return
        self.log.debug("a failover is under way, or may be: writes wait")
        self._gate.shut(self._loop.time() + _LONGEST_FAILOVER)
        self.pending.start = self._start
        for pool in self.pools.values():
            self._gate.hold(pool.take(lambda request: request.writes))
        self.wake_in(self._tick_every)

    def release_writes(self) -> None:
        """Send the writes that were held."""
        if self._gate.is_shut:
            self.log.debug("writes go on")
            self._route_all(self._gate.open())

    def primary_is(self, host: str, port: int) -> None:
        """Leave connections to any other server: it may go on taking writes for long, and they would be lost."""
        for pool in self.pools.values():
            pool.drain(lambda opened: (opened.host, opened.port) == (host, port))

    def _reconnect(self) -> None:
        """Leave every connection: new ones have the new credentials."""
        for pool in self.pools.values():
            pool.drain(lambda _: False)

    # The timer

    def wake_in(self, seconds: float) -> None:
        """Look after what is pending at that time at the latest."""
        when = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        """Settle what is late, close what is silent, send again what has waited."""
        self._timer = None
        now = self._loop.time()
        following = now  # whatever happens, there is a next time
        try:
            following = self.pending.expire(now)
            for pool in list(self.pools.values()):
                following = min(following, pool.check(now))
            self.recovery.resume(now)
            if self._gate.until <= now:
                self.release_writes()
            self._unopened = [request for request in self._unopened if not request.future.done()]
            self._gate.forget_settled()
            self.routes.forget_settled()
            following = min(following, self.recovery.retries.due, self._gate.until)
        finally:
            if following < float("inf"):
                self.wake_in(min(max(following - now, 0.001), self._tick_every))

    # Tasks

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside, until it ends or the dispatcher is closed."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def replace(self, topology: Topology) -> None:
        """Use other servers: the one that is known is part of a cluster. Nothing but the opening is under way."""
        await self._disconnect()
        self.routes = Routes(topology, self.limits.dial_timeout, self)
        self.connected = False
        self._patience = self.limits.budget + self.limits.dial_timeout

    async def close(self) -> None:
        """Close every connection and end every task. What is pending must have been settled."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._disconnect()
        self.recovery.retries.clear()
        self._gate.open()
        self._unopened.clear()

    async def _disconnect(self) -> None:
        self.pending.start = self._start
        self.routes.close()
        pools = list(self.pools.values())
        self.pools.clear()
        for pool in pools:
            pool.close()
        if self._watching is not None:
            self._watching.cancel()
        while True:
            await asyncio.sleep(0)  # connections report their loss, and a task closes each
            if not self._tasks:
                break
            await asyncio.wait(self._tasks)
        await self.topology.aclose()
