"""The connections to one server that share a queue."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from redis.exceptions import MaxConnectionsError

from redis_state.connect import Failure, describe, take_over
from redis_state.errors import printable
from redis_state.lane import BULK, MAX_BATCH, Lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_state.connect import Dialer
    from redis_state.operation import Operation
    from redis_state.wire import Wire


class Channel:
    """A queue, and the connections that empty it.

    Operations go out in the same turn of the event loop in which they came, all of them in one write, on the first
    connection that is not busy with something large. Another connection is opened only when all are.

    All state of a channel:
        queue: what is not sent, oldest first.
        lanes: the open connections, first opened first.
        limit: how many there may be.
        essential: whether to wait for a connection while others have all of the client's pool.
        dialing: the task that opens another, if one does.
        flushing: whether a flush will run in this turn of the loop.
        due: when what is called in this turn must end, by the loop's clock: one reading for all of it.
        closed: whether nothing may be opened any more.
    """

    def __init__(self, wire: Wire, dialer: Dialer, limit: int, *, essential: bool) -> None:
        self.wire = wire
        self.dialer = dialer
        self.queue: deque[Operation] = deque()
        self.lanes: list[Lane] = []
        self.limit = limit
        self.essential = essential
        self._dialing: asyncio.Task[None] | None = None
        self._flushing = False
        self._due = 0.0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        in_flight = sum(len(lane.inflight) for lane in self.lanes)
        return (
            f"<Channel {self.dialer.name}: {len(self.lanes)} lanes, {in_flight} in flight, {len(self.queue)} waiting>"
        )

    def push(self, op: Operation) -> None:
        """Take an operation. A lone one goes straight out, others at the end of this turn of the loop."""
        self.queue.append(op)
        if not op.deadline:
            if not self._due:
                self._due = self._loop.time() + self.wire.limits.budget
            op.deadline = self._due
        if self._flushing:
            return
        if self.lanes and not self.lanes[0].inflight and len(op.payload) <= BULK:  # writing much takes its time
            self.flush()
        else:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush_soon(self) -> None:
        """Flush at the end of this turn of the loop."""
        if not self._flushing and self.queue:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is queued, as far as connections take it; open another where they do not."""
        self._flushing = False
        self._due = 0.0
        self.wire.home.leave()
        while self.queue:
            lane = self._choose()
            if lane is None:
                break
            if gone := lane.send(self.queue):
                self.wire.settled(gone)
        if self.queue and not self._closed:
            if self._dialing is None and sum(lane.usable for lane in self.lanes) < self.limit:
                self._dialing = self.wire.spawn(self._dial())
            self._arm()

    def _choose(self) -> Lane | None:
        """The connection for the next batch: the first that is not busy with something large and not full."""
        for lane in self.lanes:
            if lane.usable and not lane.clogged and len(lane.inflight) < MAX_BATCH:
                return lane
        return None

    def answered(self, count: int) -> None:
        """Replies came: there may be room on a connection again."""
        self.wire.settled(count)
        if self.queue:
            self.flush_soon()

    def refused(self, lane: Lane, op: Operation) -> int:
        """An operation got an error reply. Returns 1 if it will be tried again."""
        return self.wire.refused(self, lane, op)

    def confirmed(self, op: Operation, result: Any, replicas: int) -> None:
        """Replicas confirmed a write, or as many as did."""
        self.wire.confirmed(op, result, replicas)

    def expire(self, op: Operation) -> None:
        """The time of an operation in flight is up."""
        op.sent = True
        self.wire.expire(op)

    def lost(self, lane: Lane, executed: Sequence[Operation], skipped: Sequence[Operation]) -> None:
        """A connection is gone, with operations in flight: some that may be executed, some that are not."""
        if lane in self.lanes:
            self.lanes.remove(lane)
        self.wire.spawn(self.dialer.hang_up(lane.connection))
        self.flush_soon()
        self.wire.lost(self, executed, executed=True)
        self.wire.lost(self, skipped, executed=False)

    def leave_all_but(self, address: tuple[str, int]) -> None:
        """Take no connection any more that leads to another address."""
        for lane in self.lanes:
            if (lane.connection.host, lane.connection.port) != address:
                lane.retire()

    async def _dial(self) -> None:
        """Open one more connection."""
        failure: Failure | None = None
        try:
            async with asyncio.timeout(self.wire.limits.dial_timeout):
                connection = await self.dialer.open(wait=self.essential)
        except MaxConnectionsError:
            if self.lanes:
                self.limit = len(self.lanes)  # the caller's pool is smaller than was asked for
            failure = describe(None, self.dialer.name, tls=self.dialer.tls)
        except Exception as error:  # noqa: BLE001  # redis-py raises its own errors, OSError, ssl's and asyncio's
            failure = describe(error, self.dialer.name, tls=self.dialer.tls)
        else:
            if self._closed:  # the node has gone while this was under way
                await self.dialer.hang_up(connection)
                return
            self.lanes.append(Lane(self, connection, take_over(connection)))
            self.wire.opened()
            name = printable(self.dialer.name)
            self.wire.log.debug("connected to %s, %d of %d", name, len(self.lanes), self.limit)
        self._dialing = None
        if failure is None:
            self.flush()
        else:
            self.wire.log.debug("not connected: %s", failure.reason)
        if failure is not None and not any(lane.usable for lane in self.lanes):
            waiting, self.queue = self.queue, deque()
            self.wire.unreachable(self, waiting, failure)

    def _arm(self) -> None:
        """Look again when the first operation's time is up, which is not always the oldest in the queue."""
        when = min(op.deadline for op in self.queue)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._check)

    def _check(self) -> None:
        """Let go what has waited too long."""
        self._timer = None
        now = self._loop.time()
        waiting, self.queue = self.queue, deque()
        for op in waiting:
            if op.deadline > now and not op.future.done():
                self.queue.append(op)
            else:
                self.wire.expire(op)
                self.wire.settled(1)
        self.flush()

    def close(self) -> None:
        """Close every connection, and stop looking after the queue."""
        self._closed = True
        for lane in self.lanes:
            lane.abort()
        if self._timer is not None:
            self._timer.cancel()
