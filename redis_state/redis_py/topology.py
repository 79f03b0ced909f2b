"""What the transport needs to know of servers, and how to connect to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

OpenedConnection = Any  # redis.asyncio.connection.AbstractConnection, whose annotations are incomplete


class Server(Protocol):
    """One server.

    Attributes:
        name: Its address, for messages.
        host: Its host, for redirects that leave it out.
        tls: Whether connections to it are encrypted.
    """

    name: str
    host: str
    tls: bool

    async def open(self, *, wait: bool) -> OpenedConnection:
        """Open a connection, ready for commands; where a pool has none, wait for one or raise `MaxConnectionsError`."""
        ...

    async def close(self, connection: OpenedConnection) -> None:
        """Give a connection back, closed."""
        ...


class PrimaryObserver(Protocol):
    """Who is told what Sentinels say about the primary."""

    def hold_writes(self) -> None:
        """What the primary acknowledges from now on may be lost: a failover is under way, or nobody knows."""
        ...

    def release_writes(self) -> None:
        """No failover is under way."""
        ...

    def primary_is(self, host: str, port: int) -> None:
        """The Sentinels name this primary."""
        ...


class Topology(Protocol):
    """Which server holds which slot.

    Attributes:
        name: What it leads to, for messages.
        tls: Whether connections are encrypted.
        is_cluster: Whether slots are spread over servers, so that routes have to be learned.
    """

    name: str
    tls: bool

    @property
    def is_cluster(self) -> bool: ...

    def route(self, slot: int | None) -> Server | None:
        """The server for a slot, any for None; None if that is not known yet, or if no server has it."""
        ...

    def named(self, name: str) -> Server | None:
        """The server of that name, None if it is none any more."""
        ...

    def at(self, host: str, port: int) -> Server | None:
        """The server at an address that a redirect named, None where redirects cannot be followed."""
        ...

    def names(self) -> list[str]:
        """The names of all servers that hold slots; none before routes were learned."""
        ...

    def as_cluster(self) -> Topology:
        """The topology of the cluster that the server turned out to be part of.

        Raises:
            ServerRefusedError: The client is the caller's, and for one server only.
        """
        ...

    async def learn(self, failed: str) -> None:
        """Learn the routes, again if they are known; from the server called `failed` only if no other answers."""
        ...

    def watch(self, observer: PrimaryObserver) -> Coroutine[Any, Any, None] | None:
        """What tells an observer what is said of the primary, until cancelled; None where nobody says anything."""
        ...

    def on_new_credentials(self, call: Callable[[], None]) -> None:
        """Call a function whenever connections have to authenticate anew."""
        ...

    async def aclose(self) -> None:
        """Close what this library opened."""
        ...


def detach_transport(connection: OpenedConnection) -> asyncio.Transport:
    """The transport under a connected connection. redis-py has no public name for it."""
    return connection._writer.transport  # noqa: SLF001
