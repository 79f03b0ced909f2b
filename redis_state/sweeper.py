"""Keeps indexes small that nobody lists: looks after sessions that should have expired."""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING, Final

from redis_state.errors import StateStoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis_state.keys import Partition

_SAMPLE_EVERY: Final = 64  # saves without an expiry, of which one has its index looked at: others may have expired
_AT_LEAST: Final = 1.0  # seconds between two looks at one index
_DEAD_SHARE: Final = 0.1  # of a page; above it, the next page is looked at as well
_MAX_WAITING: Final = 10_000


class Sweeper:
    """Looks at a page of an index after something in it should have expired, and goes on while it finds enough.

    So an index of the living costs two commands now and then, and an index of the dead is emptied at once.

    Args:
        sweep: Checks a page of an index from a cursor on; returns the next cursor, and how many entries were read and
            how many of them were dead.

    All state of a sweeper:
        due: when to look at which index, by the loop's clock; the earliest first.
        waiting: the indexes in it.
        cursors: where to go on in an index that was not looked through.
        task: the look that is being taken.
    """

    def __init__(self, sweep: Callable[[Partition, int], Awaitable[tuple[int, int, int]]]) -> None:
        self._sweep = sweep
        self._due: list[tuple[float, int, Partition]] = []
        self._waiting: set[Partition] = set()
        self._cursors: dict[Partition, int] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def saved(self, partition: Partition, ttl: int | None) -> None:
        """Note that a state was saved, with its time to live in milliseconds."""
        self._count += 1
        if ttl is None and self._count % _SAMPLE_EVERY:
            return
        if partition in self._waiting or len(self._waiting) >= _MAX_WAITING:
            return
        loop = asyncio.get_running_loop()
        self._waiting.add(partition)
        heapq.heappush(self._due, (loop.time() + max(_AT_LEAST, (ttl or 0) / 1000), self._count, partition))
        self._arm(loop)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._due[0][0], self._start) if self._due else None

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._due and self._due[0][0] <= loop.time():
            _, _, partition = heapq.heappop(self._due)
            self._waiting.discard(partition)
            cursor = self._cursors.pop(partition, 0)
            try:
                while True:
                    cursor, read, dead = await self._sweep(partition, cursor)
                    if cursor == 0 or dead <= read * _DEAD_SHARE:
                        break
            except StateStoreError:
                continue  # the next save will have it looked at again
            if cursor:
                self._cursors[partition] = cursor
        self._arm(loop)

    async def aclose(self) -> None:
        """Look at nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and not self._task.done() and self._task.get_loop() is asyncio.get_running_loop():
            self._task.cancel()
            await asyncio.wait([self._task])
