"""The fault proxy does what the fault tests rely on, with a server of its own behind it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from support.proxy import Action, FaultProxy, sometimes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Setting:
    """A proxy before a server that answers every line in capitals, and what that server was sent."""

    def __init__(self, port: int, received: bytearray) -> None:
        self.proxy = FaultProxy("127.0.0.1", port)
        self.received = received

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncGenerator[Client]:
        reader, writer = await asyncio.open_connection(self.proxy.host, self.proxy.port, limit=2**20)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


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


@pytest.fixture
async def setting() -> AsyncGenerator[Setting]:
    received = bytearray()
    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                received.extend(data)
                writer.write(data.upper())
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(
        lambda reader, writer: tasks.add(asyncio.ensure_future(answer(reader, writer))), "127.0.0.1", 0
    )
    setting = Setting(server.sockets[0].getsockname()[1], received)
    async with setting.proxy:
        yield setting
    assert setting.proxy.open_connections == 0
    server.close()
    await asyncio.gather(*tasks)


async def test_without_faults_everything_passes_and_is_counted(setting: Setting) -> None:
    async with setting.connected() as client, setting.connected() as other:
        assert await client.ask(b"hello\n") == b"HELLO\n"
        assert await other.ask(b"a" * 300_000 + b"\n") == b"A" * 300_000 + b"\n"
        assert setting.proxy.open_connections == 2
    proxy = setting.proxy
    assert (proxy.accepted, proxy.cuts, proxy.bytes_up, proxy.bytes_down) == (2, 0, 300_007, 300_007)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_ends_every_open_connection_and_new_ones_work(setting: Setting, *, reset: bool) -> None:
    setting.proxy.reset = reset
    async with setting.connected() as client, setting.connected() as other:
        await client.ask(b"x\n")
        await other.ask(b"x\n")
        assert (setting.proxy.cut(), setting.proxy.cut()) == (2, 0)
        if reset:
            with pytest.raises(ConnectionResetError):
                await client.reader.read(1)
        assert await client.ended()
        assert await other.ended()
    async with setting.connected() as client:
        assert await client.ask(b"again\n") == b"AGAIN\n"


async def test_requests_and_replies_are_cut_after_so_many_bytes(setting: Setting) -> None:
    setting.proxy.cut_after(requests=7)
    async with setting.connected() as client:
        assert await client.ask(b"abc\n") == b"ABC\n"
        client.writer.write(b"defghi\n")
        assert await client.reader.read(100) in (b"DEF", b"")
    assert setting.received == b"abc\ndef"
    setting.proxy.cut_after(replies=5)
    async with setting.connected() as client:
        assert await client.ask(b"abc\n") == b"ABC\n"
        assert await client.ask(b"def\n") == b"D"
    assert setting.received.endswith(b"defabc\ndef\n")


async def test_a_dropped_reply_is_one_whose_request_was_carried_out(setting: Setting) -> None:
    setting.proxy.drop_reply(to=b"EXEC")
    async with setting.connected() as client:
        assert await client.ask(b"MULTI\n") == b"MULTI\n"
        client.writer.write(b"EXEC\n")
        assert await client.ended()
    assert setting.received == b"MULTI\nEXEC\n"
    async with setting.connected() as client:
        assert await client.ask(b"EXEC\n") == b"EXEC\n"


@pytest.mark.parametrize("requests", [True, False])
async def test_what_is_stalled_waits_for_the_release(setting: Setting, *, requests: bool) -> None:
    """Stalled requests have not arrived, stalled replies belong to requests that have."""
    setting.proxy.stall(requests=requests, replies=not requests)
    async with setting.connected() as client:
        answer = asyncio.ensure_future(client.ask(b"a\n"))
        await asyncio.sleep(0.02)
        assert setting.received == (b"" if requests else b"a\n")
        assert not answer.done()
        setting.proxy.release()
        assert await answer == b"A\n"
        setting.proxy.stall()
        client.writer.write(b"b\n")
        await setting.proxy.aclose()
        assert await client.ended()


async def test_slices_arrive_one_by_one(setting: Setting) -> None:
    setting.proxy.slice_size = 1
    async with setting.connected() as client:
        client.writer.write(b"abcdefgh\n")
        pieces = [await client.reader.read(100)]
        while pieces[-1][-1:] != b"\n":
            pieces.append(await client.reader.read(100))
    assert b"".join(pieces) == b"ABCDEFGH\n"
    assert len(pieces) > 3


async def test_refused_connections_fail_at_once_or_end_at_once_and_open_ones_stay(setting: Setting) -> None:
    proxy = setting.proxy
    async with setting.connected() as client:
        assert await client.ask(b"a\n") == b"A\n"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, proxy.port)
        await proxy.admit()
        proxy.refuse(hang_up=True)
        async with setting.connected() as other:
            assert await other.ended()
        assert await client.ask(b"b\n") == b"B\n"
    await proxy.admit()
    async with setting.connected() as client:
        assert await client.ask(b"c\n") == b"C\n"


async def test_hooks_decide_about_each_piece(setting: Setting) -> None:
    setting.proxy.on_request = lambda data: Action(forward=2, cut=True) if b"bad" in data else None
    async with setting.connected() as client:
        assert await client.ask(b"good\n") == b"GOOD\n"
        client.writer.write(b"bad\n")
        await client.reader.read()
    assert setting.received == b"good\nba"


def test_random_faults_are_the_same_for_a_seed() -> None:
    def faults(seed: int) -> list[Action | None]:
        hook = sometimes(seed, cut=0.2, delay=0.2)
        return [hook(b"abc") for _ in range(100)]

    assert faults(1) == faults(1) != faults(2)
    assert {action.cut for action in faults(1) if action is not None} == {True, False}
