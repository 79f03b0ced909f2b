"""The fault proxy does what the fault tests rely on, with a server of its own in front of nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from support.proxy import Action, FaultProxy, sometimes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Upstream:
    """A server that answers every line with the line in capitals and keeps what it was sent."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.port = 0

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncGenerator[Upstream]:
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.ensure_future(self._answer(reader, writer)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await asyncio.gather(*tasks)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.received += data
                writer.write(data.upper())
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def upstream() -> AsyncGenerator[Upstream]:
    async with Upstream().listen() as server:
        yield server


@pytest.fixture
async def proxy(upstream: Upstream) -> AsyncGenerator[FaultProxy]:
    async with FaultProxy("127.0.0.1", upstream.port) as proxy:
        yield proxy
    assert proxy.open_connections == 0


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, line: bytes) -> bytes:
        self.writer.write(line)
        return await self.reader.readline()

    async def ended(self) -> bool:
        """Whether the connection ends without another byte."""
        try:
            return await asyncio.wait_for(self.reader.read(1), 5) == b""
        except ConnectionError:
            return True


@contextlib.asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncGenerator[Client]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=2**20)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_without_faults_everything_passes_and_is_counted(proxy: FaultProxy) -> None:
    async with connected(proxy) as client, connected(proxy) as other:
        assert await client.ask(b"hello\n") == b"HELLO\n"
        assert await other.ask(b"a" * 300_000 + b"\n") == b"A" * 300_000 + b"\n"
        assert proxy.open_connections == 2
    assert (proxy.accepted, proxy.cuts) == (2, 0)
    assert proxy.bytes_up == proxy.bytes_down == 300_007


@pytest.mark.parametrize("reset", [False, True])
async def test_cut_ends_every_open_connection_and_new_ones_work(proxy: FaultProxy, *, reset: bool) -> None:
    proxy.reset = reset
    async with connected(proxy) as client, connected(proxy) as other:
        await client.ask(b"x\n")
        await other.ask(b"x\n")
        assert proxy.cut() == 2
        assert proxy.cut() == 0
        if reset:
            with pytest.raises(ConnectionResetError):
                await client.reader.read(1)
        else:
            assert await client.ended()
        assert await other.ended()
    async with connected(proxy) as client:
        assert await client.ask(b"again\n") == b"AGAIN\n"
    assert proxy.cuts == 2


async def test_a_request_is_cut_after_so_many_bytes(proxy: FaultProxy, upstream: Upstream) -> None:
    proxy.cut_after(requests=7)
    async with connected(proxy) as client:
        assert await client.ask(b"abc\n") == b"ABC\n"
        client.writer.write(b"defghi\n")
        assert (await client.reader.read(100)) in (b"DEF", b"")
    async with connected(proxy) as client:
        assert await client.ask(b"again\n") == b"AGAIN\n"
    assert upstream.received == b"abc\ndef" + b"again\n"


async def test_a_reply_is_cut_after_so_many_bytes(proxy: FaultProxy, upstream: Upstream) -> None:
    proxy.cut_after(replies=5)
    async with connected(proxy) as client:
        assert await client.ask(b"abc\n") == b"ABC\n"
        assert await client.ask(b"def\n") == b"D"
    assert upstream.received == b"abc\ndef\n"
    assert proxy.bytes_down == 5


async def test_a_dropped_reply_is_one_whose_request_was_carried_out(proxy: FaultProxy, upstream: Upstream) -> None:
    proxy.drop_reply(to=b"EXEC")
    async with connected(proxy) as client:
        assert await client.ask(b"MULTI\n") == b"MULTI\n"
        client.writer.write(b"EXEC\n")
        assert await client.ended()
    assert upstream.received == b"MULTI\nEXEC\n"
    async with connected(proxy) as client:
        assert await client.ask(b"EXEC\n") == b"EXEC\n"


