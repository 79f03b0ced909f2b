"""Which servers evict keys without an expiry, by their maxmemory-policy."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from redis_state.commands.request import Request, pack
from redis_state.commands.shapes import is_text
from redis_state.errors import ServerRefusedError, StateStoreError

if TYPE_CHECKING:
    import logging

    from redis_state.transport.client import Client

_ASK_AGAIN: Final = 60.0  # seconds, where the policy was one that evicts indexes
_INFO_MEMORY: Final = pack(("INFO", "memory"))


class Policies:
    """The policies of the servers, asked when they are connected. Views of one store share them.

    All of its state:
        evicts: whether a node's policy evicts indexes, by its name; a task while that is being asked.
        asked: when it was asked, by the loop's clock.
        possible: whether any of them does or may; while none does, a listing need not wait for an answer.

    Args:
        client: Knows the nodes.
        log: Where it says that a server cannot be asked.
    """

    def __init__(self, client: Client, log: logging.Logger) -> None:
        self._client = client
        self._log = log
        self._evicts: dict[str, bool | asyncio.Task[bool]] = {}
        self._asked: dict[str, float] = {}
        self._is_logged = False
        self.possible = False

    def connected(self, node: str) -> None:
        """Ask a node for its policy, when it is connected: nobody waits for the answer before a listing needs it."""
        self._ask(node)

    async def threaten_slot(self, slot: int) -> bool:
        """Whether the node that holds a slot evicts indexes."""
        node = self._client.node_of(slot)
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
