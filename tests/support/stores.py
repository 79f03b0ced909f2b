"""The ways to open a store. What asks for the fixtures `stores` or `store` runs over the five kinds of store.

A way names the session fixture of the server that it needs, and an opener. `pytest -k cluster` selects one.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
import zlib
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, Unpack
from urllib.parse import quote

import pytest
from redis.asyncio import Redis

from redis_state import (
    AgentState,
    MemoryStateStore,
    RedisConfig,
    RedisStateStore,
    SessionStore,
    StateStoreError,
    StoreOptions,
)
from redis_state.testing import RedisServer
from support.cluster import ClusterServers
from support.sentinel import SentinelServers
from support.tls import TlsServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from redis_state.models import S

AnyStore = SessionStore[Any]


class Opener(Protocol):
    """Opens a store on a server, under a prefix."""

    def __call__(
        self, server: Any, prefix: str, state_type: type[Any], options: StoreOptions
    ) -> AbstractAsyncContextManager[AnyStore]: ...


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to open a store.

    Attributes:
        opener: Opens it.
        server: The session fixture of its server; empty for none.
        options: What every store opened this way is given beside the test's own options.
    """

    opener: Opener
    server: str = ""
    options: StoreOptions = field(default_factory=StoreOptions)


@asynccontextmanager
async def in_memory(
    server: None, prefix: str, state_type: type[Any], options: StoreOptions
) -> AsyncGenerator[AnyStore]:
    known: dict[str, Any] = {k: v for k, v in options.items() if k not in {"partitions", "replicas", "logger"}}
    async with MemoryStateStore(state_type=state_type, **known) as store:
        yield store


@asynccontextmanager
async def by_url(
    server: RedisServer, prefix: str, state_type: type[Any], options: StoreOptions
) -> AsyncGenerator[AnyStore]:
    url = f"{server.url}?key_prefix={quote(prefix)}"
    async with RedisStateStore.from_url(url, state_type=state_type, **options) as store:
        yield store


@asynccontextmanager
async def by_config(
    server: RedisServer, prefix: str, state_type: type[Any], options: StoreOptions
) -> AsyncGenerator[AnyStore]:
    config = RedisConfig(addrs=[server.addr], key_prefix=prefix)
    async with RedisStateStore.from_config(config, state_type=state_type, **options) as store:
        yield store


@asynccontextmanager
async def by_socket(
    server: RedisServer, prefix: str, state_type: type[Any], options: StoreOptions
) -> AsyncGenerator[AnyStore]:
    url = f"{server.unix_url}?key_prefix={quote(prefix)}"
    async with RedisStateStore.from_url(url, state_type=state_type, **options) as store:
        yield store


def by_client(protocol: int) -> Opener:
    @asynccontextmanager
    async def opener(
        server: RedisServer, prefix: str, state_type: type[Any], options: StoreOptions
    ) -> AsyncGenerator[AnyStore]:
        async with (
            Redis(host=server.host, port=server.port, protocol=protocol) as client,
            RedisStateStore(client, key_prefix=prefix, state_type=state_type, **options) as store,
        ):
            yield store

    return opener


@asynccontextmanager
async def by_tls(
    server: TlsServer, prefix: str, state_type: type[Any], options: StoreOptions
) -> AsyncGenerator[AnyStore]:
    url = f"{server.tls_url}?key_prefix={quote(prefix)}&{server.credentials}"
    async with RedisStateStore.from_url(url, state_type=state_type, **options) as store:
        yield store


KINDS: Final = {
    "memory": Way(opener=in_memory),
    "standalone": Way(opener=by_url, server="redis_server"),
    "sentinel": Way(opener=by_url, server="redis_sentinel"),
    "cluster": Way(opener=by_url, server="redis_cluster"),
    "partitions": Way(opener=by_url, server="redis_server", options={"partitions": 3, "format": "msgpack"}),
}
OTHER_WAYS: Final = {
    "memory-msgpack": Way(opener=in_memory, options={"format": "msgpack"}),
    "config": Way(opener=by_config, server="redis_server"),
    "unix": Way(opener=by_socket, server="redis_server"),
    "client-resp2": Way(opener=by_client(2), server="redis_server"),
    "client-resp3": Way(opener=by_client(3), server="redis_server"),
    "tls": Way(opener=by_tls, server="tls_server"),
    "cluster-partitions": Way(opener=by_url, server="redis_cluster", options={"partitions": 4}),
}


def on(*names: str) -> pytest.MarkDecorator:
    """Runs a test over some ways instead of over the five kinds."""
    ways = {**KINDS, **OTHER_WAYS}
    return pytest.mark.parametrize("way", [pytest.param(ways[name], id=name) for name in names], indirect=True)


