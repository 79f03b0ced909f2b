"""Servers that announce more than they can mean, or send without end: the connection goes, and memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import pytest
from support.faulty import SLACK, outcome, state, until
from support.scripted import Command, Deed, ScriptedServer

from redis_state import RedisConfig, RedisStateStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from redis_state import AgentState

PATIENT: Final = 60.0  # seconds: what ends before has not waited for its time
ABSURD: Final = {  # each is followed by silence
    "bulk": b"$10000000000\r\n",
    "bulk above 512 MB": b"$536870913\r\n",
    "verbatim string": b"=10000000000\r\n",
    "array": b"*500000000\r\n",
    "map": b"%500000000\r\n",
    "set": b"~500000000\r\n",
    "push": b">500000000\r\n",
    "attribute": b"|500000000\r\n",
    "nested arrays": b"*1000\r\n" * 3000,
    "array behind others": b"*2\r\n$5\r\nhello\r\n*500000000\r\n",
    "line": b"+" + b"x" * 100_000,
}


@contextlib.asynccontextmanager
async def opened(server: ScriptedServer, timeout: float) -> AsyncGenerator[RedisStateStore[AgentState]]:  # noqa: ASYNC109
    config = RedisConfig(addrs=[server.addr], read_timeout=timeout, write_timeout=timeout, pool_size=1)
    async with RedisStateStore.from_config(config) as store:
        yield store


@pytest.mark.parametrize("kind", ABSURD)
async def test_an_absurd_header_ends_the_connection_at_once(kind: str) -> None:
    """A read is unavailable, a write unknown, long before their time; the next connection serves."""
    absurd: bytes | None = None

    def answer(command: Command) -> bytes | Deed | None:
        return absurd if command[0] in (b"GET", b"MULTI") else None

    async with ScriptedServer(answer) as server, opened(server, PATIENT) as store, asyncio.timeout(PATIENT / 4):
        await store.ping()
        absurd = ABSURD[kind]
        assert await outcome(store.load("a", "s")) == "StoreUnavailableError"
        assert await outcome(store.save(state())) == "unknown"
        absurd = None
        assert await outcome(store.load("a", "other")) == "StateNotFoundError"
        assert server.accepted == 3


async def test_an_absurd_header_fails_all_that_wait_for_the_connection() -> None:
    """Nothing that came with it or comes behind it is believed."""

    def answer(command: Command) -> bytes | Deed | None:
        return b"*500000000\r\n" if command[0] == b"GET" and command[1].endswith(b":s") else None

    async with ScriptedServer(answer) as server, opened(server, PATIENT) as store, asyncio.timeout(PATIENT / 4):
        await store.ping()
        operations = [store.load("a", "s"), store.load("a", "behind"), store.save(state("other"))]
        expected = ["StoreUnavailableError", "StoreUnavailableError", "unknown"]
        assert await asyncio.gather(*map(outcome, operations)) == expected


async def test_a_flood_ends_soon_after_the_operation() -> None:
    """The connection of a request that expired long ago is closed, though the server goes on sending."""

    def answer(command: Command) -> bytes | Deed | None:
        return Deed.FLOOD if command[0] == b"GET" and command[1].endswith(b":s") else None

    timeout = 0.2
    async with ScriptedServer(answer) as server, opened(server, timeout) as store:
        await store.ping()
        assert await outcome(store.load("a", "s")) == "StoreTimeoutError"
        await until(lambda: server.floods == 0, seconds=4 * timeout + SLACK)
        print(f"{server.flooded} bytes were sent")
        assert await outcome(store.load("a", "other")) == "StateNotFoundError"
        assert server.accepted == 2


async def test_a_flood_that_nobody_asked_for_is_not_listened_to() -> None:
    """A connection without a request has no deadline, so what it receives is bounded by itself."""
    flood = False

    def answer(command: Command) -> bytes | Deed | None:
        return b"+PONG\r\n$536870912\r\n" + bytes(200_000) if flood and command[0] == b"PING" else None

    async with ScriptedServer(answer) as server, opened(server, PATIENT) as store, asyncio.timeout(PATIENT / 4):
        await store.ping()
        flood = True
        await store.ping()
        await until(lambda: "1 connections" not in repr(store))
        flood = False
        await store.ping()
        assert server.accepted == 2
