"""Connections in memory: bytes are split, late or lost, and connections break, as TCP's do."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from .faults import Dice
    from .loop import VirtualLoop

_HIGH, _LOW = 64 * 1024, 16 * 1024
_TICK: Final = 1e-6
_NEVER: Final = 1e9


class Peer(Protocol):
    """The server's end of a connection."""

    def received(self, data: bytes) -> None:
        """Take bytes."""
        ...

    def lost(self) -> None:
        """Notice that the connection is gone."""
        ...


class Listener(Protocol):
    """A server that may be connected to."""

    stopped: bool
    down: bool

    def accept(self, link: Link) -> Peer:
        """The server's end of a new connection."""
        ...

    def later(self, work: Callable[[], None]) -> None:
        """Do something when the server runs again."""
        ...


class Socket:
    """What clients ask of a socket."""

    def setsockopt(self, *_: object) -> None:
        """Every option is fine."""

    def fileno(self) -> int:
        return -1


class Link(asyncio.Transport):
    """One connection: the client's transport, and what is under way in both directions.

    All of its state:
        unsent: what the client has written and the socket has not taken.
        flight: what is under way to the server.
        waiting: what has come for a client that has paused reading.
    """

    def __init__(self, network: Network, listener: Listener, address: tuple[str, int], number: int) -> None:
        super().__init__({"peername": address, "socket": Socket(), "sockname": ("127.0.0.1", 40000 + number)})
        self._network = network
        self._loop = network.loop
        self._dice = network.dice
        self._listener = listener
        self._peer = listener.accept(self)
        self._protocol: Any = None
        self.number = number
        self.address = address
        self._unsent: deque[bytes] = deque()
        self._flight: deque[bytes] = deque()
        self._waiting: deque[bytes] = deque()
        self._window = self._dice.rng.choice((32, 128, 512)) * 1024
        self._up = self._down = 0.0
        self._closing = False
        self._dead = False  # nothing passes any more
        self._is_lost = False  # the protocol was told, or will be
        self._paused = False
        self._reading = True
        self._is_cut = False  # a write has come in part, and nothing comes after it

    # The client's end, as asyncio has it

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        while self._waiting and self._reading and not self._closing:
            self._protocol.data_received(self._waiting.popleft())

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self._unsent))

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return _LOW, _HIGH

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limits stay."""

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not data or self._closing or self._dead or self._is_cut:
            return
        content = bytes(data)
        if self._dice.happens("cut_in_request"):
            cut = self._dice.rng.randrange(len(content))
            self._dice.note("cut_in_request", f"#{self.number} at {cut} of {len(content)}")
            self._is_cut = True
            self._unsent.append(content[:cut])
            self._pump()
            self._at("_up", self.reset)
            return
        self._unsent.append(content)
        self._pump()
        if not self._paused and self.get_write_buffer_size() > _HIGH:
            self._paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._unsent:
                self._hang_up()
                self._lose(None)

    def abort(self) -> None:
        if not self._is_lost:
            self._closing = True
            self._hang_up()
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = self._closing = True
            self._network.links.discard(self)
            self._unsent.clear()
            self._loop.call_soon(self._protocol.connection_lost, error)

    # To the server

    def _pump(self) -> None:
        rng = self._dice.rng
        while self._unsent and sum(map(len, self._flight)) < self._window:
            chunk = self._unsent.popleft()
            if len(chunk) > self._window:
                self._unsent.appendleft(chunk[self._window :])
                chunk = chunk[: self._window]
            if len(chunk) > 1 and self._dice.happens("split"):
                self._dice.note("split")
                cut = rng.randrange(1, len(chunk))
                self._unsent.appendleft(chunk[cut:])
                chunk = chunk[:cut]
            self._flight.append(chunk)
            self._at("_up", self._arrive, "to the server")

    def _at(self, direction: str, event: Callable[[], None], what: str = "") -> None:
        """Let something happen after all that is under way in one direction."""
        delay = self._dice.rng.choice((0.0001, 0.0001, 0.0002, 0.0005, 0.002))
        if what and self._dice.happens("stall"):
            delay += self._dice.rng.choice((0.05, 0.4, 2.0, 6.0))
            self._dice.note("stall", f"#{self.number} {what} {delay:.2f}s")
        when = max(self._loop.time() + delay, getattr(self, direction) + _TICK)
        setattr(self, direction, when)
        self._loop.happen(when, event)

    def _arrive(self) -> None:
        if self._dead or not self._flight:
            return
        if self._listener.stopped:
            self._listener.later(self._arrive)
            return
        self._peer.received(self._flight.popleft())
        if self._dead:
            return
        self._pump()
        if self._paused and self.get_write_buffer_size() <= _LOW:
            self._paused = False
            self._protocol.resume_writing()
        if self._closing and not self._unsent and not self._is_lost:
            self._hang_up()
            self._lose(None)

    def _hang_up(self) -> None:
        """The client closes: what is in flight comes at once, in part, or never, but never after what is sent later."""
        if self._dead:
            return
        self._dead = True
        data = b"".join(self._flight)
        self._flight.clear()
        if data:
            some = self._dice.rng.choice((0, len(data), self._dice.rng.randrange(len(data) + 1)))
            data = data[:some]
        if self._listener.stopped:
            self._listener.later(lambda: self._end(data))
        else:
            self._end(data)

    def _end(self, data: bytes) -> None:
        if data:
            self._peer.received(data)
        self._peer.lost()

    # From the server

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        while data and not self._dead:
            cut = len(data)
            if cut > 1 and self._dice.happens("split"):
                self._dice.note("split")
                cut = self._dice.rng.randrange(1, cut)
            elif cut > _HIGH:
                cut = _HIGH
            chunk, data = data[:cut], data[cut:]
            self._at("_down", lambda chunk=chunk: self._deliver(chunk), "to the client")

    def _deliver(self, chunk: bytes) -> None:
        if self._closing or self._is_lost:
            return
        if self._reading:
            self._protocol.data_received(chunk)
        else:
            self._waiting.append(chunk)

    def reset(self) -> None:
        """The connection breaks: as a reset, or as an end that the client reads after what was sent before."""
        if self._dead:
            return
        self._dead = True
        self._peer.lost()
        if self._dice.rng.random() < 0.5:
            self._at("_down", self._read_end)
        else:
            self._loop.happen(self._loop.time(), lambda: self._lose(ConnectionResetError(errno.ECONNRESET, "reset")))

    def finish(self) -> None:
        """Close the connection from the server's side, after what was sent."""
        if not self._dead:
            self._dead = True
            self._peer.lost()
            self._at("_down", self._read_end)

    def _read_end(self) -> None:
        if not self._closing:
            keep_open = self._protocol.eof_received()
            if not keep_open or self._dead:
                self._lose(None)
        elif not self._is_lost:
            self._lose(None)