async def test_stalled_requests_wait_for_the_release(proxy: FaultProxy, upstream: Upstream) -> None:
    async with connected(proxy) as client:
        assert await client.ask(b"a\n") == b"A\n"
        proxy.stall(replies=False)
        answer = asyncio.ensure_future(client.ask(b"b\n"))
        await asyncio.sleep(0.02)
        assert upstream.received == b"a\n"
        proxy.release()
        assert await answer == b"B\n"


async def test_stalled_replies_belong_to_requests_that_arrived(proxy: FaultProxy, upstream: Upstream) -> None:
    proxy.stall(requests=False)
    async with connected(proxy) as client:
        answer = asyncio.ensure_future(client.ask(b"a\n"))
        await asyncio.sleep(0.02)
        assert upstream.received == b"a\n"
        assert not answer.done()
        proxy.release()
        assert await answer == b"A\n"


async def test_slices_arrive_one_by_one(proxy: FaultProxy) -> None:
    proxy.slice_size = 1
    async with connected(proxy) as client:
        client.writer.write(b"abcdefgh\n")
        pieces = [await client.reader.read(100)]
        while pieces[-1][-1:] != b"\n":
            pieces.append(await client.reader.read(100))
    assert b"".join(pieces) == b"ABCDEFGH\n"
    assert len(pieces) > 3


async def test_bytes_of_connections_that_wait_at_the_same_time_are_all_counted(proxy: FaultProxy) -> None:
    proxy.delay = 0.01
    async with connected(proxy) as client, connected(proxy) as other:
        await asyncio.gather(client.ask(b"abc\n"), other.ask(b"defgh\n"))
    assert proxy.bytes_up == proxy.bytes_down == 10


async def test_a_delay_holds_back_both_ways(proxy: FaultProxy) -> None:
    proxy.delay = 0.02
    async with connected(proxy) as client:
        start = asyncio.get_running_loop().time()
        assert await client.ask(b"a\n") == b"A\n"
        assert asyncio.get_running_loop().time() - start >= 0.04


async def test_refused_connections_fail_at_once_and_open_ones_stay(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        assert await client.ask(b"a\n") == b"A\n"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, proxy.port)
        assert await client.ask(b"b\n") == b"B\n"
        await proxy.admit()
        async with connected(proxy) as other:
            assert await other.ask(b"c\n") == b"C\n"


async def test_a_hang_up_is_a_connection_that_ends_at_once(proxy: FaultProxy) -> None:
    proxy.refuse(hang_up=True)
    async with connected(proxy) as client:
        assert await client.ended()
    await proxy.admit()
    async with connected(proxy) as client:
        assert await client.ask(b"a\n") == b"A\n"


async def test_hooks_decide_about_each_piece(proxy: FaultProxy, upstream: Upstream) -> None:
    proxy.on_request = lambda data: Action(forward=2, cut=True) if b"bad" in data else None
    async with connected(proxy) as client:
        assert await client.ask(b"good\n") == b"GOOD\n"
        client.writer.write(b"bad\n")
        await client.reader.read()
    assert upstream.received == b"good\nba"


async def test_a_connection_ends_when_the_server_is_not_there(upstream: Upstream) -> None:
    async with FaultProxy("127.0.0.1", 1) as proxy, connected(proxy) as client:
        assert await client.ended()


async def test_close_ends_stalled_connections(upstream: Upstream) -> None:
    proxy = FaultProxy("127.0.0.1", upstream.port)
    async with proxy, connected(proxy) as client:
        proxy.stall()
        client.writer.write(b"a\n")
        await asyncio.sleep(0.01)
        await proxy.aclose()
        assert await client.ended()
        await proxy.aclose()


def test_random_faults_are_the_same_for_a_seed() -> None:
    def faults(seed: int) -> list[Action | None]:
        hook = sometimes(seed, cut=0.2, delay=0.2)
        return [hook(b"abc") for _ in range(100)]

    assert faults(1) == faults(1) != faults(2)
    assert {action.cut for action in faults(1) if action is not None} == {True, False}
