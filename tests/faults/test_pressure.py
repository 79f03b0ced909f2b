"""More callers than connections: all of them are served in their turn, or told within their deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from support.faulty import SLACK, Bench, behind_proxy, outcome, state, texts
from support.proxy import Action, sometimes
from support.scripted import ScriptedServer

from redis_state import AgentState, RedisConfig, RedisStateStore
from redis_state.commands.request import LARGE as LARGE_REQUEST

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

CALLERS = 5_000
LARGE = "x" * 8 * 1024 * 1024
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
NOTHING_DONE = {"StoreTimeoutError", "StoreUnavailableError"}


async def timed(operation: Awaitable[Any]) -> tuple[str, float]:
    """The outcome, and after how many seconds it came."""
    started = time.monotonic()
    return await outcome(operation), time.monotonic() - started


async def in_time(bench: Bench, saves: int, loads: int) -> None:
    """Check that saves and loads end within their deadline, all at once, and tell the truth of what failed."""
    operations: list[Awaitable[Any]] = [bench.store.save(state(str(number % 100))) for number in range(saves)]
    operations += [bench.store.load("a", "s") for _ in range(loads)]
    found = await asyncio.gather(*(timed(operation) for operation in operations))
    assert max(seconds for _, seconds in found) < bench.budget + SLACK
    assert {result for result, _ in found[:saves]} <= NOTHING_DONE | {"unknown", "done"}
    assert {result for result, _ in found[saves:]} <= NOTHING_DONE | {"done"}


async def test_thousands_of_callers_share_two_connections(redis_server: RedisServer) -> None:
    """Each gets its own result, and no third connection is opened."""
    async with behind_proxy(redis_server, timeout=30.0, pool_size=2) as bench:

        async def load(number: int) -> None:
            session_id = str(number % 500)
            assert (await bench.store.load("a", session_id)).data == {"n": session_id}

        await asyncio.gather(*(bench.store.save(state(str(number), n=str(number))) for number in range(500)))
        await asyncio.gather(*map(load, range(CALLERS)))
        assert bench.proxy.accepted <= 2


async def test_callers_are_told_in_time_when_a_server_stalls(redis_server: RedisServer) -> None:
    """Those in flight and those in the queue: nobody waits for more than a budget."""
    async with behind_proxy(redis_server, timeout=1.0) as bench:
        await bench.store.save(state())
        bench.proxy.stall()
        await in_time(bench, 500, CALLERS - 500)
        await bench.quiet()
        bench.proxy.release()
        await bench.store.load("a", "s")


@pytest.mark.parametrize("fault", ["end", "reset", "cut, delayed and sliced"])
async def test_deadlines_hold_whatever_becomes_of_the_connections(redis_server: RedisServer, fault: str) -> None:
    """What is tried again and again is tried for no longer than one operation may take."""
    async with behind_proxy(redis_server, timeout=0.5) as bench:
        await bench.store.save(state())
        bench.proxy.reset = fault == "reset"
        if fault == "cut, delayed and sliced":
            bench.proxy.on_reply = sometimes(1, cut=0.3, delay=0.5, longest_delay=0.3)
            bench.proxy.slice_size = 50
        else:
            bench.proxy.on_request = lambda data: Action(forward=0, cut=True) if b"{a}" in data else None
        await in_time(bench, 50, 50)
        bench.proxy.on_request = bench.proxy.on_reply = bench.proxy.slice_size = None
        await bench.store.load("a", "s")


async def test_a_save_that_is_refused_until_its_time_is_up_has_one_deadline() -> None:
    """However many steps it takes."""
    timeout = 0.5
    async with ScriptedServer(lambda command: LOADING if command[0] in (b"SET", b"TYPE") else None) as server:
        config = RedisConfig(addrs=[server.addr], read_timeout=timeout, write_timeout=timeout)
        async with RedisStateStore.from_config(config) as store:
            result, seconds = await timed(store.save(state()))
    assert result == "StoreUnavailableError"
    assert seconds < 2 * timeout + SLACK / 2


# Clients that were handed in


@asynccontextmanager
async def handed_in(
    bench: Bench, kind: type[Any], size: int, **options: Any
) -> AsyncGenerator[tuple[Any, RedisStateStore[AgentState]]]:
    """A pool of the caller's own, which leads to the proxy, and a store on a client of it."""
    pool = kind(host=bench.proxy.host, port=bench.proxy.port, max_connections=size)
    client = Redis.from_pool(pool)
    store = RedisStateStore(client, key_prefix=bench.truth.prefix, **options)
    yield pool, store
    await store.aclose()
    assert kind is BlockingConnectionPool or pool.can_get_connection()
    await client.aclose()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", [ConnectionPool, BlockingConnectionPool])
