"""The values of many sessions, a bounded number of commands at a time, handed out while the next ones are read."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from redis_state.commands.request import Request, command
from redis_state.commands.scripts import TAIL
from redis_state.commands.shapes import is_value, values_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from redis_state.commands.keys import Keys, Partition, Session

    Submit = Callable[[Request], Awaitable[Any]]

_AT_A_TIME: Final = 10  # commands in flight
_MGET: Final = 100  # states that one command loads, so that it holds the server for no more than a millisecond


async def read_values(
    submit: Submit, keys: Keys, agent_id: str, session_ids: Sequence[str], ttl: int | None
) -> AsyncGenerator[list[tuple[str, Any]]]:
    """Read the values of sessions, in their order, None where there is none.

    Args:
        submit: Sends a request.
        keys: The names of keys.
        agent_id: The agent.
        session_ids: Whose values.
        ttl: After how many milliseconds they expire from now on; None leaves the expiry as it is.
    """
    at_a_time = min(keys.partitions, _AT_A_TIME)
    size = _MGET * at_a_time
    reads: deque[asyncio.Task[list[tuple[str, Any]]]] = deque()
    try:
        for start in range(0, len(session_ids), size):
            some = session_ids[start : start + size]
            reads.append(asyncio.create_task(_read(submit, keys, agent_id, some, ttl)))
            if len(reads) * at_a_time >= _AT_A_TIME:
                yield await reads.popleft()
        while reads:
            yield await reads.popleft()
    finally:
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


async def _read(
    submit: Submit, keys: Keys, agent_id: str, session_ids: Sequence[str], ttl: int | None
) -> list[tuple[str, Any]]:
    parts = keys.agent(agent_id)
    if len(parts) == 1:
        return list(zip(session_ids, await _read_part(submit, parts[0], session_ids, ttl), strict=True))
    by_partition: dict[Partition, list[str]] = {}
    for session_id in session_ids:
        by_partition.setdefault(keys.partition(agent_id, session_id), []).append(session_id)
    reads = [_read_part(submit, part, ids, ttl) for part, ids in by_partition.items()]
    found: dict[str, Any] = {}
    for ids, values in zip(by_partition.values(), await asyncio.gather(*reads), strict=True):
        found.update(zip(ids, values, strict=True))
    return [(session_id, found[session_id]) for session_id in session_ids]


async def _read_part(submit: Submit, partition: Partition, session_ids: Sequence[str], ttl: int | None) -> list[Any]:
    """The values of sessions of one partition."""
    slot = partition.slot
    if ttl is not None:
        keys = map(partition.state, session_ids)
        reads = [command(slot, "GETEX", key, "PX", ttl, fits=is_value) for key in keys]
        return await asyncio.gather(*map(submit, reads))
    values: list[Any] = []
    for start in range(0, len(session_ids), _MGET):
        some = session_ids[start : start + _MGET]
        read = b"*%d\r\n$4\r\nMGET\r\n%b" % (len(some) + 1, partition.sent_states(some))
        values += await submit(Request(read, slot, fits=values_of(len(some))))
    return values


async def read_tail(submit: Submit, session: Session, wanted: int | None) -> tuple[bytes, int] | None:
    """Read the last parts of a value, about so many bytes, and how many are before them; None is the whole value."""
    slot, key = session.partition.slot, session.key
    if wanted is None:
        value = await submit(command(slot, "GET", key, session=key, fits=is_value))
        return None if value is None else (value, 0)
    reply = await submit(Request(b"", slot, session=key).call(TAIL, (key,), (wanted,), _is_tail))
    return (reply[0], reply[1]) if reply else None


def _is_tail(reply: Any) -> bool:
    """What tail.lua returns."""
    match reply:
        case [] | [bytes(), int()]:
            return True
        case _:
            return False
