"""Servers that evict keys without an expiry, and with them an agent's index, which is then built again from the states.

Only a policy of ``allkeys-*`` evicts an index, which has no expiry of its own.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from redis_state.commands.request import Request, command, pack
from redis_state.commands.shapes import is_integer, is_scan, is_score, is_text, is_value
from redis_state.errors import ServerRefusedError
from redis_state.index.cursors import Walk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis_state.commands.keys import Keys, Partition
    from redis_state.index.policies import Policies

_COUNT: Final = 500  # keys looked at by one SCAN
# A member that no session id equals: the index that holds it has not been evicted since it was last built.
_COMPLETE: Final = b""
_INFO_STATS: Final = pack(("INFO", "stats"))


class Evictions:
    """How an evicted index is built again.

    Args:
        policies: Which servers evict indexes.
        keys: The names of keys.
        score: Tells from a stored value where its session stands in the index.
    """

    def __init__(self, policies: Policies, keys: Keys, score: Callable[[bytes], float]) -> None:
        self.policies = policies
        self._keys = keys
        self._score = score

    async def may_have_hit(self, submit: Callable[[Request], Awaitable[Any]], node: str) -> bool:
        """Whether a node evicts indexes and has evicted anything."""
        return await self.policies.threaten_node(node) and await self.have_happened(submit, self.question_to(node))

    async def have_happened(self, submit: Callable[[Request], Awaitable[Any]], info: Request) -> bool:
        """Whether a server that evicts indexes has evicted anything."""
        stats = await submit(info)
        return not re.search(rb"evicted_keys:0\r", bytes(stats))

    @staticmethod
    def question(partition: Partition) -> Request:
        """What asks the server of a partition for its evictions."""
        return Request(_INFO_STATS, partition.slot, fits=is_text)

    @staticmethod
    def question_to(node: str) -> Request:
        """What asks a node for its evictions."""
        return Request(_INFO_STATS, None, node=node, fits=is_text)

    async def restore(self, submit: Callable[[Request], Awaitable[Any]], partition: Partition) -> None:
        """Build an index again, if its server may have evicted it."""
        slot, index = partition.slot, partition.index
        if (
            not self.policies.possible
            or not await self.policies.threaten_slot(slot)
            or not await self.have_happened(submit, self.question(partition))
        ):
            return
        if await submit(command(slot, "ZSCORE", index, _COMPLETE, fits=is_score)) is not None:
            return
        pattern, walk = self._keys.pattern_of(partition), Walk()
        while True:
            cursor, states = await submit(
                command(slot, "SCAN", walk.cursor, "MATCH", pattern, "COUNT", _COUNT, fits=is_scan)
            )
            values = await asyncio.gather(*(_value(submit, slot, state) for state in states))
            for state, value in zip(states, values, strict=True):
                session_id = self._keys.session_of(state)
                if value is not None and session_id is not None:
                    entry = (self._score(value), session_id)
                    await submit(command(slot, "ZADD", index, "NX", *entry, fits=is_integer))
            if not walk.to(cursor):
                break
        await submit(command(slot, "ZADD", index, 0, _COMPLETE, fits=is_integer))


async def _value(submit: Callable[[Request], Awaitable[Any]], slot: int, state: bytes) -> bytes | None:
    """The value under a key, None where something else stands there."""
    try:
        return await submit(command(slot, "GET", state, fits=is_value))
    except ServerRefusedError as error:
        if error.code == "WRONGTYPE":
            return None
        raise
