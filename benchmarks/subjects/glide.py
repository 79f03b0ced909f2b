"""valkey-glide: a client with its core in Rust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from glide import Batch, GlideClient, GlideClientConfiguration, NodeAddress, RangeByIndex

from benchmarks.subjects.subject import Keys, decode, encode, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis_state import AgentState


class Glide:
    """One client, which multiplexes one connection, as its documentation advises."""

    label: ClassVar[str] = "valkey-glide"
    how: ClassVar[str] = (
        "one `GlideClient`, which shares its connection among all operations; a save is SET and ZADD in "
        "`Batch(is_atomic=True)`; the same keys and codec as redis.asyncio"
    )
    missing: ClassVar[Mapping[str, str]] = {
        "save_if": "WATCH needs a connection of its own",
        "append": "the same as redis.asyncio's",
    }

    def __init__(self, url: str, states: list[AgentState]) -> None:
        self.url = url
        self.states = states
        self.keys = Keys("glide:")

    async def open(self) -> None:
        """Connect."""
        address = urlsplit(self.url)
        node = NodeAddress(address.hostname or "localhost", address.port or 6379)
        # The default of 250 ms is for small values; a megabyte with 64 in flight takes longer.
        self.client = await GlideClient.create(GlideClientConfiguration([node], request_timeout=10_000))

    async def close(self) -> None:
        """Disconnect."""
        await self.client.close()

    async def save(self, i: int) -> bool:
        """Write the state and its place in the index."""
        state = self.states[i]
        score = stamp(state)
        batch = Batch(is_atomic=True)
        batch.set(self.keys.state(state), encode(state))
        batch.zadd(self.keys.index(state.agent_id), {state.session_id: score})
        replies = await self.client.exec(batch, raise_on_error=True)
        return replies is not None and replies[0] == "OK"

    async def load(self, i: int) -> Sequence[Any]:
        """Read the state."""
        value = await self.client.get(self.keys.state(self.states[i]))
        assert value is not None
        return decode(value).messages

    async def delete(self, i: int) -> bool:
        """Remove the state and its place in the index."""
        state = self.states[i]
        batch = Batch(is_atomic=True)
        batch.delete([self.keys.state(state)])
        batch.zrem(self.keys.index(state.agent_id), [state.session_id])
        return await self.client.exec(batch, raise_on_error=True) == [1, 1]

    async def list(self, limit: int | None = None) -> Sequence[Any]:
        """Read the index."""
        key = self.keys.index(self.states[0].agent_id)
        found = await self.client.zrange(key, RangeByIndex(0, (limit or 0) - 1), reverse=True)
        return [session_id.decode() for session_id in found]

    async def load_many(self, many: range) -> Sequence[Any]:
        """MGET."""
        found = await self.client.mget([self.keys.state(self.states[i]) for i in many])
        return [decode(value) for value in found if value is not None]
