"""A wire that opens on its first use: connected, and found fit for this store's data."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from redis_state.connect import Router
from redis_state.errors import ServerRefusedError
from redis_state.keys import Keys, Partition
from redis_state.layout import check_layout, compare_layout
from redis_state.limits import Limits
from redis_state.operation import EXEC, MULTI, Operation, command
from redis_state.replies import ReplyError, refusal
from redis_state.traffic import Traffic, retrieve
from redis_state.wire import Wire


class Link:
    """A wire, and what must be seen to before and after operations use it.

    Args:
        router: Where the servers are.
        limits: Times and counts.
        keys: The names of the store's keys.
        log: Where debug lines go.

    All of its state:
        traffic: what is under way.
        wire: the transport; another one after the server turned out to be a cluster's.
        opening, closing: the tasks that do so, shared by all who wait for them.
    """

    def __init__(self, router: Router, limits: Limits, keys: Keys, log: logging.Logger) -> None:
        self.traffic = Traffic()
        self.wire = Wire(router, limits, log, self.traffic)
        self._keys = keys
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"{self.wire.router.name}: {self.wire!r}"

    def submit(self, op: Operation, deadline: float | None = None) -> asyncio.Future[Any]:
        """Send an operation over the open wire."""
        return self.wire.submit(op, deadline)

    def execute(self, op: Operation) -> Awaitable[Any]:
        """Send an operation when the wire is open and has room for it; what is returned has its result."""
        return self.wire.submit(op) if self.traffic.clear else self._execute(op, None)

    def write(self, op: Operation, partition: Partition) -> Awaitable[Any]:
        """The same for one that writes, when its index was seen to be one."""
        if self.traffic.clear and partition.checked:
            return self.wire.submit(op)
        return self._execute(op, partition)

    async def _execute(self, op: Operation, partition: Partition | None) -> Any:
        with self.traffic:
            deadline = await self.ready()  # may put another wire in place
            if partition is not None:
                await self._check_index(partition, deadline)
            return await self.wire.submit(op, deadline)

    async def ready(self) -> float:
        """Open the wire if it is not, and wait for room. Returns when the operation must end, by the loop's clock."""
        self.traffic.check_open()
        deadline = asyncio.get_running_loop().time() + self.wire.limits.budget
        while not self.traffic.opened:
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._open())
                self._opening.add_done_callback(retrieve)
            opening = self._opening
            try:
                await asyncio.shield(opening)  # one attempt and one outcome for all who wait
            finally:
                if opening.done() and self._opening is opening:
                    self._opening = None
        if not self.traffic.clear:
            await self.traffic.wait(deadline)
        return deadline

    async def _check_index(self, partition: Partition, deadline: float) -> None:
        """Before the first write to an index, see that it is one: half of a MULTI may fail, and the other half stays.

        Raises:
            ServerRefusedError: The key holds something else.
            PartitionsMismatchError: Another store has written with another number of partitions.
        """
        if not partition.checked:
            kind, _ = await asyncio.gather(
                self.submit(command(partition.slot, "TYPE", partition.index), deadline),
                compare_layout(self.wire, self._keys, deadline),  # another store may have come since this one opened
            )
            if kind not in (b"zset", b"none"):
                raise refusal(ReplyError("WRONGTYPE"))
            partition.checked = True

    async def aclose(self) -> None:
        """Let operations end, within their time, and close the wire. May be called again."""
        if self.wire.home.is_gone:
            self.traffic.close()
            return
        self.wire.home.check()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self.traffic.close()
        await self.traffic.drain(self.wire.limits.budget)
        await self.wire.disconnect()

    async def _open(self) -> None:
        """Connect for the first time: see whether server, user and data are as they must be."""
        if not self.wire.router.is_cluster and await self._is_cluster():
            router = self.wire.router.as_cluster()
            self.wire.log.debug("%s is part of a cluster", router.name)
            await self.wire.disconnect()
            self.wire = Wire(router, self.wire.limits, self.wire.log, self.traffic)
        # Where MULTI is refused, the commands after it would be carried out on their own.
        await self.submit(Operation(MULTI + EXEC, None, replies=2))
        await check_layout(self.wire, self._keys)
        self.traffic.open()

    async def _is_cluster(self) -> bool:
        try:
            info = await self.submit(command(None, "INFO", "cluster"))
        except ServerRefusedError as error:
            if error.code in ("NOAUTH", "WRONGPASS"):
                raise
            return False  # a user without INFO; a cluster's redirects will still say what is wrong
        return b"cluster_enabled:1" in bytes(info)
