"""What Sentinels publish about a primary: failovers that begin, and their end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis.asyncio import ConnectionPool, Redis

if TYPE_CHECKING:
    from redis.asyncio.sentinel import Sentinel

    from redis_state.redis_py.topology import PrimaryObserver

_BEGINS: Final = "+try-failover"
_SWITCHED: Final = "+switch-master"
_GIVEN_UP: Final = "-failover-abort-*"
_ASK_EVERY: Final = 10.0  # seconds between two questions while a Sentinel is heard
_ASK_UNHEARD: Final = 1.0  # seconds while none is
_PATIENT: Final[dict[str, Any]] = {"socket_timeout": None, "socket_keepalive": True}  # silence is no failure
_SWITCH_WORDS: Final = 5
_MOST: Final = 100  # Sentinels that are listened to
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 2.0  # seconds before a lost subscription is made again


class Primary(Protocol):
    """What remembers which address has lost its role."""

    async def is_primary(self, address: tuple[str, int]) -> bool:
        """Whether an address that one Sentinel names is to be believed."""
        ...

    def switched(self, old: tuple[str, int], new: tuple[str, int]) -> bool:
        """Take note of a failover. Returns whether it is news."""
        ...


class SentinelWatch:
    """Listens to every Sentinel, since only the one that runs a failover publishes its steps.

    All of its state:
        listeners: a task for each Sentinel, by address.
        heard: the addresses of those that are subscribed to.

    Args:
        sentinels: Asks for the primary's address.
        service: The name of the primary.
        primary: What remembers which address has lost its role.
        observer: Who is told.
    """

    def __init__(self, sentinels: Sentinel, service: str, primary: Primary, observer: PrimaryObserver) -> None:
        self._sentinels = sentinels
        self._service = service
        self._pool: Any = sentinels.sentinels[0].connection_pool
        self._primary = primary
        self._observer = observer
        self._listeners: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._heard: set[tuple[str, int]] = set()

    async def run(self) -> None:
        """Listen until cancelled, and ask now and then: a Sentinel that cannot be heard may have spoken."""
        try:
            for client in self._sentinels.sentinels:
                kwargs = client.connection_pool.connection_kwargs
                self._listen_to((str(kwargs["host"]), int(kwargs["port"])))
            while True:
                with contextlib.suppress(Exception):  # redis-py trips over a reply that makes no sense in many ways
                    sentinels: Any = self._sentinels
                    address: Any = await sentinels.discover_master(self._service)
                    if await self._primary.is_primary(tuple(address)):
                        self._observer.primary_is(*address)
                    for each in await self._others():
                        self._listen_to((str(each["ip"]), int(each["port"])))
                await asyncio.sleep(_ASK_EVERY if self._heard else _ASK_UNHEARD)
        finally:
            listeners = list(self._listeners.values())
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)

    async def _others(self) -> list[dict[str, Any]]:
        """The Sentinels that the first one knows beside itself."""
        client: Any = self._sentinels.sentinels[0]
        return await client.sentinel_sentinels(self._service, return_responses=True)

    def _listen_to(self, address: tuple[str, int]) -> None:
        if address not in self._listeners and len(self._listeners) < _MOST:
            self._listeners[address] = asyncio.get_running_loop().create_task(self._listen(address))

    async def _listen(self, address: tuple[str, int]) -> None:
        pause = _FIRST_PAUSE
        while True:
            settings: dict[str, Any] = {
                **self._pool.connection_kwargs,
                **_PATIENT,
                "host": address[0],
                "port": address[1],
            }
            pool = ConnectionPool(connection_class=self._pool.connection_class, **settings)
            client: Any = Redis.from_pool(pool)
            try:
                async with client.pubsub() as events:
                    await events.psubscribe(_BEGINS, _SWITCHED, _GIVEN_UP)
                    self._heard.add(address)
                    pause = _FIRST_PAUSE
                    async for event in events.listen():
                        if event["type"] == "pmessage":
                            self._take(_text(event["channel"]), _text(event["data"]))
            except Exception:  # noqa: BLE001, S110  # as above
                pass  # it is down, or does not let us subscribe; the others are listened to as well
            finally:
                self._heard.discard(address)
                with contextlib.suppress(Exception):
                    await client.aclose()
            await asyncio.sleep(pause)
            pause = min(_LAST_PAUSE, pause * 2)

    def _take(self, channel: str, data: str) -> None:
        """Tell the observer. It reads ``master <name> <host> <port>``, or ``<name> <old> <port> <new> <port>``."""
        words = data.split(" ")
        if channel == _SWITCHED:
            if len(words) == _SWITCH_WORDS and words[0] == self._service and (words[2] + words[4]).isdecimal():
                old, new = (words[1], int(words[2])), (words[3], int(words[4]))
                if self._primary.switched(old, new):
                    self._observer.primary_is(*new)
                    self._observer.failover_ends()
        elif words[:2] == ["master", self._service]:
            if channel == _BEGINS:
                self._observer.failover_begins()
            else:
                self._observer.failover_ends()


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
