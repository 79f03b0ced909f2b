"""Whatever a server says of its cluster's slots: operations end in time, with an error that shows none of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest
from support.scripted import Command, Deed, ScriptedServer
from support.timed import SLACK, TIMES, Store, state, url_of

from redis_state import RedisStateStore, StateNotFoundError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable


def slot_range(first: object, last: object, *nodes: bytes) -> bytes:
    """One range of a map."""
    return b"*%d\r\n:%b\r\n:%b\r\n%b" % (2 + len(nodes), str(first).encode(), str(last).encode(), b"".join(nodes))


def slot_map(*ranges: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(ranges), b"".join(ranges))


def node(host: bytes, port: object) -> bytes:
    return b"*2\r\n$%d\r\n%b\r\n:%b\r\n" % (len(host), host, str(port).encode())


MAPS: Final = {
    "too many slots": slot_map(slot_range(0, 50_000_000, node(b"127.0.0.1", 1))),
    "absurdly many": slot_map(slot_range(0, 2**62, node(b"127.0.0.1", 1))),
    "negative": slot_map(slot_range(-50_000_000, 16383, node(b"127.0.0.1", 1))),
    "backwards": slot_map(slot_range(16383, 0, node(b"127.0.0.1", 1))),
    "the same over and over": slot_map(*[slot_range(0, 16383, node(b"127.0.0.1", 1))] * 1000),
    "many nodes": slot_map(slot_range(0, 16383, *[node(b"127.0.0.1", port) for port in range(1, 20_000)])),
    "no host name": slot_map(slot_range(0, 16383, node(b"a\nb\x1b[31m", 1))),
    "a long name": slot_map(slot_range(0, 16383, node(b"a" * 300, 1))),
    "a port out of range": slot_map(slot_range(0, 16383, node(b"127.0.0.1", 65536))),
    "a negative port": slot_map(slot_range(0, 16383, node(b"127.0.0.1", -1))),
    "a port as text": slot_map(slot_range(0, 16383, b"*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n")),
    "no node": slot_map(slot_range(0, 16383)),
    "an empty node": slot_map(slot_range(0, 16383, b"*0\r\n")),
    "nil nodes": slot_map(slot_range(0, 16383, b"*-1\r\n", b"$-1\r\n")),
    "a replica that is none": slot_map(slot_range(0, 16383, node(b"127.0.0.1", 1), b":1\r\n")),
    "no slots": slot_map(),
    "nil": b"*-1\r\n",
    "text": b"+OK\r\n",
    "a number": b":7\r\n",
    "numbers": b"*3\r\n:1\r\n:2\r\n:3\r\n",
    "slots as text": b"*1\r\n*3\r\n$1\r\n0\r\n$1\r\n9\r\n" + node(b"127.0.0.1", 1),
    "an error inside": b"*1\r\n-ERR no\x1b[31m\r\n",
    "a map": b"%1\r\n+a\r\n+b\r\n",
    "an absurd array": b"*5000000\r\n",
    "an error": b"-ERR This instance has cluster support disabled\r\n",
}


def store_of(server: ScriptedServer) -> Store:
    return RedisStateStore.from_url(url_of(f"redis+cluster://{server.addr}", "test:"))


def saying(reply: Callable[[], bytes]) -> Callable[[Command], bytes | Deed | None]:
    return lambda command: reply() if command[:2] == [b"CLUSTER", b"SLOTS"] else None


@pytest.mark.parametrize("name", MAPS)
async def test_a_slot_map_that_makes_no_sense_fails_the_operation_in_time(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that it names reaches the exception or a log."""
    caplog.set_level("DEBUG")
    async with ScriptedServer(saying(lambda: MAPS[name])) as server:
        store = store_of(server)
        try:
            async with asyncio.timeout(sum(TIMES.values()) + SLACK):
                with pytest.raises(StoreUnavailableError) as caught:
                    await store.save(state())
        finally:
            await store.aclose()
    for text in (str(caught.value), *(record.getMessage() for record in caplog.records)):
        assert "\x1b" not in text
        assert "\n" not in text


async def test_a_slot_map_that_goes_mad_later_leaves_the_routes_as_they_are() -> None:
    """What was learned is used on, and operations that no server takes end in time."""
    reply = b""
    async with ScriptedServer(saying(lambda: reply)) as server:
        reply = slot_map(slot_range(0, 16383, node(b"127.0.0.1", server.port)))
        async with store_of(server) as store:
            await store.save(state())
            reply = MAPS["too many slots"]
            server.cut()
            async with asyncio.timeout(sum(TIMES.values()) + SLACK):
                assert (await store.load("a", "s")).session_id == "s"


async def test_a_node_that_does_not_know_its_host_is_the_one_that_was_asked() -> None:
    """Servers say nil where their preferred endpoint is unknown."""
    async with (
        ScriptedServer(saying(lambda: slot_map(slot_range(0, 16383, b"*2\r\n$-1\r\n:%d\r\n" % server.port)))) as server,
        store_of(server) as store,
    ):
        with pytest.raises(StateNotFoundError):
            await store.load("a", "s")
