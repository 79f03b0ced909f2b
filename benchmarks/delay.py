"""A proxy that lets what a client sends wait for a while: `python -m benchmarks.delay PORT SECONDS`.

It runs in a process of its own, listens on a free port and prints its number.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"


class Answers(asyncio.Protocol):
    """From the server: at once."""

    def __init__(self, client: asyncio.WriteTransport) -> None:
        self.client = client

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self.client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the client's connection as well."""
        self.client.close()


class Requests(asyncio.Protocol):
    """From a client: in order, each piece so many seconds after it came."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.seconds = seconds
        self.loop = asyncio.get_running_loop()
        self.pieces: deque[tuple[float, bytes]] = deque()
        self.server: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server."""
        self.transport = cast("asyncio.WriteTransport", transport)
        self.connecting = self.loop.create_task(self.connect())

    async def connect(self) -> None:
        """What has come meanwhile waits for the connection."""
        self.server, _ = await self.loop.create_connection(lambda: Answers(self.transport), HOST, self.port)
        self.pass_on()

    def data_received(self, data: bytes) -> None:
        """Keep a piece until its time has come."""
        self.pieces.append((self.loop.time() + self.seconds, data))
        if len(self.pieces) == 1 and self.server is not None:
            self.loop.call_at(self.pieces[0][0], self.pass_on)

    def pass_on(self) -> None:
        """Send what is due."""
        assert self.server is not None
        while self.pieces and self.pieces[0][0] <= self.loop.time():
            self.server.write(self.pieces.popleft()[1])
        if self.pieces:
            self.loop.call_at(self.pieces[0][0], self.pass_on)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the server's connection as well."""
        if self.server is not None:
            self.server.close()


async def serve(port: int, seconds: float) -> None:
    """Listen until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Requests(port, seconds), HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def delayed(port: int, seconds: float) -> Iterator[str]:
    """The URL of a proxy in front of the server on this port."""
    command = [sys.executable, "-m", "benchmarks.delay", str(port), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"redis://{HOST}:{int(process.stdout.readline())}"
        finally:
            process.terminate()


if __name__ == "__main__":
    # select() sleeps to the microsecond, epoll to the millisecond.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(serve(int(sys.argv[1]), float(sys.argv[2])))
