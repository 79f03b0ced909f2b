"""Tokens that are replaced while connections are in use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.credentials import StreamingCredentialProvider
from support.timed import SLACK, state

from redis_state import RedisConfig, RedisStateStore
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable


class Token:
    """What a provider streams."""

    def __init__(self, password: str) -> None:
        self.password = password

    def try_get(self, name: str) -> str:
        return "default"

    def get_value(self) -> str:
        return self.password


class Tokens(StreamingCredentialProvider):
    """A provider that is told when there is a new token."""

    def __init__(self, password: str) -> None:
        self.token = Token(password)
        self.callbacks: list[Callable[[Any], Any]] = []

    def get_credentials(self) -> tuple[str, str]:
        return ("default", self.token.password)

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()

    def on_next(self, callback: Callable[[Any], Any]) -> None:
        self.callbacks.append(callback)

    def on_error(self, callback: Callable[[Exception], None]) -> None:
        pass

    def is_streaming(self) -> bool:
        return True

    async def renew(self, password: str) -> None:
        """Stream a new token to all who listen."""
        self.token = Token(password)
        for callback in self.callbacks:
            result = callback(self.token)
            if asyncio.iscoroutine(result):
                await result


async def test_a_new_token_reaches_connections_that_are_in_use() -> None:
    """They are authenticated again or replaced, no operation fails, and nobody uses the old token any more."""
    with RedisServer(password="one") as server:
        tokens = Tokens("one")
        config = RedisConfig(addrs=[server.addr], credential_provider=tokens, key_prefix="test:", pool_size=2)

        def authentications() -> int:
            return int(server.info("commandstats").get("cmdstat_auth", "calls=0,").split(",")[0].removeprefix("calls="))

        async with RedisStateStore.from_config(config) as store:
            await store.save(state())
            server.command("CONFIG", "SET", "requirepass", "two")
            server.password = "two"
            looks, before = 0, authentications()
            await tokens.renew("two")
            async with asyncio.timeout(3 + SLACK):
                while authentications() - before - looks < 2:  # each look from outside is one as well
                    looks += 1
                    await store.save(state())
                    await asyncio.sleep(0.05)
