"""Whether the data under a prefix is spread over as many partitions as the store believes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redis.crc import key_slot

from redis_state.commands.request import Request, command
from redis_state.commands.shapes import is_integer, is_scan, is_value
from redis_state.errors import PartitionsMismatchError
from redis_state.index.cursors import Walk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis_state.commands.keys import Keys

_DIGITS: Final = 10  # more are no number of partitions


async def check_partitions(
    keys: Keys, submit: Callable[[Request], Awaitable[Any]], nodes: Callable[[], list[str]]
) -> None:
    """Compare the store's `partitions` with what is noted beside the data, and note it where nothing is.

    Only a store with several partitions notes anything, so a key that is not there means one. The first such store
    looks through all keys once, for data that was written without partitions.

    Args:
        keys: The names of keys.
        submit: Sends a request.
        nodes: The names of all servers that hold slots.

    Raises:
        PartitionsMismatchError: The data has another number.
    """
    slot = int(key_slot(keys.layout))
    noted = await submit(command(slot, "GET", keys.layout, fits=is_value))
    if noted is None and keys.partitions > 1:
        if await _has_plain_index(keys, submit, nodes()):
            raise PartitionsMismatchError(keys.partitions, 1)
        await submit(command(slot, "SETNX", keys.layout, keys.partitions, fits=is_integer))
        noted = await submit(command(slot, "GET", keys.layout, fits=is_value))
    stored = 1 if noted is None else int(noted) if noted.isdigit() and len(noted) < _DIGITS else None
    if stored != keys.partitions:
        raise PartitionsMismatchError(keys.partitions, stored)


async def _has_plain_index(keys: Keys, submit: Callable[[Request], Awaitable[Any]], nodes: list[str]) -> bool:
    for node in nodes:
        walk = Walk()
        while True:
            cursor, found = await submit(
                command(None, "SCAN", walk.cursor, "MATCH", keys.index_pattern, "COUNT", 1000, node=node, fits=is_scan)
            )
            if found:  # partitioned indexes do not exist yet, or their number would be noted
                return True
            if not walk.to(cursor):
                break
    return False
