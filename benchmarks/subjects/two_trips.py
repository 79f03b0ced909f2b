"""The layout of most tutorials: SET, then SADD, as two round trips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.subjects.plain import Plain
from benchmarks.subjects.subject import Keys, encode, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis_state import AgentState


class TwoTrips(Plain):
    """Not atomic: a client that dies in between leaves a state that no list shows."""

    label = "SET then SADD"
    how = "redis.asyncio as above, but a save is SET and then SADD, a delete is DEL and then SREM, a list is SMEMBERS"
    missing: ClassVar[Mapping[str, str]] = {
        "newest": "a set has no order",
        "save_if": "the same as redis.asyncio's",
        "append": "the same as redis.asyncio's",
        "load_many": "the same as redis.asyncio's",
    }

    def __init__(self, url: str, states: list[AgentState]) -> None:
        super().__init__(url, states)
        self.keys = Keys("two:")

    async def save(self, i: int) -> bool:
        """Two round trips."""
        state = self.states[i]
        stamp(state)
        written = await self.client.set(self.keys.state(state), encode(state))
        await self.client.sadd(self.keys.index(state.agent_id), state.session_id)
        return written

    async def delete(self, i: int) -> bool:
        """Two round trips."""
        state = self.states[i]
        deleted = await self.client.delete(self.keys.state(state))
        unlisted = await self.client.srem(self.keys.index(state.agent_id), state.session_id)
        return deleted == unlisted == 1

    async def list(self, limit: int | None = None) -> Sequence[Any]:
        """Read the whole set."""
        assert limit is None
        found = await self.client.smembers(self.keys.index(self.states[0].agent_id))
        return [session_id.decode() for session_id in found]

    async def fill(self) -> None:
        """Save all sessions, a thousand in a pipeline: only to prepare a listing."""
        for start in range(0, len(self.states), 1000):
            async with self.client.pipeline(transaction=False) as pipeline:
                for state in self.states[start : start + 1000]:
                    pipeline.set(self.keys.state(state), encode(state))
                    pipeline.sadd(self.keys.index(state.agent_id), state.session_id)
                await pipeline.execute()
