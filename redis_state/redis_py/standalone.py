"""One server, reached through the pool of a `redis.asyncio.Redis`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from redis import exceptions as redis_errors
from redis.asyncio.connection import SSLConnection

from redis_state.errors import ServerRefusedError
from redis_state.redis_py.credentials import on_new_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from redis_state.redis_py.topology import OpenedConnection, PrimaryObserver, Topology


async def close_connection(connection: OpenedConnection) -> None:
    """Close a connection whose socket may be gone already."""
    with contextlib.suppress(OSError, redis_errors.RedisError):
        await connection.disconnect(nowait=True)


class PooledServer:
    """The server that a pool connects to, also where Sentinel says which one that is.

    Args:
        client: A `redis.asyncio.Redis`.
    """

    def __init__(self, client: Any) -> None:
        self._pool = client.connection_pool
        kwargs: dict[str, Any] = self._pool.connection_kwargs
        service = getattr(self._pool, "service_name", None)
        self.host = str(kwargs.get("host", "localhost"))
        self.tls = issubclass(self._pool.connection_class, SSLConnection)
        if service is not None:
            self.name = f"the primary of {service}"
        else:
            self.name = str(kwargs.get("path") or f"{self.host}:{kwargs.get('port', 6379)}")

    async def open(self, *, wait: bool) -> OpenedConnection:
        if not wait and not self._pool.can_get_connection():
            raise redis_errors.MaxConnectionsError
        return await self._pool.get_connection()

    async def close(self, connection: OpenedConnection) -> None:
        await close_connection(connection)
        await self._pool.release(connection)


class Standalone:
    """One server.

    Args:
        client: A `redis.asyncio.Redis`.
        owned: Whether this library made it, and closes it.
        cluster: Makes the topology for a server that turns out to be part of a cluster.
        server: Opens connections; by default whatever the pool connects to.
    """

    is_cluster = False

    def __init__(
        self,
        client: Any,
        *,
        owned: bool,
        cluster: Callable[[], Topology] | None = None,
        server: PooledServer | None = None,
    ) -> None:
        self._client = client
        self._owned = owned
        self._cluster = cluster
        self._server = server or PooledServer(client)
        self.name = self._server.name
        self.tls = self._server.tls

    def route(self, slot: int | None) -> PooledServer:
        return self._server

    def named(self, name: str) -> PooledServer | None:
        return self._server if name == self.name else None

    def at(self, host: str, port: int) -> None:
        return None

    def names(self) -> list[str]:
        return [self.name]

    def as_cluster(self) -> Topology:
        if self._cluster is None:
            raise ServerRefusedError("MOVED", "it is part of a cluster; give a redis.asyncio.RedisCluster")
        return self._cluster()

    async def learn(self, failed: str) -> None:
        """Nothing to learn: a pool asks Sentinel for every connection."""

    def watch(self, observer: PrimaryObserver) -> Coroutine[Any, Any, None] | None:
        """Nobody names another primary."""
        return None

    def on_new_credentials(self, call: Callable[[], None]) -> None:
        pool = self._client.connection_pool
        on_new_credentials(pool.connection_kwargs.get("credential_provider"), pool, call)

    async def aclose(self) -> None:
        if self._owned:
            await self._client.aclose()
