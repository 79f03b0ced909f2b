"""openai-agents' RedisSession: the items of a conversation, a list in Redis."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from agents.extensions.memory import RedisSession
from redis.asyncio import Redis

from benchmarks.subjects.plain import turn
from benchmarks.subjects.subject import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis_state import AgentState, Message


class AgentsSession:
    """`add_items` and `get_items` of the same messages, on one shared client."""

    label: ClassVar[str] = "openai-agents RedisSession"
    how: ClassVar[str] = (
        "`add_items` of all messages (role and content, what an item has) to a new session, `get_items` for a load, "
        "`clear_session` for a delete; sessions share a client with a connection for every operation in flight"
    )
    missing: ClassVar[Mapping[str, str]] = {
        "list": "no index: a session is found by its id only",
        "newest": "no index",
        "save_if": "no conditional write",
        "load_many": "one session a call",
    }

    def __init__(self, url: str, states: list[AgentState]) -> None:
        self.url = url
        self.ids = [f"{state.agent_id}:{state.session_id}" for state in states]
        self.items = [[item(message) for message in state.messages] for state in states]
        self.saves: Counter[int] = Counter()

    async def open(self) -> None:
        """Connect."""
        self.client = Redis.from_url(self.url, max_connections=CONNECTIONS)

    async def close(self) -> None:
        """Disconnect."""
        await self.client.aclose()

    async def save(self, i: int) -> bool:
        """Add the messages to a session that is new, since adding them to the last one would double it."""
        self.saves[i] += 1
        await self._session(i).add_items(self.items[i])
        return True

    async def load(self, i: int) -> Sequence[Any]:
        """The items of the session that was saved last."""
        return await self._session(i).get_items()

    async def delete(self, i: int) -> bool:
        """Delete the session's keys."""
        await self._session(i).clear_session()
        return True

    async def append(self, i: int) -> bool:
        """Add one item."""
        await self._session(i).add_items([item(turn(0))])
        return True

    def _session(self, i: int) -> RedisSession:
        return RedisSession(f"{self.ids[i]}:{self.saves[i]}", redis_client=self.client)


def item(message: Message) -> Any:
    """A message as an input item, whose roles do not include tools."""
    return {"role": "assistant" if message.role == "tool" else message.role, "content": message.content}
