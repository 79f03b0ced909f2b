"""coredis: an asyncio client that multiplexes its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import coredis

from benchmarks.subjects.subject import Keys, decode, encode, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis_state import AgentState


class Coredis:
    """One client in its optimized mode."""

    label: ClassVar[str] = "coredis"
    how: ClassVar[str] = (
        "one client in optimized mode; a save is SET and ZADD in `pipeline(transaction=True)`; the same keys and codec "
        "as redis.asyncio"
    )
    missing: ClassVar[Mapping[str, str]] = {
        "save_if": "the same three round trips as redis.asyncio's",
        "append": "the same as redis.asyncio's",
    }
    max_connections = 64

    def __init__(self, url: str, states: list[AgentState]) -> None:
        self.url = url
        self.states = states
        self.keys = Keys("coredis:")

    async def open(self) -> None:
        """Connect."""
        coredis.Config.optimized = True
        address = urlsplit(self.url)
        self.client = coredis.Redis(
            host=address.hostname or "localhost", port=address.port or 6379, max_connections=self.max_connections
        )
        await self.client.__aenter__()

    async def close(self) -> None:
        """Disconnect."""
        await self.client.__aexit__(None, None, None)

    async def save(self, i: int) -> bool:
        """Write the state and its place in the index."""
        state = self.states[i]
        score = stamp(state)
        async with self.client.pipeline(transaction=True) as pipeline:
            written = pipeline.set(self.keys.state(state), encode(state))
            pipeline.zadd(self.keys.index(state.agent_id), {state.session_id: score})
        return bool(await written)

    async def load(self, i: int) -> Sequence[Any]:
        """Read the state."""
        value = await self.client.get(self.keys.state(self.states[i]))
        assert value is not None
        return decode(value).messages

    async def delete(self, i: int) -> bool:
        """Remove the state and its place in the index."""
        state = self.states[i]
        async with self.client.pipeline(transaction=True) as pipeline:
            deleted = pipeline.delete([self.keys.state(state)])
            unlisted = pipeline.zrem(self.keys.index(state.agent_id), [state.session_id])
        return await deleted == await unlisted == 1

    async def list(self, limit: int | None = None) -> Sequence[Any]:
        """Read the index."""
        key = self.keys.index(self.states[0].agent_id)
        found = await self.client.zrange(key, 0, (limit or 0) - 1, rev=True)
        return [session_id.decode() for session_id in found]

    async def load_many(self, many: range) -> Sequence[Any]:
        """MGET."""
        found = await self.client.mget([self.keys.state(self.states[i]) for i in many])
        return [decode(value) for value in found if value is not None]