class Network:
    """All addresses that can be connected to."""

    def __init__(self, loop: VirtualLoop, dice: Dice) -> None:
        self.loop = loop
        self.dice = dice
        self.listeners: dict[tuple[str, int], Listener] = {}
        self.links: set[Link] = set()
        self.closed = False  # nobody can be reached
        self._count = 0

    async def connect(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> tuple[Link, Any]:
        """What `loop.create_connection` does."""
        listener = self.listeners.get((host, int(port)))
        dice = self.dice
        await self._pause(dice.rng.choice((0.0002, 0.0005, 0.003)))
        if dice.happens("silent_connect"):
            dice.note("silent_connect", f"{host}:{port}")
            await self._pause(20.0)
        refused = dice.happens("refused_connect")
        if refused:
            dice.note("refused_connect", f"{host}:{port}")
        if listener is None or listener.down or refused or self.closed:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed ('{host}', {port})")
        self._count += 1
        link = Link(self, listener, (host, int(port)), self._count)
        protocol = factory()
        link.set_protocol(protocol)
        self.links.add(link)
        protocol.connection_made(link)
        return link, protocol

    async def _pause(self, seconds: float) -> None:
        done = self.loop.create_future()
        self.loop.happen(self.loop.time() + seconds, lambda: None if done.done() else done.set_result(None))
        await done
