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
_CHANNELS: Final = (_BEGINS, _SWITCHED, _GIVEN_UP)
_IN_PROGRESS: Final = "failover_in_progress"  # a flag of the primary, at the Sentinel that runs the failover
_ASK_EVERY: Final = 10.0  # seconds between two questions while a Sentinel is heard
_ASK_UNHEARD: Final = 1.0  # seconds while none is, and while a failover is under way
_CHECK: Final = 0.5  # seconds in which a Sentinel must answer, so that writes do not wait for one that is down
_PATIENT: Final[dict[str, Any]] = {"socket_timeout": None, "socket_keepalive": True}  # silence is no failure
_SWITCH_WORDS: Final = 5
_LAST_PAUSE: Final = 2.0  # seconds before a lost subscription is made again; the first time there is none
_MOST: Final = 100  # Sentinels that are listened to


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

    Writes are held while a failover is under way, and until every Sentinel that can be reached has been asked: at the
    beginning, and when a subscription was lost, because what it would have said is not known.

    All of its state:
        listeners: a task for each Sentinel, by address.
        heard: the clients of those that are subscribed to, by address.
        checking: the addresses of those that are being asked for the first time, or again after a loss.
        is_learning: whether the Sentinels are not all known yet.
        is_failing_over: whether a failover is under way, as far as is known.
        is_held: whether writes are held.

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
        self._heard: dict[tuple[str, int], Any] = {}
        self._checking: set[tuple[str, int]] = set()
        self._is_learning = True
        self._is_failing_over = False
        self._is_held = True
        observer.hold_writes()

    async def run(self) -> None:
        """Listen until cancelled, and ask now and then: a Sentinel that cannot be heard may have spoken."""
        try:
            for client in self._sentinels.sentinels:
                kwargs = client.connection_pool.connection_kwargs
                self._listen_to((str(kwargs["host"]), int(kwargs["port"])))
            while True:
                with contextlib.suppress(Exception):  # redis-py trips over a reply that makes no sense in many ways
                    async with asyncio.timeout(_ASK_EVERY):
                        await self._ask()
                self._is_learning = False
                self._decide()
                is_calm = self._heard and not self._is_failing_over
                await asyncio.sleep(_ASK_EVERY if is_calm else _ASK_UNHEARD)
                if self._is_failing_over:
                    await self._look_for_end()
        finally:
            listeners = list(self._listeners.values())
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)

    async def _ask(self) -> None:
        """Ask for the primary, and for the Sentinels that the first one knows beside itself."""
        first: Any = self._sentinels.sentinels[0]
        for each in await first.sentinel_sentinels(self._service, return_responses=True):
            self._listen_to((str(each["ip"]), int(each["port"])))
        sentinels: Any = self._sentinels
        address: Any = await sentinels.discover_master(self._service)
        if await self._primary.is_primary(tuple(address)):
            self._observer.primary_is(*address)

    async def _look_for_end(self) -> None:
        """Ask all Sentinels whether a failover is still under way: what was published of its end may be lost."""
        asked = [self._is_in_progress(client) for client in self._heard.values()]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        if True not in answers and not self._checking:
            self._is_failing_over = False
            self._decide()

    async def _is_in_progress(self, client: Any) -> bool:
        async with asyncio.timeout(_CHECK):
            state: Any = await client.sentinel_master(self._service, return_responses=True)
        return _IN_PROGRESS in state["flags"]

    def _decide(self) -> None:
        """Hold writes or let them go, by what is known now."""
        holds = self._is_failing_over or self._is_learning or bool(self._checking)
        if holds != self._is_held:
            self._is_held = holds
            (self._observer.hold_writes if holds else self._observer.release_writes)()

    def _listen_to(self, address: tuple[str, int]) -> None:
        if address not in self._listeners and len(self._listeners) < _MOST:
            self._checking.add(address)
            self._listeners[address] = asyncio.get_running_loop().create_task(self._keep_listening(address))

    async def _keep_listening(self, address: tuple[str, int]) -> None:
        pause = 0.0
        while True:
            settings: dict[str, Any] = {**self._pool.connection_kwargs, **_PATIENT}
            settings |= {"host": address[0], "port": address[1]}
            pool = ConnectionPool(connection_class=self._pool.connection_class, **settings)
            client: Any = Redis.from_pool(pool)
            try:
                async with client.pubsub() as events:
                    async with asyncio.timeout(_CHECK):
                        await self._subscribe(events)
                    if await self._is_in_progress(client):
                        self._is_failing_over = True
                    self._heard[address] = client
                    self._checked(address)
                    pause = 0.0
                    async for event in events.listen():
                        if event["type"] == "pmessage":
                            self._take(_text(event["channel"]), _text(event["data"]))
            except Exception:  # noqa: BLE001, S110  # as above
                pass  # it is down, or does not let us subscribe; the others are listened to as well
            finally:
                if self._heard.pop(address, None) is not None:
                    self._checking.add(address)  # until it was asked again, at once, or is found to be down
                    self._decide()
                else:
                    self._checked(address)
                await _closed(client)
            await asyncio.sleep(pause)
            pause = min(_LAST_PAUSE, max(0.1, pause * 2))

    async def _subscribe(self, events: Any) -> None:
        await events.psubscribe(*_CHANNELS)
        confirmed = 0
        while confirmed < len(_CHANNELS):
            event = await events.get_message(timeout=_CHECK)
            confirmed += event is not None and event["type"] == "psubscribe"
            if event is not None and event["type"] == "pmessage":
                self._take(_text(event["channel"]), _text(event["data"]))

    def _checked(self, address: tuple[str, int]) -> None:
        self._checking.discard(address)
        self._decide()

    def _take(self, channel: str, data: str) -> None:
        """Take what was published: ``master <name> <host> <port>``, or ``<name> <old> <port> <new> <port>``."""
        words = data.split(" ")
        if channel == _SWITCHED:
            if len(words) == _SWITCH_WORDS and words[0] == self._service and (words[2] + words[4]).isdecimal():
                old, new = (words[1], int(words[2])), (words[3], int(words[4]))
                if self._primary.switched(old, new):
                    self._observer.primary_is(*new)
                    self._is_failing_over = False
        elif words[:2] == ["master", self._service]:
            self._is_failing_over = channel == _BEGINS
        self._decide()


async def _closed(client: Any) -> None:
    """Close a client to the end, also where the listener is cancelled meanwhile."""
    closing = asyncio.ensure_future(client.aclose())
    try:
        await asyncio.wait((closing,))
    except asyncio.CancelledError:
        await asyncio.wait((closing,))
        raise
    finally:
        if closing.done() and not closing.cancelled():
            closing.exception()  # whatever it is, the connection is gone


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
