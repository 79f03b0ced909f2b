"""Servers that evict keys without an expiry, and with them an agent's index, which is then built again from the states.

Only a policy of ``allkeys-*`` evicts an index, which has no expiry of its own.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from redis_state.commands.request import Request, command, pack
from redis_state.commands.shapes import is_integer, is_scan, is_score, is_text, is_value
from redis_state.errors import ServerRefusedError, StateStoreError
from redis_state.index.cursors import Walk

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    from redis_state.commands.keys import Keys, Partition
    from redis_state.transport.client import Client

_ASK_AGAIN: Final = 60.0  # seconds, where the policy was one that evicts indexes
_COUNT: Final = 500  # keys looked at by one SCAN
# A member that no session id equals: the index that holds it has not been evicted since it was last built.
_COMPLETE: Final = b""
_INFO_MEMORY: Final = pack(("INFO", "memory"))
_INFO_STATS: Final = pack(("INFO", "stats"))


class Evictions:
    """Which servers evict indexes, and how an evicted index is built again.

    All of its state:
        evicts: whether a node's policy evicts indexes, by its name; a task while that is being asked.
        asked: when it was asked, by the loop's clock.
        possible: whether any of them does or may; while none does, a listing need not wait for an answer.

    Args:
        client: Knows the nodes.
        keys: The names of keys.
        score: Tells from a stored value where its session stands in the index.
        log: Where it says that a server cannot be asked.
    """

    def __init__(self, client: Client, keys: Keys, score: Callable[[bytes], float], log: logging.Logger) -> None:
        self._client = client
        self._keys = keys
        self._score = score
        self._log = log
        self._evicts: dict[str, bool | asyncio.Task[bool]] = {}
        self._asked: dict[str, float] = {}
        self._is_logged = False
        self.possible = False

    def connected(self, node: str) -> None:
        """Ask a node for its policy, when it is connected: nobody waits for the answer before a listing needs it."""
        self._ask(node)

    async def threaten(self, partition: Partition) -> bool:
        """Whether the node that holds a partition evicts indexes."""
        node = self._client.node_of(partition.slot)
        return node is not None and await self.threaten_node(node)

    async def threaten_node(self, node: str) -> bool:
        """Whether a node evicts indexes."""
        known = self._evicts.get(node, False)
        if isinstance(known, asyncio.Task):
            self._client.check_home()  # a task of another event loop cannot be waited for
            return await asyncio.shield(known)
        if known and asyncio.get_running_loop().time() - self._asked[node] > _ASK_AGAIN:
            self._ask(node)
        return known

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
            not self.possible
            or not await self.threaten(partition)
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

    def _ask(self, node: str) -> None:
        loop = asyncio.get_running_loop()
        self._asked[node] = loop.time()
        self._evicts[node] = loop.create_task(self._ask_for_policy(node))
        self.possible = True

    async def _ask_for_policy(self, node: str) -> bool:
        evicts = False
        try:
            info = await self._client.execute(Request(_INFO_MEMORY, None, node=node, fits=is_text))
            evicts = b"maxmemory_policy:allkeys" in bytes(info)
        except ServerRefusedError as error:
            if not self._is_logged:
                self._is_logged = True
                self._log.warning("%s does not tell its maxmemory-policy (%s); taken as not evicting", node, error.code)
        except StateStoreError:
            pass  # it will be asked when it is connected again
        finally:
            self._evicts[node] = evicts
            self.possible = any(self._evicts.values())
        return evicts

    async def aclose(self) -> None:
        """Wait for the questions under way, which end with their requests."""
        asked = [each for each in self._evicts.values() if isinstance(each, asyncio.Task)]
        if asked:
            await asyncio.wait(asked)


async def _value(submit: Callable[[Request], Awaitable[Any]], slot: int, state: bytes) -> bytes | None:
    """The value under a key, None where something else stands there."""
    try:
        return await submit(command(slot, "GET", state, fits=is_value))
    except ServerRefusedError as error:
        if error.code == "WRONGTYPE":
            return None
        raise
