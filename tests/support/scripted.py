"""A server that says what a test wants: RESP2, GET, SET and MULTI, and a function that may answer instead."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

import hiredis

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Deed", "ScriptedServer", "bulk"]

Command = list[bytes]


class Deed(Enum):
    """What a server can do instead of a reply."""

    CUT = "end the connection"
    SILENCE = "never reply"
    FLOOD = "begin the longest string there may be, and go on and on"


def bulk(text: bytes | None) -> bytes:
    """A bulk string, or the one for nothing."""
    return b"$-1\r\n" if text is None else b"$%d\r\n%b\r\n" % (len(text), text)


class ScriptedServer:
    """Listens on a free loopback port.

    Attributes:
        answer: Asked about every command; None is what a server with nothing in it says.
        commands: Every command received, those of the handshake left out.
        accepted: How many connections were accepted.
        greeting: What is sent to a new connection, which then ends; None: nothing, and it stays.
        flooded: How many bytes were sent by floods.
        floods: How many of them are under way.
    """

    def __init__(self, answer: Callable[[Command], bytes | Deed | None] = lambda _: None) -> None:
        self.answer = answer
        self.commands: list[Command] = []
        self.accepted = 0
        self.greeting: bytes | None = None
        self.flooded = self.floods = 0
        self.port = 0
        self._stored: dict[bytes, bytes] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    def names(self, *left_out: bytes) -> list[bytes]:
        """The names of the commands received."""
        return [command[0] for command in self.commands if command[0] not in left_out]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the aborted transports close their sockets in this turn

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def pause(self) -> None:
        """Execute nothing until `resume`; connections are accepted and wait too."""
        self._flowing.clear()

    def resume(self) -> None:
        """End `pause`: what has arrived meanwhile is executed."""
        self._flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        parser: Any = hiredis.Reader(notEnoughData=Ellipsis)
        transaction = _Transaction(self._default)
        try:
            if self.greeting is not None:
                writer.write(self.greeting)
                writer.close()
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    await self._flowing.wait()
                    if writer.transport.is_closing():
                        return  # it was cut
                    parser.feed(data)
                    while (parsed := parser.gets()) is not Ellipsis:
                        command: Command = parsed
                        if command[0] != b"CLIENT":
                            self.commands.append(command)
                        deed = self.answer(command)
                        if deed is Deed.CUT:
                            return
                        if deed is Deed.FLOOD:
                            await self._flood(writer)
                        elif not isinstance(deed, Deed):
                            writer.write(transaction.reply(command, deed))
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        """Send steadily, until the other side has closed the connection."""
        self.floods += 1
        try:
            writer.write(b"$536870912\r\n")
            while True:
                await writer.drain()
                writer.write(bytes(4096))
                self.flooded += 4096
                await asyncio.sleep(0.002)
        finally:
            self.floods -= 1

    def _default(self, command: Command) -> bytes:
        reply = b"+OK\r\n"
        match command:
            case [b"INFO", *_]:
                reply = bulk(b"# Cluster\r\ncluster_enabled:0\r\n# Stats\r\nevicted_keys:0\r\n")
            case [b"GET", key]:
                reply = bulk(self._stored.get(key))
            case [b"SET", key, value, *options]:
                before, self._stored[key] = self._stored.get(key), value
                if b"GET" in options:
                    reply = bulk(before)
            case [b"ZADD" | b"ZREM" | b"DEL" | b"EXISTS", *_]:
                reply = b":1\r\n"
            case [b"TYPE", _]:
                reply = b"+none\r\n"
            case [b"EVAL" | b"EVALSHA", _, b"1", *_]:  # the look through an index that a write takes now and then
                reply = b"*3\r\n$1\r\n0\r\n:0\r\n:0\r\n"
            case [b"PING"]:
                reply = b"+PONG\r\n"
            case _:
                pass
        return reply


class _Transaction:
    """What MULTI and EXEC of one connection make of a reply."""

    def __init__(self, execute: Callable[[Command], bytes]) -> None:
        self._execute = execute
        self._queued: list[Command] | None = None
        self._broken = False

    def reply(self, command: Command, scripted: bytes | None) -> bytes:
        if scripted is None and command[0] == b"MULTI":
            self._queued, self._broken = [], False
            return b"+OK\r\n"
        if self._queued is None:
            return scripted or self._execute(command)
        if command[0] != b"EXEC":
            self._queued.append(command)
            self._broken |= scripted is not None
            return scripted or b"+QUEUED\r\n"
        queued, self._queued = self._queued, None
        if scripted is not None or self._broken:
            return scripted or b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        return b"*%d\r\n" % len(queued) + b"".join(self._execute(each) for each in queued)
