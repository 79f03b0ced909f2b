"""Whether the data under a prefix is spread over as many partitions as the store believes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.crc import key_slot

from redis_state.errors import PartitionsMismatchError
from redis_state.operation import command

if TYPE_CHECKING:
    from redis_state.keys import Keys
    from redis_state.wire import Wire


async def check_layout(wire: Wire, keys: Keys) -> None:
    """Compare the store's `partitions` with what is noted beside the data, and note it where nothing is.

    Only a store with several partitions notes anything, so a key that is not there means one. The first such store
    looks through all keys once, for data that was written without partitions.

    Raises:
        PartitionsMismatchError: The data has another number.
    """
    slot = int(key_slot(keys.layout))
    if keys.partitions > 1 and await wire.submit(command(slot, "GET", keys.layout)) is None:
        if await _has_plain_index(wire, keys):
            raise PartitionsMismatchError(keys.partitions, 1)
        await wire.submit(command(slot, "SETNX", keys.layout, keys.partitions))
    await compare_layout(wire, keys)


async def compare_layout(wire: Wire, keys: Keys, deadline: float | None = None) -> None:
    """Compare the store's `partitions` with what is noted beside the data.

    Raises:
        PartitionsMismatchError: The data has another number.
    """
    noted = await wire.submit(command(int(key_slot(keys.layout)), "GET", keys.layout), deadline)
    stored = 1 if noted is None else int(noted)
    if stored != keys.partitions:
        raise PartitionsMismatchError(keys.partitions, stored)


async def _has_plain_index(wire: Wire, keys: Keys) -> bool:
    for node in await wire.nodes():
        cursor = b"0"
        while True:
            scan = command(None, "SCAN", cursor, "MATCH", keys.index_pattern, "COUNT", 1000, node=node)
            cursor, found = await wire.submit(scan)
            if found:  # partitioned indexes do not exist yet, or their number would be noted
                return True
            if int(cursor) == 0:
                break
    return False
