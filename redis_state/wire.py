"""Operations in, results out: routes, retries, deadlines, backpressure, close.

An operation is always in exactly one place: a channel's queue, a lane's flight, or a delay before it is tried again. It
moves between them only here, and leaves by its future. No task is started for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from redis_state import replies
from redis_state.channel import Channel
from redis_state.connect import Failure, describe
from redis_state.errors import NotReplicatedError, OutcomeUnknownError, StoreTimeoutError
from redis_state.home import Home
from redis_state.lane import BULK
from redis_state.limits import Limits
from redis_state.operation import Replay
from redis_state.replies import Verdict
from redis_state.traffic import MAX_PENDING, Traffic

if TYPE_CHECKING:
    import logging
    from collections.abc import Coroutine, Iterable, Sequence

    from redis_state.connect import Dialer, Router
    from redis_state.lane import Lane
    from redis_state.operation import Operation

_LOST_AT_ONCE: Final = 24  # attempts without a pause while connections are made and lost again
_WATCH_INTERVAL: Final = 0.5  # seconds between two questions to the Sentinels


class Node:
    """One server: a channel for most operations and one for large ones, which would hold the others up."""

    __slots__ = ("bulk", "fast")

    def __init__(self, wire: Wire, dialer: Dialer) -> None:
        limit = wire.limits.pool_size
        self.fast = Channel(wire, dialer, max(1, limit - limit // 2), essential=True)
        self.bulk = Channel(wire, dialer, limit // 2, essential=False) if limit > 1 else self.fast

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Both channels, or the one that serves as both."""
        return (self.fast,) if self.bulk is self.fast else (self.fast, self.bulk)


