"""A TCP proxy that misbehaves on demand, for tests that put it between a client and a real server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from redis_state.testing.ports import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Action", "FaultProxy", "sometimes"]


@dataclass(frozen=True, kw_only=True)
class Action:
    """What happens to the bytes that have just arrived.

    Attributes:
        delay: How long to wait first, in seconds.
        forward: How many of the bytes go on; the rest is swallowed. None: all of them.
        cut: Whether the connection ends after that.
    """

    delay: float = 0.0
    forward: int | None = None
    cut: bool = False


def sometimes(
    seed: int, *, cut: float = 0.0, delay: float = 0.0, longest_delay: float = 0.01
) -> Callable[[bytes], Action | None]:
    """A hook with random faults: cuts and delays with the given probabilities, the same ones for a seed.

    A cut lets a random part of the bytes pass first, from none to all. Delays last up to `longest_delay` seconds.
    """
    dice = random.Random(seed)

    def hook(data: bytes) -> Action | None:
        if dice.random() < cut:
            return Action(forward=dice.randint(0, len(data)), cut=True)
        if dice.random() < delay:
            return Action(delay=dice.uniform(0, longest_delay))
        return None

    return hook


@dataclass(eq=False)
class _Connection:
    writers: list[asyncio.StreamWriter]  # to the client, then to the server
    cut: bool = False
    drop_reply: bool = False


class FaultProxy:
    """Listens on a free loopback port and forwards to the server at `host` and `port`, with faults on demand.

    Attributes:
        delay: Every piece that arrives is forwarded this many seconds later.
        slice_size: Pieces are forwarded in slices of this many bytes; None: as they come.
        reset: Whether a cut shows as a reset (RST) to both sides, and not as an end of stream.
        on_request: Asked about every piece from the client that `cut_after` and the like leave alone.
        on_reply: The same for the server's pieces.
        accepted: Connections accepted so far.
        cuts: Connections cut so far.
        bytes_up: Request bytes forwarded so far.
        bytes_down: Reply bytes forwarded so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.host, self.port = HOST, 0
        self.delay = 0.0
        self.slice_size: int | None = None
        self.reset = False
        self.on_request: Callable[[bytes], Action | None] | None = None
        self.on_reply: Callable[[bytes], Action | None] | None = None
        self.accepted = self.cuts = self.bytes_up = self.bytes_down = 0
        self._cut_after_requests: int | None = None
        self._cut_after_replies: int | None = None
        self._drop_reply_to: bytes | None = None
        self._hang_up = False
        self._requests_flow, self._replies_flow = asyncio.Event(), asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.release()

    async def __aenter__(self) -> Self:
        while self._listener is None:
            self.port = free_port()
            with contextlib.suppress(OSError):  # somebody took the port just now
                await self.admit()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def cut(self) -> int:
        """Cut all connections now; returns how many there were."""
        before = self.cuts
        for connection in self._connections:
            self._cut(connection)
        return self.cuts - before

    def cut_after(self, *, requests: int | None = None, replies: int | None = None) -> None:
        """Once: let so many more bytes of requests or replies pass, then cut the connection that sent the last."""
        self._cut_after_requests, self._cut_after_replies = requests, replies

    def drop_reply(self, to: bytes = b"") -> None:
        """Once: forward a request that contains `to`, swallow the reply and cut the connection."""
        self._drop_reply_to = to

    def stall(self, *, requests: bool = True, replies: bool = True) -> None:
        """Forward nothing in these directions until `release`; new connections are accepted and stall too."""
        for stalled, flow in ((requests, self._requests_flow), (replies, self._replies_flow)):
            if stalled:
                flow.clear()

    def release(self) -> None:
        """End `stall`: what has arrived meanwhile is forwarded."""
        self._requests_flow.set()
        self._replies_flow.set()

    def refuse(self, *, hang_up: bool = False) -> None:
        """Refuse new connections, or accept them and hang up at once; open connections stay."""
        self._hang_up = hang_up
        if not hang_up and self._listener is not None:
            self._listener.close()
            self._listener = None

    async def admit(self) -> None:
        """End `refuse`: accept connections on the same port again."""
        self._hang_up = False
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, self.host, self.port)

    async def aclose(self) -> None:
        """Stop listening and cut what is open; idempotent."""
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the aborted transports close their sockets in this turn

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection([writer])
        if self._hang_up:
            self._cut(connection)
        else:
            self._connections.add(connection)
            task = asyncio.ensure_future(self._serve(connection, reader))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: _Connection, requests: asyncio.StreamReader) -> None:
        pumps: list[asyncio.Task[None]] = []
        try:
            with contextlib.suppress(OSError):  # no server: the client sees its connection end
                replies, server = await asyncio.open_connection(*self.target)
                connection.writers.append(server)
                for writer in connection.writers:
                    writer.transport.set_write_buffer_limits(high=0)  # drain() waits until all is sent
                if not connection.cut:
                    pumps.append(asyncio.ensure_future(self._pump_requests(connection, requests)))
                    pumps.append(asyncio.ensure_future(self._pump_replies(connection, replies)))
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for writer in connection.writers:
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._connections.discard(connection)
            for writer in connection.writers:
                writer.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump_requests(self, connection: _Connection, requests: asyncio.StreamReader) -> None:
        while not connection.cut and (data := await requests.read(65536)):
            await self._requests_flow.wait()
            if self._drop_reply_to is not None and self._drop_reply_to in data:
                self._drop_reply_to, connection.drop_reply = None, True
            action, self._cut_after_requests = _next_action(data, self._cut_after_requests, self.on_request)
            sent = await self._forward(connection, connection.writers[1], data, action)
            self.bytes_up += sent  # not in one statement, which would read the counter before it waits

    async def _pump_replies(self, connection: _Connection, replies: asyncio.StreamReader) -> None:
        while not connection.cut and (data := await replies.read(65536)):
            await self._replies_flow.wait()
            action, self._cut_after_replies = _next_action(data, self._cut_after_replies, self.on_reply)
            if connection.drop_reply:
                action = Action(forward=0, cut=True)
            sent = await self._forward(connection, connection.writers[0], data, action)
            self.bytes_down += sent

    async def _forward(self, connection: _Connection, writer: asyncio.StreamWriter, data: bytes, action: Action) -> int:
        if delay := self.delay + action.delay:
            await asyncio.sleep(delay)
        data = data[: action.forward]
        size = self.slice_size or len(data) or 1
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            if self.slice_size is not None:
                # In the first turn the receiver's socket becomes readable, in the second it is read.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        if action.cut:
            self._cut(connection)
        return len(data)

    def _cut(self, connection: _Connection) -> None:
        if connection.cut:
            return
        connection.cut = True
        self.cuts += 1
        for writer in connection.writers:
            if self.reset:
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


def _next_action(
    data: bytes, cut_after: int | None, hook: Callable[[bytes], Action | None] | None
) -> tuple[Action, int | None]:
    """What happens to `data`, and what is left of `cut_after`."""
    if cut_after is not None:
        if cut_after <= len(data):
            return Action(forward=cut_after, cut=True), None
        cut_after -= len(data)
    return (hook(data) if hook is not None else None) or Action(), cut_after
