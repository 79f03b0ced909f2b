"""py-key-value-aio's RedisStore: dicts by key, in collections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from key_value.aio.stores.redis import RedisStore
from redis.asyncio import Redis

from benchmarks.subjects.subject import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis_state import AgentState

COLLECTION = "agent-0"


class KeyValue:
    """`put` and `get` of the state as a dict, an agent as the collection."""

    label: ClassVar[str] = "py-key-value RedisStore"
    how: ClassVar[str] = (
        "`put` and `get` of the state as a dict, the agent as the collection, on a handed-in client with a connection "
        "for every operation in flight; no index is kept, `keys` scans the keyspace"
    )
    missing: ClassVar[Mapping[str, str]] = {
        "newest": "keys have no order",
        "save_if": "no conditional write",
        "append": "no append",
    }

    def __init__(self, url: str, states: list[AgentState]) -> None:
        self.url = url
        self.ids = [state.session_id for state in states]
        self.values: list[dict[str, Any]] = [msgspec.to_builtins(state) for state in states]

    async def open(self) -> None:
        """Connect."""
        self.client = Redis.from_url(self.url, max_connections=CONNECTIONS, decode_responses=True)
        self.store = RedisStore(client=self.client, default_collection=COLLECTION)
        await self.store.setup()

    async def close(self) -> None:
        """Disconnect."""
        await self.store.close()
        await self.client.aclose()

    async def save(self, i: int) -> bool:
        """One SET."""
        await self.store.put(self.ids[i], self.values[i])
        return True

    async def load(self, i: int) -> Sequence[Any]:
        """One GET."""
        value = await self.store.get(self.ids[i])
        assert value is not None
        return value["messages"]

    async def delete(self, i: int) -> bool:
        """One DEL."""
        return await self.store.delete(self.ids[i])

    async def list(self, limit: int | None = None) -> Sequence[Any]:
        """SCAN over the keyspace; the store returns at most 10,000 keys."""
        return await self.store.keys(limit=limit)

    async def load_many(self, many: range) -> Sequence[Any]:
        """One MGET."""
        return [value for value in await self.store.get_many([self.ids[i] for i in many]) if value]

    async def fill(self) -> None:
        """Save all sessions, a thousand at a time: only to prepare a listing."""
        for start in range(0, len(self.ids), 1000):
            some = slice(start, start + 1000)
            await self.store.put_many(self.ids[some], self.values[some])
