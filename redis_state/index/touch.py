"""Lets all sessions of an agent expire together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis_state.commands.request import Request
from redis_state.commands.scripts import TOUCH
from redis_state.commands.shapes import is_cursor, is_texts
from redis_state.index.cursors import Walk
from redis_state.index.pages import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis_state.commands.keys import Partition
    from redis_state.index.eviction import Evictions
    from redis_state.index.living import Submit


async def touch_all(submit: Submit, evictions: Evictions, partitions: Iterable[Partition], ttl: int) -> int:
    """Let every state of an agent expire after so many milliseconds, a page a script.

    Returns:
        How many there were.
    """
    return sum(await asyncio.gather(*(_touch(submit, evictions, partition, ttl) for partition in partitions)))


async def _touch(submit: Submit, evictions: Evictions, partition: Partition, ttl: int) -> int:
    await evictions.restore(submit, partition)
    touched: set[bytes] = set()  # ZSCAN may show a member twice
    cursor, walk = b"0", Walk()
    while True:
        request = Request(b"", partition.slot)
        request.call(TOUCH, (partition.index,), (partition.state_prefix, cursor, PAGE, ttl), _is_touched)
        cursor, *members = await submit(request)
        touched.update(members)
        if not walk.to(cursor):
            return len(touched)


def _is_touched(reply: Any) -> bool:
    """The next cursor, and members."""
    return is_texts(reply) and bool(reply) and is_cursor(reply[0])
