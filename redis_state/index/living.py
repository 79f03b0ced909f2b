"""Which entries of an index have a state, looked for by the keys that this library gives them; others are removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from redis_state.commands.keys import bulks, plain_ids
from redis_state.commands.request import Request, command
from redis_state.commands.scripts import PRUNE
from redis_state.commands.shapes import is_integer, statuses_of
from redis_state.index.entries import state_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_state.commands.keys import Partition

Submit = Callable[[Request], Awaitable[Any]]


async def living_ids(submit: Submit, partition: Partition, members: Sequence[bytes]) -> tuple[list[str], int]:
    """The sessions among some members that have a state; the entries of the others are removed.

    Args:
        submit: Sends a request.
        partition: Where they are.
        members: So many that one command may name them.

    Returns:
        The sessions, and how many of the others somebody else had removed already.
    """
    ids = plain_ids(members)
    if ids is not None:
        if not ids:
            return [], 0
        look = b"*%d\r\n$6\r\nEXISTS\r\n%b" % (len(ids) + 1, bulks(partition.state_prefix, members))
        if await submit(Request(look, partition.slot, fits=is_integer)) == len(ids):
            return ids, 0
    keys = await sessions(submit, partition, members)
    if not keys:
        return [], 0
    request = Request(b"", partition.slot)
    request.call(PRUNE, (partition.index, *keys.values()), list(keys), statuses_of(len(keys)))
    found = await submit(request)
    return [member.decode() for member, kind in zip(keys, found, strict=True) if kind == 1], found.count(-1)


async def sessions(submit: Submit, partition: Partition, members: Sequence[bytes]) -> dict[bytes, bytes]:
    """The keys of the states of those members that are session ids. What is none is removed from the index."""
    keys = {member: state_key(partition, member) for member in members if member}
    foreign = [member for member, key in keys.items() if key is None]
    if foreign:
        await submit(command(partition.slot, "ZREM", partition.index, *foreign, fits=is_integer))
    return {member: key for member, key in keys.items() if key is not None}
