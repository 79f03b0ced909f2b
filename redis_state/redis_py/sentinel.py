"""The primary that Sentinels name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from redis_state.redis_py.sentinel_watch import SentinelWatch
from redis_state.redis_py.standalone import PooledServer, Standalone

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from redis_state.redis_py.topology import OpenedConnection, PrimaryObserver

_DEMOTED: Final = 30.0  # seconds in which an address that lost its role is used only if most Sentinels name it
_LATE: Final = 5.0  # seconds in which it is not used at all: Sentinels tell each other every two


class NoPrimaryError(MasterNotFoundError):
    """Raised when no Sentinel names a primary.

    Attributes:
        reason: Why, in words.
        refused: Whether a Sentinel wants another password.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)  # pyright: ignore[reportUnknownMemberType]
        self.reason = reason
        self.refused = refused


class Sentinels(Sentinel):
    """redis-py's client, asking each Sentinel for the address that it gives to clients.

    redis-py looks at the state of all primaries instead, which shows an old address for a second longer in a failover,
    and takes a wrong password or a Sentinel that is down for an unknown name.
    """

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the primary, from the first Sentinel that names one; that one is asked first again."""
        reached = False
        for number, sentinel in enumerate(self.sentinels):
            client: Any = sentinel
            try:
                address: Any = await client.sentinel_get_master_addr_by_name(service_name)
            except (AuthenticationError, AuthorizationError):
                raise NoPrimaryError("the Sentinels do not accept sentinel_password", refused=True) from None
            except ResponseError:
                reached = True
            except (RedisError, OSError):
                continue
            else:
                reached = True
                if address is not None:
                    self.sentinels.insert(0, self.sentinels.pop(number))
                    host, port = address
                    return host.decode() if isinstance(host, bytes) else host, int(port)
        if reached:
            raise NoPrimaryError(f"no Sentinel knows a primary called {service_name}; check master_name")
        raise NoPrimaryError("none of the Sentinels can be reached; check sentinel_addrs and tls")


class PrimaryServer(PooledServer):
    """The primary, as long as no Sentinel has said that it is none any more.

    After a failover the other Sentinels go on naming the old primary for a moment, and it goes on taking writes.

    All of its state:
        current: the primary that was announced last.
        demoted: until when an address is believed only if most Sentinels name it, by the loop's clock.
    """

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        pool = client.connection_pool
        self._service: str = pool.service_name
        self._sentinels: list[Any] = pool.sentinel_manager.sentinels
        self._current: tuple[str, int] | None = None
        self._demoted: dict[tuple[str, int], float] = {}

    def switched(self, old: tuple[str, int], new: tuple[str, int]) -> bool:
        """Take note of a failover. Returns whether it is news: Sentinels publish it one after the other."""
        if old != self._current and self._is_demoted(new):
            return False  # this one is late: another failover was published since
        self._demoted[old] = asyncio.get_running_loop().time() + _DEMOTED
        self._demoted.pop(new, None)
        self._current = new
        return True

    async def is_primary(self, address: tuple[str, int]) -> bool:
        """Whether the word of one Sentinel can be believed, or else that of most of them."""
        if not self._is_demoted(address):
            return True
        if self._demoted[address] - _DEMOTED + _LATE > asyncio.get_running_loop().time():
            return False  # most of them may not know it yet
        names = await asyncio.gather(*map(self._ask, self._sentinels))
        if names.count(address) * 2 <= len(names):
            return False
        del self._demoted[address]
        self._current = address
        return True

    async def open(self, *, wait: bool) -> OpenedConnection:
        opened = await super().open(wait=wait)
        if not await self.is_primary((opened.host, opened.port)):
            await self.close(opened)
            self._sentinels.append(self._sentinels.pop(0))  # another may know more
            raise NoPrimaryError("the Sentinel that was asked still names the primary before the failover")
        return opened

    def _is_demoted(self, address: tuple[str, int]) -> bool:
        return self._demoted.get(address, 0.0) > asyncio.get_running_loop().time()

    async def _ask(self, sentinel: Any) -> tuple[str, int] | None:
        """The address that one Sentinel names; None where it names none."""
        try:
            address: Any = await sentinel.sentinel_get_master_addr_by_name(self._service)
        except (RedisError, OSError):
            return None
        if address is None:
            return None
        host, port = address
        return host.decode() if isinstance(host, bytes) else str(host), int(port)


class SentinelPrimary(Standalone):
    """The primary that Sentinels name, and what they say about it.

    Args:
        client: A `redis.asyncio.Redis` that `Sentinel.master_for` has made.
        owned: Whether this library made it and the clients of the Sentinels, and closes them.
    """

    def __init__(self, client: Any, *, owned: bool) -> None:
        self._primary = PrimaryServer(client)
        super().__init__(client, owned=owned, server=self._primary)
        self._sentinels: Sentinel = client.connection_pool.sentinel_manager
        self._service: str = client.connection_pool.service_name

    def watch(self, observer: PrimaryObserver) -> Coroutine[Any, Any, None]:
        return SentinelWatch(self._sentinels, self._service, self._primary, observer).run()

    async def aclose(self) -> None:
        await super().aclose()
        if self._owned:
            for client in self._sentinels.sentinels:
                await client.aclose()