on_servers = on("standalone", "sentinel", "cluster", "partitions")
on_one_server = on("standalone")
on_indexes = on("memory", "standalone", "partitions")  # for tests of many sessions
on_server_indexes = on("standalone", "partitions")
on_kinds = on(*KINDS)
on_server_kinds = on_servers


async def eventually(holds: Callable[[], Awaitable[object]]) -> None:
    """Wait until something holds, for ten seconds at most."""
    deadline = time.monotonic() + 10
    while not await holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        await asyncio.sleep(0.01)


def partition_tag(agent_id: str, session_id: str, partitions: int) -> str:
    """The hash tag of a plain pair of ids, braces included."""
    return f"{{{agent_id}}}" if partitions == 1 else f"{{{agent_id}:{zlib.crc32(session_id.encode()) % partitions}}}"


class Stores:
    """The stores of one test: opened in one way, on one server, under one prefix that is the test's own.

    Args:
        way: How they are opened.
        server: What the fixture `way.server` yields.

    Attributes:
        prefix: The key prefix of all of them.
    """

    def __init__(self, way: Way, server: Any) -> None:
        self.way = way
        self.server = server
        self.prefix = f"test-{uuid.uuid4().hex}:"
        self._opened = AsyncExitStack()
        self._first: AnyStore | None = None

    async def open(
        self,
        state_type: type[S] = AgentState,  # pyright: ignore[reportArgumentType]
        **options: Unpack[StoreOptions],
    ) -> SessionStore[S]:
        """Another store on the same data; in memory, one with data of its own. It is closed after the test."""
        both: StoreOptions = {**self.way.options, **options}
        store = await self._opened.enter_async_context(self.way.opener(self.server, self.prefix, state_type, both))
        self._first = self._first or store
        return store

    # What stands in the server

    def state_key(self, agent_id: str, session_id: str) -> str:
        """The key of a session's state, for ids that need no escaping."""
        return f"{self.prefix}{self._tag(agent_id, session_id)}:{session_id}"

    def index_key(self, agent_id: str, session_id: str) -> str:
        """The key of the index that a session is in."""
        return f"{self.prefix}sessions:{self._tag(agent_id, session_id)}"

    def _tag(self, agent_id: str, session_id: str) -> str:
        return partition_tag(agent_id, session_id, self.way.options.get("partitions", 1))

    def command(self, name: str, key: str, *args: object) -> Any:
        """Send a command behind the stores' backs, to the server that holds the key."""
        return self._server_of(key).command(name, key, *args)

    def _server_of(self, key: str) -> RedisServer:
        match self.server:
            case ClusterServers() as cluster:
                return cluster.node_for_slot(cluster.slot_of(key))
            case SentinelServers() as sentinel:
                return next(server for server in sentinel.servers if server.command("ROLE")[0] == b"master")
            case _:
                return self.server

    def keys(self) -> list[bytes]:
        """Every key under the prefix, less those that say how many partitions there are."""
        return sorted(key for key in self._all_keys() if not self._is_layout(key))

    def _is_layout(self, key: bytes) -> bool:
        """Whether a key says how many partitions there are, of a store or of a view."""
        return re.fullmatch(rb"([\w.-]+:)*partitions", key.removeprefix(self.prefix.encode())) is not None

    def _all_keys(self) -> set[bytes]:
        if self.server is None:
            return set()
        servers = self.server.primaries if isinstance(self.server, ClusterServers) else [self._server_of("")]
        found: set[bytes] = set()
        for server in servers:
            cursor = b"0"
            while True:
                cursor, some = server.command("SCAN", cursor, "MATCH", f"{self.prefix}*", "COUNT", 1000)
                found.update(some)
                if cursor == b"0":
                    break
        return found

    async def aclose(self) -> None:
        """Delete every agent that a store knows of, check that nothing else is there, and close the stores."""
        try:
            await self._delete_agents()
        finally:
            await self._opened.aclose()
        everything = self._all_keys()
        for key in everything:
            self.command("DEL", key.decode())
        left = {key for key in everything if not self._is_layout(key)}
        assert not left, "the store forgot these keys, or the test did not remove what it made by hand"

    async def _delete_agents(self) -> None:
        """With the first store of the test, or with a new one where that is of no use any more."""
        if self.server is None:
            return
        with suppress(StateStoreError):
            if self._first is not None:
                await delete_agents(self._first)
                return
        await delete_agents(await self.open())


async def delete_agents(store: AnyStore) -> None:
    """Delete all that is stored under the store's prefix."""
    async for agent_id in store.agents():
        await store.delete_agent(agent_id)
