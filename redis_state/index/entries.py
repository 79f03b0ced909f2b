"""What stands in an index, and what a listing makes of it, in slices that let other tasks run."""

from __future__ import annotations

import asyncio
import heapq
from itertools import islice
from typing import TYPE_CHECKING, Final

from redis_state.clock import moment
from redis_state.errors import InvalidIdError
from redis_state.models import SessionInfo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

    from redis_state.commands.keys import Partition

# A score, microseconds since 1970 by the writer's clock, and the session id in UTF-8. It sorts as Redis sorts it.
Entry = tuple[float, bytes]

SLICE: Final = 2000  # entries sorted or merged before others have their turn: a few milliseconds
_LATEST: Final = 253402300799_000000  # microseconds: the last that a datetime can express


def info(entry: Entry) -> SessionInfo:
    """What a listing shows of an entry. A score that is no time, written by hand, is shown as the nearest one."""
    return SessionInfo(entry[1].decode(), moment(min(max(entry[0], 0), _LATEST)))


def scored(reply: Sequence[bytes]) -> list[Entry]:
    """The entries of a reply of members and scores in turn."""
    return list(zip(map(float, reply[1::2]), reply[::2], strict=True))


def state_key(partition: Partition, member: bytes) -> bytes | None:
    """The key of the state that a member stands for, None where it is no session id."""
    try:
        return partition.state(member.decode())
    except (UnicodeDecodeError, InvalidIdError):
        return None


async def newest_first(*parts: Iterable[Entry]) -> AsyncGenerator[Sequence[Entry]]:
    """Sort entries, a slice at a time."""
    runs: list[list[Entry]] = []
    for part in parts:
        entries = iter(part)
        while run := list(islice(entries, SLICE)):
            run.sort()
            runs.append(run)
            await asyncio.sleep(0)
    async for merged in merge(runs):
        yield merged


async def merge(runs: list[list[Entry]]) -> AsyncGenerator[Sequence[Entry]]:
    """Merge entries that are sorted, oldest first, and hand them out newest first, a slice at a time."""
    entries = heapq.merge(*map(_drained, runs), reverse=True)
    while found := list(islice(entries, SLICE)):
        yield found
        if len(found) == SLICE:
            await asyncio.sleep(0)


def _drained(run: list[Entry]) -> Iterator[Entry]:
    """The entries from the last to the first, each forgotten at once: all at the end would hold the loop."""
    while run:
        yield run.pop()


async def joined(pieces: list[list[str]]) -> list[str]:
    """One list of several, a slice at a time."""
    found = pieces[0] if pieces else []
    for number in range(1, len(pieces)):
        found += pieces[number]
        pieces[number] = []
        await asyncio.sleep(0)
    return found
