"""Keeps indexes small that nobody lists: now and then a write has a part of its agent's index looked through."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from redis_state.errors import StateStoreError
from redis_state.index.cursors import Walk
from redis_state.index.pages import PAGE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis_state.commands.keys import Partition

EVERY: Final = 64  # writes to an agent, of which one has a sample of its index checked
_SAMPLE: Final = 16  # entries; more than that would cost a healthy index as much as the writes do
_DEAD_SHARE: Final = 0.1  # of a sample or page; above it, the next page is checked as well


class Cleanup:
    """Checks a sample of an index after so many writes, and goes on page by page while it finds enough that is dead.

    A healthy index costs one small script per sample; one full of expired sessions is emptied in one go.

    Args:
        check: Checks a part of an index: from a cursor on, about so many entries. Returns the next cursor, and how many
            entries were read and how many of them were dead.
    """

    def __init__(self, check: Callable[[Partition, int, int], Awaitable[tuple[int, int, int]]]) -> None:
        self._check = check
        self._tasks: set[asyncio.Task[None]] = set()

    def written(self, partition: Partition) -> None:
        """Count a write."""
        partition.writes += 1
        if partition.writes % EVERY == 0 and not partition.is_checked:
            partition.is_checked = True
            task = asyncio.get_running_loop().create_task(self._run(partition))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, partition: Partition) -> None:
        count = _SAMPLE
        walk = Walk()
        try:
            while True:
                partition.cursor, read, dead = await self._check(partition, partition.cursor, count)
                if not walk.to(partition.cursor) or dead <= read * _DEAD_SHARE:
                    break
                count = PAGE
        except StateStoreError:
            partition.cursor = 0  # a later write will have it checked again
        finally:
            partition.is_checked = False

    async def aclose(self) -> None:
        """Wait for the checks under way, which end with their requests."""
        if self._tasks:
            await asyncio.wait(self._tasks)