class Wire:
    """The transport of a store.

    Args:
        router: Which server holds which slot, and how to connect to it.
        limits: Times and counts.
        log: Where debug lines go.
        traffic: How much is under way.

    All state of a wire:
        nodes: the servers in use, by name.
        only: where most operations go, if there is one server.
        moved: where a redirect said that a slot is, until the router has learned it.
        unrouted: operations that wait for the router.
        delayed: operations that wait before they are tried again.
        tasks: what runs beside: dialing, hanging up, learning routes.
        home: the event loop that it belongs to.
        connected: whether any connection was ever made. Before, a failure is reported at once.
    """

    def __init__(self, router: Router, limits: Limits, log: logging.Logger, traffic: Traffic) -> None:
        self.router = router
        self.limits = limits
        self.log = log
        self.traffic = traffic
        self.home = Home()
        self.connected = False
        self._nodes: dict[str, Node] = {}
        self._only: Channel | None = None
        self._moved: dict[int | None, str] = {}
        self._unrouted: list[Operation] = []
        self._learning: asyncio.Task[None] | None = None
        self._delayed: set[Operation] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._budget = limits.budget
        self._watching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        channels = [channel for node in self._nodes.values() for channel in node.channels if channel.lanes]
        return f"<Wire {self.traffic.pending} pending, {len(self._delayed)} delayed, {channels}>"

    # Taking operations

    def submit(self, op: Operation, deadline: float | None = None) -> asyncio.Future[Any]:
        """Take an operation; the future has its result, before the deadline by the loop's clock or within the budget.

        Cancelling the future withdraws an operation that was not sent; of one that was, the reply is dropped.
        """
        traffic, home = self.traffic, self.home
        if traffic.closed or not home.is_here():
            self._enter()
        future: asyncio.Future[Any] = asyncio.Future(loop=home.loop)  # what create_future does, a call less
        op.future = future
        if deadline is not None:
            op.deadline = deadline
        traffic.pending += 1
        if traffic.pending >= MAX_PENDING:
            traffic.clear = False
        only = self._only
        if only is not None and len(op.payload) <= BULK:
            only.push(op)
        else:
            op.deadline = op.deadline or asyncio.get_running_loop().time() + self._budget
            self._route(op)
        return future

    def _enter(self) -> None:
        """See that operations can be taken here, or say why not."""
        if self.traffic.closed:
            self.home.check()
            self.traffic.check_open()
        self.home.enter()

    def settled(self, count: int) -> None:
        """Operations have left the wire."""
        self.traffic.leave(count)

    # Routes

    def _route(self, op: Operation) -> None:
        if op.node is None and not self._moved:
            dialer = self.router.route(op.slot)
        else:
            name = op.node or self._moved.get(op.slot)
            dialer = self.router.named(name) if name else self.router.route(op.slot)
        if dialer is None:
            self._unrouted.append(op)
            self.home.leave()  # nothing is flushed in this turn
            self._learn()
            return
        self._push(dialer, op)

    def _push(self, dialer: Dialer, op: Operation) -> None:
        node = self._nodes.get(dialer.name)
        if node is None:
            node = self._nodes[dialer.name] = Node(self, dialer)
            if not self.router.is_cluster:
                self._only = node.fast
        (node.bulk if len(op.payload) > BULK else node.fast).push(op)

    def _learn(self, failed: str = "") -> None:
        """Ask the router to learn the routes, once for all that want it."""
        if self._learning is None:
            self._learning = self.spawn(self._learn_routes(failed))

    async def _learn_routes(self, failed: str) -> None:
        failure: Failure | None = None
        try:
            async with asyncio.timeout(self.limits.dial_timeout):
                await self.router.learn(failed)
        except Exception as error:  # noqa: BLE001  # as in Channel._dial
            failure = describe(error, self.router.name, tls=self.router.tls)
        self._learning = None
        waiting, self._unrouted = self._unrouted, []
        if failure is not None:
            self._give_back(waiting, failure)
            return
        self._moved.clear()
        for name in [name for name in self._nodes if self.router.named(name) is None]:
            for channel in self._nodes.pop(name).channels:
                waiting.extend(channel.queue)
                channel.queue.clear()
                channel.close()
        for op in waiting:
            self._route(op)

    def opened(self) -> None:
        """A connection was made."""
        self.connected = True
        if self.router.is_watched and self._watching is None:
            self._watching = self.spawn(self._watch())

    async def _watch(self) -> None:
        """Leave a primary that is none any more. It may go on taking writes for long, and they would be lost."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            try:
                async with asyncio.timeout(self.limits.dial_timeout):
                    primary = await self.router.primary()
            except (OSError, RedisError):
                continue  # Sentinels that cannot be asked name nobody else
            for node in self._nodes.values():
                for channel in node.channels:
                    channel.leave_all_but(primary)

    async def nodes(self) -> list[str]:
        """The names of all servers that hold slots."""
        if self.router.route(None) is None:
            self._learn()
            assert self._learning is not None
            await asyncio.shield(self._learning)
        return self.router.names()

    # Retries

    def retry(self, op: Operation, why: str = "", *, lost: bool = False) -> None:
        """Try an operation again, after a while if this is not the first time.

        One whose reply was lost does not wait: the fewer writes come in between, the surer can it be settled.
        """
        op.attempts += 1
        op.why = why or op.why
        self.log.debug("attempt %d after: %s", op.attempts + 1, op.why or "connection lost")
        delay = 0.0 if lost and op.attempts <= _LOST_AT_ONCE else replies.backoff(op.attempts)
        loop = asyncio.get_running_loop()
        if loop.time() + delay >= op.deadline:
            self.expire(op)
            self.settled(1)
        elif delay:
            self._delayed.add(op)
            loop.call_later(delay, self._again, op)
        else:
            self._route(op)

    def _again(self, op: Operation) -> None:
        if op not in self._delayed:
            return
        self._delayed.discard(op)
        if op.future.done():
            self.settled(1)
            return
        if op.script is not None and not op.sent:
            op.become_script()  # the store may have seen more by now, which makes a replay surer
        self._route(op)

    def refused(self, channel: Channel, lane: Lane, op: Operation) -> int:
        """Deal with an error reply: the operation was not executed. Returns 1 if it is tried again."""
        error, op.error = op.error, None
        assert error is not None
        verdict = replies.judge(error)
        op.asking = False
        if op.future.done():
            return 0
        if verdict in (Verdict.REFUSED, Verdict.DISCONNECTED):
            if op.sent and op.writes:  # refused now, but it may have happened the first time
                self.expire(op)
            else:
                op.future.set_exception(replies.refusal(error))
            return 0
        if verdict is Verdict.ELSEWHERE:
            lane.retire()
            self._learn()
        elif verdict in (Verdict.MOVED, Verdict.ASK):
            return self._redirect(channel, op, error, ask=verdict is Verdict.ASK)
        elif error.code == "CLUSTERDOWN":
            self._learn()
        if verdict is not Verdict.RELOAD:
            op.attempts = max(op.attempts, replies.AT_ONCE)  # the server asks for patience
        self.retry(op, error.code)
        return 1

    def _redirect(self, channel: Channel, op: Operation, error: replies.ReplyError, *, ask: bool) -> int:
        slot, host, port = replies.redirection(error)
        dialer = self.router.at(host or channel.dialer.host, port)
        if dialer is None:  # a plain client, but the server is part of a cluster
            if op.sent and op.writes:
                self.expire(op)
            else:
                op.future.set_exception(replies.refusal(error))
            return 0
        op.attempts += 1
        op.why = error.code
        if ask:
            op.asking = True
            if op.script is None:  # a slot on the move takes single commands only
                op.become_script()
            self._push(dialer, op)
            return 1
        routed = self.router.route(slot)
        if routed is None or routed.name != dialer.name:  # else it was learned while this operation was under way
            self._moved[slot] = dialer.name
            self._learn()
        self.retry(op)
        return 1

    def lost(self, channel: Channel, ops: Sequence[Operation], *, executed: bool) -> None:
        """Deal with operations whose connection is gone; unless it is sure that they were not, they may be executed."""
        if ops and self.router.is_cluster and not self.traffic.closed:
            self._learn(channel.dialer.name)
        for op in ops:
            op.asking = False
            if op.future.done():
                self.settled(1)
                continue
            if executed:
                op.sent = True
                if op.replay is Replay.NEVER:
                    self.expire(op)
                    self.settled(1)
                    continue
                if op.replay is Replay.GUARDED:
                    op.become_script()
            self.retry(op, lost=True)

    def unreachable(self, channel: Channel, ops: Iterable[Operation], failure: Failure) -> None:
        """Deal with operations for a server that could not be connected to."""
        node = self._nodes.get(channel.dialer.name)
        if node is not None and channel is node.bulk and node.fast.lanes:
            node.bulk = node.fast  # the pool has no connection to spare for large operations
        if self.router.is_cluster:
            self._learn(channel.dialer.name)
        self._give_back(ops, failure)

    def _give_back(self, ops: Iterable[Operation], failure: Failure) -> None:
        """Fail operations that were not sent, or try them again where a connection has worked before."""
        for op in ops:
            if op.future.done():
                self.settled(1)
            elif op.sent and op.writes and failure.final:
                self.expire(op)
                self.settled(1)
            elif failure.final or not self.connected:
                op.future.set_exception(failure.error())
                self.settled(1)
            elif op.sent:
                self.retry(op, failure.reason, lost=True)
            else:
                op.attempts = max(op.attempts, replies.AT_ONCE)
                self.retry(op, failure.reason)

    # Ends

    def expire(self, op: Operation) -> None:
        """Fail an operation whose time is up with what is known of it."""
        if op.future.done():
            return
        if op.sent and op.writes:
            op.future.set_exception(OutcomeUnknownError("the write was sent, but its reply never came"))
        elif op.why:
            op.future.set_exception(replies.exhausted(op.why))
        else:
            op.future.set_exception(StoreTimeoutError("the server did not answer in time"))

    def confirmed(self, op: Operation, result: Any, replicas: int) -> None:
        """Complete a write with the number of replicas that confirmed it."""
        if not op.future.done():
            if replicas >= self.limits.replicas:
                op.future.set_result(result)
            else:
                op.future.set_exception(NotReplicatedError(self.limits.replicas, replicas))
        self.settled(1)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside, until it ends or the wire is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def disconnect(self) -> None:
        """Close every connection. What is still under way is lost."""
        if self.home.loop is None or self.home.is_gone:
            return
        if self._watching is not None:
            self._watching.cancel()
        while True:
            # A connection that was being opened may come late, and each that is closed is handed back by a task.
            for node in self._nodes.values():
                for channel in node.channels:
                    channel.close()
            await asyncio.sleep(0)
            if not self._tasks:
                break
            await asyncio.wait(self._tasks)
        await self.router.aclose()
