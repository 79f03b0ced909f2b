"""All sessions of an index that is too large for one page, newest first.

ZSCAN misses nothing that is there throughout, however often it moves, but it takes 25 times as long as ZRANGE without
scores, and the order is lost. So the index is read in ranges of scores, lowest first, since a session that is saved
meanwhile moves to the end, which is read last. It can only be missed if its score becomes lower, by a clock that is
behind. Then the index has more entries than were read, unless others were removed, which is noticed when the states
are looked for. Whoever reads it turns to ZSCAN then.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from redis_state.commands.request import Request, command
from redis_state.commands.scripts import BOUNDS
from redis_state.commands.shapes import is_integer, is_scored, is_texts
from redis_state.index.living import living_ids

if TYPE_CHECKING:
    from redis_state.commands.keys import Partition
    from redis_state.index.living import Submit

_RANGE: Final = 10_000  # entries that one command reads without scores: less than a millisecond of the server's time
_LOOK: Final = 500  # states that one command looks for
_AT_A_TIME: Final = 4  # such commands in flight


async def all_ids(submit: Submit, partition: Partition) -> list[list[str]] | None:
    """The ids of all sessions that have a state, newest first and in pieces; None where some may be missing.

    Args:
        submit: Sends a request.
        partition: The partition.
    """
    pieces, is_complete = await _read(submit, partition)
    found: list[list[str]] = [[] for _ in pieces]
    remaining = iter(range(len(pieces)))
    vanished = 0

    async def look() -> None:
        nonlocal vanished
        for number in remaining:
            found[number], gone = await living_ids(submit, partition, pieces[number])
            pieces[number] = []
            vanished += gone

    await asyncio.gather(*(look() for _ in range(_AT_A_TIME)))
    return found if is_complete and not vanished else None


async def _read(submit: Submit, partition: Partition) -> tuple[list[list[bytes]], bool]:
    """All members in pieces, newest first, and whether they are as many as the index has."""
    index, slot = partition.index, partition.slot
    bounds = await submit(Request(b"", slot).call(BOUNDS, (index,), (_RANGE,), _are_scores))
    if len(set(bounds)) < len(bounds):
        return [], False  # so many of one score that they cannot be read in parts
    ranges: list[list[bytes]] = []
    size = 0
    for low, high in pairwise((b"-inf", *bounds, b"+inf")):
        below = b"(" + high if high != b"+inf" else high
        read = command(slot, "ZRANGEBYSCORE", index, low, below, fits=is_texts)
        if below is high:
            found, size = await asyncio.gather(submit(read), submit(command(slot, "ZCARD", index, fits=is_integer)))
        else:
            found = await submit(read)
        ranges.append(found)
    seen: set[bytes] = set()
    pieces: list[list[bytes]] = []
    while ranges:
        found = ranges.pop()[::-1]
        if not seen.isdisjoint(found):
            found = [member for member in found if member not in seen]
        seen.update(found)
        pieces += [found[start : start + _LOOK] for start in range(0, len(found), _LOOK)]
        await asyncio.sleep(0)
    return pieces, len(seen) == size


def _are_scores(reply: Any) -> bool:
    return is_texts(reply) and is_scored([*reply, *reply])
