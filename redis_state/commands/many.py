"""The values of many sessions, a bounded number of commands at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from redis_state.commands.request import Request, command
from redis_state.commands.scripts import TAIL
from redis_state.commands.shapes import is_value, values_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from redis_state.commands.keys import Partition, Session

_AT_A_TIME: Final = 10  # commands in flight
_MGET: Final = 100  # states that one command loads, so that it holds the server for no more than a millisecond


async def read_values(
    submit: Callable[[Request], Awaitable[Any]], partition: Partition, session_ids: Sequence[str], ttl: int | None
) -> list[Any]:
    """Read the values of sessions of one partition, None where there is none.

    Args:
        submit: Sends a request.
        partition: Where they are.
        session_ids: Whose values.
        ttl: After how many milliseconds they expire from now on; None leaves the expiry as it is.
    """
    keys = [partition.state(session_id) for session_id in session_ids]
    size = _MGET
    values: list[Any] = []
    for start in range(0, len(keys), size * _AT_A_TIME):
        some = keys[start : start + size * _AT_A_TIME]
        if ttl is not None:
            reads = [command(partition.slot, "GETEX", key, "PX", ttl, fits=is_value) for key in some]
            values += await asyncio.gather(*map(submit, reads))
            continue
        parts = [some[first : first + size] for first in range(0, len(some), size)]
        reads = [command(partition.slot, "MGET", *part, fits=values_of(len(part))) for part in parts]
        for reply in await asyncio.gather(*map(submit, reads)):
            values += reply
    return values


async def read_tail(
    submit: Callable[[Request], Awaitable[Any]], session: Session, wanted: int | None
) -> tuple[bytes, int] | None:
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
