"""More callers than connections: all of them are served in their turn, or told within their deadline."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from support.faulty import SLACK, Bench, behind_proxy, outcome, state, texts
from support.proxy import Action, sometimes
from support.scripted import ScriptedServer

from redis_state import RedisConfig, RedisStateStore, StoreUnavailableError
from redis_state.commands.request import LARGE as LARGE_REQUEST

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from redis_state.testing import RedisServer

CALLERS = 10_000
LARGE = "x" * 8 * 1024 * 1024
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"


async def timed(operation: Awaitable[Any]) -> tuple[str, float]:
    """The outcome, and after how many seconds it came."""
    started = time.monotonic()
    return await outcome(operation), time.monotonic() - started


async def end_in_time(bench: Bench, operations: list[Awaitable[Any]]) -> list[str]:
    """The outcomes of operations that all end within their deadline."""
    found = await asyncio.gather(*(timed(operation) for operation in operations))
    assert max(seconds for _, seconds in found) < bench.budget + SLACK
    return [result for result, _ in found]


async def test_ten_thousand_callers_share_two_connections(redis_server: RedisServer) -> None:
    """Each gets its own result, and no third connection is opened."""
    async with behind_proxy(redis_server, timeout=30.0, pool_size=2) as bench:

        async def save_and_load(number: int) -> None:
            session_id = str(number % 500)
            if number < 500:
                await bench.store.save(state(session_id, n=session_id))
            else:
                assert (await bench.store.load("a", session_id)).data == {"n": session_id}

        for start, stop in ((0, 500), (500, CALLERS)):
            await asyncio.gather(*(save_and_load(number) for number in range(start, stop)))
        assert bench.proxy.accepted <= 2


async def test_callers_are_told_in_time_when_a_server_stalls(redis_server: RedisServer) -> None:
    """Those in flight and those in the queue: nobody waits for more than a budget."""
    async with behind_proxy(redis_server, timeout=1.0) as bench:
        await bench.store.save(state())
        bench.proxy.stall()
        saves: list[Awaitable[Any]] = [bench.store.save(state(str(number % 100))) for number in range(500)]
        loads: list[Awaitable[Any]] = [bench.store.load("a", "s") for _ in range(CALLERS - 500)]
        results = await end_in_time(bench, saves + loads)
        assert set(results[500:]) <= {"StoreTimeoutError", "StoreUnavailableError"}
        assert set(results[:500]) <= {"unknown", "StoreTimeoutError", "StoreUnavailableError"}
        await bench.quiet()
        bench.proxy.release()
        await bench.store.load("a", "s")


@pytest.mark.parametrize("reset", [False, True])
async def test_deadlines_hold_while_every_connection_ends_at_once(redis_server: RedisServer, *, reset: bool) -> None:
    """What is tried again and again is tried for no longer than one operation may take."""
    async with behind_proxy(redis_server, timeout=0.5) as bench:
        await bench.store.save(state())
        bench.proxy.reset = reset
        bench.proxy.on_request = lambda data: Action(forward=0, cut=True) if b"{a}" in data else None
        saves: list[Awaitable[Any]] = [bench.store.save(state(str(number))) for number in range(50)]
        loads: list[Awaitable[Any]] = [bench.store.load("a", "s") for _ in range(50)]
        results = await end_in_time(bench, saves + loads)
        assert set(results[:50]) <= {"unknown", "StoreTimeoutError", "StoreUnavailableError"}
        assert set(results[50:]) <= {"StoreTimeoutError", "StoreUnavailableError"}
        bench.proxy.on_request = None
        await bench.store.load("a", "s")


async def test_deadlines_hold_while_connections_are_cut_delayed_and_sliced(redis_server: RedisServer) -> None:
    """Some operations get through, others do not, none takes longer than it may."""
    async with behind_proxy(redis_server, timeout=0.5) as bench:
        await bench.store.save(state())
        bench.proxy.on_reply = sometimes(1, cut=0.3, delay=0.5, longest_delay=0.3)
        bench.proxy.slice_size = 50
        for _ in range(3):
            saves: list[Awaitable[Any]] = [bench.store.save(state(str(number))) for number in range(30)]
            loads: list[Awaitable[Any]] = [bench.store.load("a", "s") for _ in range(30)]
            await end_in_time(bench, saves + loads)
        bench.proxy.on_reply = None


async def test_a_save_of_two_steps_has_one_deadline(redis_server: RedisServer) -> None:
    """A store looks at an index before its first save for an agent; both together take no longer than one operation."""
    timeout = 1.0

    def answer(command: list[bytes]) -> bytes | None:
        patient = time.monotonic() < started + 1.7 * timeout
        return LOADING if command[0] == b"SET" or (command[0] == b"TYPE" and patient) else None

    async with ScriptedServer() as server:
        config = RedisConfig(addrs=[server.addr], read_timeout=timeout, write_timeout=timeout)
        async with RedisStateStore.from_config(config) as store:
            server.answer = answer
            started = time.monotonic()
            result, seconds = await timed(store.save(state()))
            assert result == "StoreUnavailableError"
            assert seconds < 2 * timeout + SLACK / 2


# Clients that were handed in

POOLS: dict[str, Any] = {"pool": ConnectionPool, "blocking pool": BlockingConnectionPool}


def pool_of(kind: str, size: int, bench: Bench) -> Any:
    """A pool of the caller's own, which leads to the proxy."""
    return POOLS[kind](host=bench.proxy.host, port=bench.proxy.port, max_connections=size)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", POOLS)
