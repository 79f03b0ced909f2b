"""Which server, and how to connect to it: redis-py's clients as routers and dialers.

redis-py opens every connection: addresses, TLS, authentication, Sentinel and the slot map are its work. A connection
that it has opened is then spoken on by a `Lane`, until it is handed back closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from redis import exceptions as redis_errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool

from redis_state.errors import ServerRefusedError, StateStoreError, StoreUnavailableError, printable
from redis_state.sentinel import NoPrimaryError

Connection = Any  # redis.asyncio.connection.AbstractConnection, whose annotations are incomplete


class Dialer(Protocol):
    """One server.

    Attributes:
        name: Its address, for messages.
        host: Its host, for redirects that leave it out.
        tls: Whether connections to it are encrypted.
    """

    name: str
    host: str
    tls: bool

    async def open(self, *, wait: bool) -> Connection:
        """A connection, ready for commands; where a pool has none, wait for one or raise `MaxConnectionsError`."""
        ...

    async def hang_up(self, connection: Connection) -> None:
        """Give a connection back, closed."""
        ...


class Router(Protocol):
    """Which server holds which slot.

    Attributes:
        name: What it leads to, for messages.
        tls: Whether connections are encrypted.
    """

    name: str
    tls: bool

    @property
    def is_cluster(self) -> bool:
        """Whether slots are spread over servers, so that routes have to be learned."""
        ...

    def route(self, slot: int | None) -> Dialer | None:
        """The server for a slot, any for None; None if that is not known yet."""
        ...

    def named(self, name: str) -> Dialer | None:
        """The server of that name, None if it is none any more."""
        ...

    def at(self, host: str, port: int) -> Dialer | None:
        """The server at an address that a redirect named, None where redirects cannot be followed."""
        ...

    def names(self) -> list[str]:
        """The names of all servers that hold slots."""
        ...

    def as_cluster(self) -> Router:
        """The router for the cluster that the server turned out to be part of.

        Raises:
            ServerRefusedError: The client is the caller's, and for one server only.
        """
        ...

    async def learn(self, failed: str) -> None:
        """Learn the routes, again if they are known; from the server called `failed` only if no other answers."""
        ...

    @property
    def is_watched(self) -> bool:
        """Whether somebody else names the primary, and may name another without a word to its clients."""
        ...

    async def primary(self) -> tuple[str, int]:
        """Host and port of the primary that is named now; only of a router that is watched."""
        ...

    async def aclose(self) -> None:
        """Close what this library opened."""
        ...


def take_over(connection: Connection) -> asyncio.Transport:
    """The transport under a connected connection. redis-py has no public name for it."""
    return connection._writer.transport  # noqa: SLF001


async def _close(connection: Connection) -> None:
    """Close a connection whose socket may be gone already."""
    with contextlib.suppress(OSError, redis_errors.RedisError):
        await connection.disconnect(nowait=True)


class PoolDialer:
    """Connections from the pool of a `redis.asyncio.Redis`, also where Sentinel says which server that is."""

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

    async def open(self, *, wait: bool) -> Connection:
        if not wait and not self._pool.can_get_connection():
            raise redis_errors.MaxConnectionsError
        return await self._pool.get_connection()

    async def hang_up(self, connection: Connection) -> None:
        await _close(connection)
        await self._pool.release(connection)


class PlainRouter:
    """One server, or the primary that Sentinel names."""

    is_cluster = False

    def __init__(self, client: Any, *, owned: bool, cluster: Callable[[], Router] | None = None) -> None:
        self._client = client
        self._owned = owned
        self._cluster = cluster
        self._dialer = PoolDialer(client)
        self.name = self._dialer.name
        self.tls = self._dialer.tls

    def route(self, slot: int | None) -> Dialer:
        return self._dialer

    def named(self, name: str) -> Dialer:
        return self._dialer

    def at(self, host: str, port: int) -> None:
        return None

    def names(self) -> list[str]:
        return [self.name]

    def as_cluster(self) -> Router:
        if self._cluster is None:
            raise ServerRefusedError("MOVED", "it is part of a cluster; give a redis.asyncio.RedisCluster")
        return self._cluster()

    async def learn(self, failed: str) -> None:
        """Nothing to learn: the pool asks Sentinel for every connection."""

    @property
    def is_watched(self) -> bool:
        return isinstance(self._client.connection_pool, SentinelConnectionPool)

    async def primary(self) -> tuple[str, int]:
        return await self._client.connection_pool.get_master_address()

    async def aclose(self) -> None:
        if self._owned:
            await self._client.aclose()


class NodeDialer:
    """Connections to one node of a cluster, with the settings of the client."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.host = str(node.host)
        self.name = str(node.name)
        self.tls = issubclass(node.connection_class, SSLConnection)

    async def open(self, *, wait: bool) -> Connection:
        connection = self._node.connection_class(**self._node.connection_kwargs)
        try:
            await connection.connect()
        except BaseException:
            await _close(connection)
            raise
        return connection

    async def hang_up(self, connection: Connection) -> None:
        await _close(connection)


