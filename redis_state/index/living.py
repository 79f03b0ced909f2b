"""Which entries of an index have a state, looked for by the keys that this library gives them; others are removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from redis_state.commands.request import Request, command
from redis_state.commands.scripts import PRUNE
from redis_state.commands.shapes import is_integer, statuses_of
from redis_state.index.entries import plain_ids, state_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_state.commands.keys import Partition

Submit = Callable[[Request], Awaitable[Any]]


async def living(submit: Submit, partition: Partition, members: Sequence[bytes]) -> tuple[list[bytes], int]:
    """The sessions among some members that have a state.

    Args:
        submit: Sends a request.
        partition: Where they are.
        members: So many that one command may name them.

    Returns:
        The sessions, and how many of the others somebody else had removed already.
    """
    if plain_ids(members) is not None:
        prefix = partition.state_prefix
        keys = [prefix + member for member in members]
    else:
        members, keys = await _sessions(submit, partition, members)
    if not keys or await submit(command(partition.slot, "EXISTS", *keys, fits=is_integer)) == len(keys):
        return list(members), 0
    request = Request(b"", partition.slot).call(PRUNE, (partition.index, *keys), members, statuses_of(len(members)))
    found = await submit(request)
    return [member for member, kind in zip(members, found, strict=True) if kind == 1], found.count(-1)


async def _sessions(submit: Submit, partition: Partition, members: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """The session ids among some members, and the keys of their states. What is no id is removed from the index."""
    keys = {member: state_key(partition, member) for member in members if member}
    foreign = [member for member, key in keys.items() if key is None]
    if foreign:
        await submit(command(partition.slot, "ZREM", partition.index, *foreign, fits=is_integer))
    found = {member: key for member, key in keys.items() if key is not None}
    return list(found), list(found.values())


async def checked(submit: Submit, partition: Partition, members: Sequence[bytes], *, unsure: bool) -> Sequence[bytes]:
    """Those members of a script's reply that are sessions; where the script is unsure, they are looked for again."""
    if plain_ids(members) is not None:
        return members
    return (await living(submit, partition, members))[0] if unsure else (await _sessions(submit, partition, members))[0]