async def test_a_pool_smaller_than_asked_for_is_enough(redis_server: RedisServer, kind: str, size: int) -> None:
    """Small and large states alike, from many callers, with the connections that the client may have."""
    async with behind_proxy(redis_server) as bench:
        client = Redis.from_pool(pool_of(kind, size, bench))
        store = RedisStateStore(client, key_prefix=bench.truth.prefix, pool_size=10)

        async def work(number: int) -> None:
            size = 100_000 if number % 10 == 0 else 100
            mine = state(str(number), "x" * size, n=number)
            await store.save(mine)
            assert await store.load("a", str(number)) == mine

        accepted = bench.proxy.accepted
        await asyncio.gather(*(work(number) for number in range(100)))
        bench.proxy.cut()
        await asyncio.gather(*(work(number) for number in range(100)))
        assert bench.proxy.accepted - accepted <= 2 * size
        await store.aclose()
        assert client.connection_pool.can_get_connection()
        await client.aclose()


async def test_connections_that_the_caller_uses_himself_are_waited_for(redis_server: RedisServer) -> None:
    """A store takes its turn in a pool that has only one connection, and leaves the caller his."""
    async with behind_proxy(redis_server) as bench:
        pool = pool_of("blocking pool", 1, bench)
        client = Redis.from_pool(pool)
        store = RedisStateStore(client, key_prefix=bench.truth.prefix)
        mine = await pool.get_connection()
        save = asyncio.ensure_future(store.save(state()))
        await asyncio.sleep(0.05)
        assert not save.done()
        await pool.release(mine)
        await save
        await store.aclose()
        await client.aclose()


async def test_a_pool_with_no_free_connection_is_reported_with_what_to_do(redis_server: RedisServer) -> None:
    """The message names max_connections, and the operation ends in time."""
    async with behind_proxy(redis_server) as bench:
        pool = pool_of("pool", 1, bench)
        client = Redis.from_pool(pool)
        mine = await pool.get_connection()
        store = RedisStateStore(client, key_prefix=bench.truth.prefix)
        with pytest.raises(StoreUnavailableError, match="max_connections"):
            await store.load("a", "s")
        await pool.release(mine)
        await store.save(state())
        await store.aclose()
        await client.aclose()


@pytest.mark.parametrize("pool_size", [1, 2])
async def test_a_large_state_goes_out_as_the_server_takes_it(redis_server: RedisServer, pool_size: int) -> None:
    """While it does not, others wait or go past it; then all of it arrives, whoever has given up meanwhile."""
    async with behind_proxy(redis_server, pool_size=pool_size) as bench:
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
async def test_a_large_state_that_is_cut_off_was_not_saved(redis_server: RedisServer, is_back: bool) -> None:  # noqa: FBT001
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