class ClusterRouter:
    """The slot map of a `redis.asyncio.RedisCluster`."""

    is_cluster = True

    def __init__(self, client: Any, *, owned: bool) -> None:
        self._client = client
        self._owned = owned
        self._map = client.nodes_manager
        self._dialers: dict[str, NodeDialer] = {}
        self._learned = False
        self.name = ", ".join(sorted(self._map.startup_nodes))
        self.tls = issubclass(self._map.connection_kwargs["connection_class"], SSLConnection)

    def _dialer(self, node: Any) -> NodeDialer:
        dialer = self._dialers.get(node.name)
        if dialer is None:
            dialer = self._dialers[node.name] = NodeDialer(node)
        return dialer

    def route(self, slot: int | None) -> Dialer | None:
        if not self._learned:
            return None
        if slot is None:
            return self._dialer(self._map.default_node)
        nodes = self._map.slots_cache.get(slot)
        return self._dialer(nodes[0]) if nodes else None

    def named(self, name: str) -> Dialer | None:
        return self._dialers.get(name)

    def at(self, host: str, port: int) -> Dialer | None:
        host, port = self._map.remap_host_port(host, port)
        node = self._map.get_node(host=host, port=port)
        if node is None:  # it joined after the map was learned
            sample = self._map.default_node
            node = type(sample)(host, port, "primary", **self._map.connection_kwargs)
        return self._dialer(node)

    def names(self) -> list[str]:
        return [self._dialer(node).name for node in self._map.get_nodes_by_server_type("primary")]

    def as_cluster(self) -> Router:
        return self

    is_watched = False

    async def primary(self) -> tuple[str, int]:
        raise NotImplementedError  # the servers themselves redirect

    async def learn(self, failed: str) -> None:
        # The map alone: all of the client would ask for the description of every command as well.
        await self._map.initialize(last_failed_node_name=failed or None)
        self._learned = True
        alive = set(self._map.nodes_cache)
        self._dialers = {name: dialer for name, dialer in self._dialers.items() if name in alive}

    async def aclose(self) -> None:
        if self._owned:
            await self._map.aclose()
            await self._map.aclose("startup_nodes")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a connection could not be opened.

    Attributes:
        reason: In words, without a password.
        code: The server's, where it answered.
        final: Whether trying again is no use, as with a wrong password.
    """

    reason: str
    code: str = ""
    final: bool = False

    def error(self) -> StateStoreError:
        """The exception for an operation that waited for the connection."""
        return ServerRefusedError(self.code, self.reason) if self.code else StoreUnavailableError(self.reason)


def describe(error: BaseException | None, name: str, *, tls: bool) -> Failure:  # noqa: C901, PLR0911  # a table
    """What redis-py's failure to connect means. None stands for a pool without a free connection.

    Args:
        error: What redis-py raised.
        name: The server's name, which may be another server's word.
        tls: Whether the connection was to be encrypted.
    """
    name = printable(name)
    if error is None:
        return Failure(f"the client's pool has no free connection to {name}; raise its max_connections")
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.AuthorizationError):
        code = "NOAUTH" if "required" in str(error).lower() else "WRONGPASS"
        return Failure(f"{name} does not accept the username and password", code, final=True)
    if isinstance(error, redis_errors.NoPermissionError):
        return Failure(f"the user may not connect to {name}", "NOPERM", final=True)
    if isinstance(error, NoPrimaryError):
        return Failure(error.reason, "WRONGPASS" if error.refused else "", final=error.refused)
    if isinstance(error, MasterNotFoundError):
        return Failure(f"no Sentinel names {name}")
    if isinstance(error, redis_errors.ResponseError) and "DB index" in str(error):
        return Failure(f"{name} has no database of that number", "ERR", final=True)
    if isinstance(error, redis_errors.BusyLoadingError):
        return Failure(f"{name} is loading its data")
    if isinstance(error, redis_errors.RedisClusterException):
        if "not enabled" in str(error) or "not enabled" in str(error.__cause__):
            return Failure(f"{name} is no cluster; give one address, or a redis:// URL", final=True)
        if error.__cause__ is not None:
            return describe(error.__cause__, name, tls=tls)
        return Failure(f"no node of the cluster at {name} can be reached, or slots are not covered")
    if isinstance(error, TimeoutError | redis_errors.TimeoutError):
        # A server without TLS takes the handshake for a command that has not ended, and waits for the rest.
        hint = "; it may not speak TLS, then write redis:// or tls=False" if tls else ""
        return Failure(f"{name} did not answer in time (dial_timeout, read_timeout){hint}")
    cause = _os_error(error)
    if isinstance(cause, ssl.SSLError):
        return Failure(f"TLS with {name} failed: {_tls_reason(cause)}", final=True)
    if cause is not None and cause.errno:
        reason = os.strerror(cause.errno) if cause.errno > 0 else "its name cannot be resolved"
        if cause.errno == errno.ECONNRESET:
            hint = "a tls_cert_file may be wanting" if tls else "it may speak TLS, then write rediss:// or tls=True"
            reason += f"; {hint}"
        return Failure(f"cannot connect to {name}: {reason}")
    return Failure(f"cannot connect to {name}: {type(error).__name__}")


def _os_error(error: BaseException) -> OSError | None:
    """The operating system's error behind one of redis-py's."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and not isinstance(seen, redis_errors.RedisError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted ({error.verify_message})"
    reason = str(error.reason or "the handshake failed").replace("_", " ").lower()
    return f"{reason}; it may not speak TLS, then write redis:// or tls=False" if "wrong version" in reason else reason


def router_of(client: Any) -> Router:
    """The router of a client that a caller has made, or the router itself.

    Raises:
        TypeError: It is no client of redis.asyncio, or decodes responses.
    """
    if isinstance(client, PlainRouter | ClusterRouter):
        return client
    if isinstance(client, RedisCluster):
        settings: dict[str, Any] = client.get_connection_kwargs()
        router: Router = ClusterRouter(client, owned=False)
    elif isinstance(client, Redis):
        settings = client.connection_pool.connection_kwargs
        router = PlainRouter(client, owned=False)
    else:
        raise TypeError(f"client must be a redis.asyncio Redis or RedisCluster, not {type(client).__name__}")
    if settings.get("decode_responses"):
        raise TypeError("the client has decode_responses=True; states are bytes: make it without that")
    return router
