"""redis_state itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.subjects.plain import turn
from redis_state import RedisStateStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis_state import AgentState


class Ours:
    """The store as its documentation shows it."""

    label: ClassVar[str] = "redis_state"
    how: ClassVar[str] = "`RedisStateStore.from_url(url)` and its methods, nothing set"
    missing: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: str, states: list[AgentState], **options: Any) -> None:
        self.url = url
        self.states = states
        self.options = options

    async def open(self) -> None:
        """Make the store; it connects with the first operation."""
        self.store = RedisStateStore.from_url(self.url, **self.options)

    async def close(self) -> None:
        """Disconnect."""
        await self.store.aclose()

    async def save(self, i: int) -> bool:
        """Save."""
        await self.store.save(self.states[i])
        return True

    async def load(self, i: int) -> Sequence[Any]:
        """Load."""
        state = self.states[i]
        return (await self.store.load(state.agent_id, state.session_id)).messages

    async def delete(self, i: int) -> bool:
        """Delete."""
        state = self.states[i]
        return await self.store.delete(state.agent_id, state.session_id)

    async def list(self, limit: int | None = None) -> Sequence[Any]:
        """List."""
        return await self.store.list(self.states[0].agent_id, limit=limit)

    async def save_if(self, i: int) -> bool:
        """Save if the stored version is the object's."""
        state = self.states[i]
        await self.store.save(state, if_version=state.version)
        return True

    async def append(self, i: int) -> bool:
        """Append a message."""
        state = self.states[i]
        await self.store.append(state.agent_id, state.session_id, [turn(i)])
        return True

    async def load_many(self, many: range) -> Sequence[Any]:
        """Load many."""
        ids = [self.states[i].session_id for i in many]
        return list((await self.store.load_many(self.states[0].agent_id, ids)).values())