async def test_a_pool_smaller_than_asked_for_is_enough(redis_server: RedisServer, kind: type[Any], size: int) -> None:
    """Small and large states alike, from many callers, with the connections that the client may have."""
    async with behind_proxy(redis_server) as bench, handed_in(bench, kind, size, pool_size=10) as (_, store):

        async def work(number: int) -> None:
            mine = state(str(number), "x" * (100_000 if number % 10 == 0 else 100), n=number)
            await store.save(mine)
            assert await store.load("a", str(number)) == mine

        accepted = bench.proxy.accepted
        await asyncio.gather(*(work(number) for number in range(100)))
        bench.proxy.cut()
        await asyncio.gather(*(work(number) for number in range(100)))
        assert bench.proxy.accepted - accepted <= 2 * size


async def test_connections_that_the_caller_uses_himself_are_waited_for(redis_server: RedisServer) -> None:
    """A store takes its turn in a pool that has only one connection, and leaves the caller his."""
    async with behind_proxy(redis_server) as bench, handed_in(bench, BlockingConnectionPool, 1) as (pool, store):
        mine = await pool.get_connection()
        save = asyncio.ensure_future(store.save(state()))
        await asyncio.sleep(0.05)
        assert not save.done()
        await pool.release(mine)
        await save


# Large states


@pytest.mark.parametrize("pool_size", [1, 2])
async def test_a_large_state_goes_out_as_the_server_takes_it(redis_server: RedisServer, pool_size: int) -> None:
    """While it does not, others wait or go past it; then all of it arrives, whoever has given up meanwhile."""
    async with behind_proxy(redis_server, pool_size=pool_size, timeout=2.0) as bench:
        await asyncio.gather(bench.store.save(state("large", "y" * len(LARGE))), bench.store.save(state("0")))
        bench.proxy.stall()
        large = asyncio.ensure_future(bench.store.save(state("large", LARGE)))
        given_up = asyncio.ensure_future(bench.store.save(state("given-up", LARGE)))
        small = [asyncio.ensure_future(bench.store.save(state(str(number)))) for number in range(20)]
        await asyncio.sleep(0.1)
        given_up.cancel()
        small[7].cancel()
        bench.proxy.release()
        assert await asyncio.gather(*(outcome(save) for save in (large, *small[:7], *small[8:]))) == ["done"] * 20
        assert texts(await bench.store.load("a", "large")) == [LARGE]
        assert bench.truth.disagreement() == set()


@pytest.mark.parametrize("is_back", [True, False])
async def test_a_large_state_that_is_cut_off_was_not_saved(redis_server: RedisServer, *, is_back: bool) -> None:
    """A part of a request is no request: it is sent again, or fails with an error that says nothing happened."""
    async with behind_proxy(redis_server) as bench:
        await bench.store.save(state("large", "y"))
        bench.proxy.stall()
        large = asyncio.ensure_future(bench.store.save(state("large", LARGE)))
        await asyncio.sleep(0.05)
        if not is_back:
            bench.proxy.refuse()
        bench.proxy.cut()
        bench.proxy.release()
        assert await bench.in_time(large) == ("done" if is_back else "StoreUnavailableError")
        await bench.proxy.admit()
        stored = await bench.truth.load("large")
        assert stored is not None
        assert texts(stored) == [LARGE if is_back else "y"]


@pytest.mark.parametrize(("states", "piece"), [(1, 1024 * 1024), (2, LARGE_REQUEST)])
async def test_the_loop_has_its_turn_while_large_states_go_out(
    redis_server: RedisServer, states: int, piece: int
) -> None:
    """They are written in pieces, and others run between them; in small ones, if other operations are under way."""
    async with RedisStateStore.from_url(redis_server.url) as store:
        await store.save(state("large", "y"))
        turns = 0
        large = asyncio.gather(*(store.save(state(f"large{number}", LARGE)) for number in range(states)))
        while not large.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns >= len(LARGE) // piece
        await store.delete_agent("a")
