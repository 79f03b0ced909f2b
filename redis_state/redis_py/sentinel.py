"""The primary that Sentinels name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from redis_state.redis_py.sentinel_watch import SentinelWatch
from redis_state.redis_py.standalone import Standalone

if TYPE_CHECKING:
    from redis_state.redis_py.topology import PrimaryObserver


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


class SentinelPrimary(Standalone):
    """The primary that Sentinels name, and what they say about it.

    Args:
        client: A `redis.asyncio.Redis` that `Sentinel.master_for` has made.
        owned: Whether this library made it and the clients of the Sentinels, and closes them.
    """

    def __init__(self, client: Any, *, owned: bool) -> None:
        super().__init__(client, owned=owned)
        self._sentinels: Sentinel = client.connection_pool.sentinel_manager
        self._service: str = client.connection_pool.service_name

    async def watch(self, observer: PrimaryObserver) -> None:
        await SentinelWatch(self._sentinels, self._service, observer).run()

    async def aclose(self) -> None:
        await super().aclose()
        if self._owned:
            for client in self._sentinels.sentinels:
                await client.aclose()
