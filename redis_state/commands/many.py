"""The values of many sessions, a bounded number of commands at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from redis_state.commands.request import Request, command
from redis_state.commands.shapes import is_value, values_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from redis_state.commands.keys import Partition

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
