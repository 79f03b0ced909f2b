"""aiogram's RedisStorage: the data of a chat's state machine, one JSON string a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.redis import RedisStorage

from benchmarks.subjects.subject import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis_state import AgentState


class Aiogram:
    """`set_data` and `get_data` of the state as a dict."""

    label: ClassVar[str] = "aiogram RedisStorage"
    how: ClassVar[str] = (
        "`set_data` and `get_data` of the state as a dict; msgspec as `json_dumps` and `json_loads` instead of the "
        "slower default; no index is kept, a save is one SET"
    )
    missing: ClassVar[Mapping[str, str]] = {
        "list": "no index: a user's data is found by its ids only",
        "newest": "no index",
        "save_if": "no conditional write",
        "append": "`update_data` reads and writes everything",
        "load_many": "one key a call",
    }

    def __init__(self, url: str, states: list[AgentState]) -> None:
        self.url = url
        self.data: list[dict[str, Any]] = [msgspec.to_builtins(state) for state in states]
        self.ids = [StorageKey(bot_id=1, chat_id=1, user_id=i) for i in range(len(states))]

    async def open(self) -> None:
        """Connect."""
        self.storage = RedisStorage.from_url(
            self.url,
            connection_kwargs={"max_connections": CONNECTIONS},
            json_dumps=lambda data: msgspec.json.encode(data).decode(),
            json_loads=msgspec.json.decode,
        )

    async def close(self) -> None:
        """Disconnect."""
        await self.storage.close()

    async def save(self, i: int) -> bool:
        """One SET."""
        await self.storage.set_data(self.ids[i], self.data[i])
        return True

    async def load(self, i: int) -> Sequence[Any]:
        """One GET."""
        return (await self.storage.get_data(self.ids[i]))["messages"]

    async def delete(self, i: int) -> bool:
        """Setting no data deletes the key."""
        await self.storage.set_data(self.ids[i], {})
        return True
