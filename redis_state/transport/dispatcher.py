"""Where a request goes, what becomes of it when it is refused or lost, and until when."""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING, Any

from redis_state.errors import NotReplicatedError, StoreUnavailableError
from redis_state.transport import replies
from redis_state.transport.node_pool import NodePool
from redis_state.transport.pending import PendingRequests, unanswered
from redis_state.transport.replies import ReplyError, Verdict
from redis_state.transport.request import Replay, Request
from redis_state.transport.routes import Routes

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from redis_state.limits import Limits
    from redis_state.redis_py.failure import Failure
    from redis_state.redis_py.topology import Server, Topology
    from redis_state.transport.connection import Connection

_LOST_AT_ONCE = 24  # attempts without a pause while connections are made and lost again


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
        only: the pool that takes every request at once; None where that needs a closer look.
        opened: whether the servers were found fit; until then requests wait in `unopened`.
        connected: whether any connection was ever made. Before, a failure is reported at once.
        retries: requests that wait for their next attempt, a heap by time.
        held: writes that wait for the end of a failover, while `failover` says until when at most, by the loop's clock.
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
        self.pending = PendingRequests(self._start, limits.replicas, limits.dial_timeout)
        self.settle = self.pending.settle
        self.routes = Routes(topology, limits.dial_timeout, self)
        self.pools: dict[str, NodePool] = {}
        self.connected = False
        self._on_connect = on_connect
        self._loop = asyncio.get_running_loop()
        self._only: NodePool | None = None
        self._opened = False
        self._unopened: list[Request] = []
        self._retries: list[tuple[float, int, Request]] = []
        self._retried = 0
        self._failover: float | None = None
        self._held: list[Request] = []
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
            self._wake_in(self._tick_every)
        self.pending.add(request)

    def submit_early(self, request: Request) -> None:
        """Take a request before the servers were found fit."""
        request.deadline = self._loop.time() + self._patience
        self._wake_in(self._tick_every)
        self.pending.add_started(request)
        self._route(request)

    def open(self) -> None:
        """Let requests pass."""
        self._opened = True
        waiting, self._unopened = self._unopened, []
        for request in waiting:
            self._start(request)

    def _start(self, request: Request) -> None:
        only = self._only
        if only is not None:
            only.push(request)
        elif self._opened:
            self._route(request)
        else:
            self._unopened.append(request)

    # Routes

    def _route(self, request: Request) -> None:
        if request.future.done():
            self.settle(request)  # to end its turn
            return
        if self._failover is not None and request.writes:
            self._held.append(request)
            return
        server = self.routes.find(request)
        if server is not None:
            self._pool(server).push(request)
        elif request.node is not None and self.topology.names():
            self.settle(request, error=NodeGoneError(f"{request.node} is no node of the cluster any more"))
        else:
            self.routes.wait(request)

    def _pool(self, server: Server) -> NodePool:
        pool = self.pools.get(server.name)
        if pool is None:
            pool = self.pools[server.name] = NodePool(server, self)
        if self._opened and self._only is None and not self.topology.is_cluster and self._failover is None:
            self._only = pool
        return pool

    def _route_all(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._route(request)

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
            if not self.topology.is_cluster:
                self._watching = self.spawn(self.topology.watch(self))

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

    def give_back(self, requests: Sequence[Request], *, executed: bool) -> None:
        """Take back requests whose replies are lost: what may be repeated is sent again."""
        for request in requests:
            request.asking = False
            if request.future.done():
                self.settle(request)  # to end its turn
            elif not executed:
                self._retry(request)
            elif request.replay is Replay.NEVER:
                self.settle(request, error=unanswered())
            else:
                request.sent = True
                if request.replay is Replay.GUARDED:
                    request.become_script()
                self._retry(request, at_once=_LOST_AT_ONCE)  # the fewer writes come in between, the surer it is settled

    def refused(self, pool: NodePool, connection: Connection, request: Request, error: ReplyError) -> None:
        """Deal with an error reply: the request was not executed."""
        verdict = replies.classify(error)
        if request.future.done():
            self.settle(request)
        elif verdict in (Verdict.REFUSED, Verdict.DISCONNECTED):
            # Refused now, but it may have happened the first time.
            self.settle(request, error=unanswered() if request.sent and request.writes else replies.refusal(error))
        elif verdict in (Verdict.MOVED, Verdict.ASK):
            self._redirect(pool, request, error, ask=verdict is Verdict.ASK)
        else:
            if verdict is Verdict.ELSEWHERE:
                connection.drain()
            if self.topology.is_cluster and error.code in _ASKS_FOR_ROUTES:
                self.routes.learn()
            if verdict is not Verdict.RELOAD:
                request.attempts = max(request.attempts, replies.AT_ONCE)  # the server asks for patience
            self._retry(request, error.code)

    def replicated(self, request: Request, result: Any, replicas: int) -> None:
        """Settle a write by the number of replicas that confirmed it."""
        wanted = self.limits.replicas
        if replicas >= wanted:
            self.settle(request, result)
        else:
            self.settle(request, error=NotReplicatedError(wanted, replicas))

    def _redirect(self, pool: NodePool, request: Request, error: ReplyError, *, ask: bool) -> None:
        slot, host, port = replies.redirection(error)
        server = self.topology.at(host or pool.server.host, port)
        if server is None:  # a plain client, but the server is part of a cluster
            self.settle(request, error=unanswered() if request.sent and request.writes else replies.refusal(error))
            return
        if not ask:
            self.routes.moved(slot, server)
            self._retry(request, error.code)
            return
        request.attempts += 1
        request.why = error.code
        if request.attempts > _LOST_AT_ONCE:
            self._retry(request, error.code)
            return
        request.asking = True
        if request.script is None:  # a slot on the move takes single commands only
            request.become_script()
        self._pool(server).push(request)

    # Retries and ends

    def _retry(self, request: Request, why: str = "", *, at_once: int = replies.AT_ONCE) -> None:
        """Send a request again, after a while if this is not the first time."""
        request.attempts += 1
        request.why = why or request.why
        self.log.debug("attempt %d after: %s", request.attempts + 1, request.why or "connection lost")
        delay = 0.0 if request.attempts <= at_once else replies.backoff(request.attempts)
        if delay:
            self._retried += 1
            heapq.heappush(self._retries, (self._loop.time() + delay, self._retried, request))
            self._wake_in(delay)
        else:
            self._route(request)

    def _fail(self, requests: Iterable[Request], failure: Failure) -> None:
        """Fail requests that no server takes."""
        for request in requests:
            lost = request.sent and request.writes
            self.settle(request, error=unanswered() if lost else failure.error())

    # Sentinel

    def failover_begins(self) -> None:
        """Hold writes: what the old primary acknowledges from now on may be lost. It must end within the budget."""
        self.log.debug("a failover begins: writes wait")
        self._failover = self._loop.time() + self.limits.budget
        self._only = None
        for pool in self.pools.values():
            self._held += pool.take(lambda request: request.writes)
        self._wake_in(self.limits.budget)

    def failover_ends(self) -> None:
        """Send the writes that were held."""
        if self._failover is not None:
            self.log.debug("the failover has ended")
            self._failover = None
            held, self._held = self._held, []
            self._route_all(held)

    def primary_is(self, host: str, port: int) -> None:
        """Leave connections to any other server: it may go on taking writes for long, and they would be lost."""
        for pool in self.pools.values():
            pool.drain(lambda opened: (opened.host, opened.port) == (host, port))

    def _reconnect(self) -> None:
        """Leave every connection: new ones have the new credentials."""
        for pool in self.pools.values():
            pool.drain(lambda _: False)

    # The timer

    def _wake_in(self, seconds: float) -> None:
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
        following = self.pending.expire(now)
        for pool in list(self.pools.values()):
            following = min(following, pool.check(now))
        while self._retries and self._retries[0][0] <= now:
            request = heapq.heappop(self._retries)[2]
            if request.script is not None and not request.sent and not request.future.done():
                request.become_script()  # more may have been seen by now, which makes a replay surer
            self._route(request)
        if self._failover is not None and self._failover <= now:
            self.failover_ends()
        self._unopened = [request for request in self._unopened if not request.future.done()]
        self._held = [request for request in self._held if not request.future.done()]
        self.routes.forget_settled()
        if self._retries:
            following = min(following, self._retries[0][0])
        if self._failover is not None:
            following = min(following, self._failover)
        if following < float("inf"):
            self._wake_in(min(max(following - now, 0.0), self._tick_every))

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
        self._retries.clear()
        self._held.clear()
        self._unopened.clear()

    async def _disconnect(self) -> None:
        self._only = None
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


_ASKS_FOR_ROUTES = frozenset({"READONLY", "CLUSTERDOWN", "UNBLOCKED"})
