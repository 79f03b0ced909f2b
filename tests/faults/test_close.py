"""`aclose()`: when it has returned nothing is pending, and no task, timer or connection is left."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from support.faulty import Bench, behind_proxy, outcome
from support.proxy import FaultProxy
from support.timed import BUDGET, SLACK, Store, messages, outcomes, state, timers, until, url_of

from redis_state import RedisStateStore, StoreClosedError
from redis_state.testing import RedisServer

MANY = 6000  # sessions, more than a few pages of an index
READS = {"StoreClosedError", "StoreTimeoutError", "StoreUnavailableError"}
WRITES = {*READS, "OutcomeUnknownError"}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def bench(server: RedisServer) -> AsyncGenerator[Bench]:
    async with behind_proxy(server) as bench:
        yield bench


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


@pytest.fixture(scope="module")
def seeded(server: RedisServer) -> str:
    """A prefix under which an agent has many sessions."""

    async def fill() -> None:
        async with RedisStateStore.from_url(f"{server.url}?key_prefix=seeded:") as store:
            for first in range(0, MANY, 500):
                await asyncio.gather(*(store.save(state(f"s-{first + n}")) for n in range(500)))

    asyncio.run(fill())
    return "seeded:"


async def every_agent(store: Store) -> None:
    async for _ in store.agents():
        pass


async def forever(operation: Callable[[], Awaitable[Any]]) -> None:
    """An operation again and again, until it fails."""
    while True:
        await operation()


EACH: dict[str, tuple[Callable[[Store], Awaitable[Any]], set[str]]] = {
    "save": (lambda store: store.save(state("other")), WRITES),
    "append": (lambda store: store.append("a", "s-1", messages("x")), WRITES),
    "load": (lambda store: store.load("a", "s-1"), READS),
    "count": (lambda store: store.count("a"), READS),
    "list": (lambda store: store.list("a"), READS),
    "load_many": (lambda store: store.load_many("a", [f"s-{n}" for n in range(MANY)]), READS),
    "agents": (every_agent, READS),
    "delete_agent": (lambda store: store.delete_agent("a"), WRITES),
}


@pytest.mark.parametrize("operation", EACH)
async def test_an_operation_of_a_slow_server_ends_when_a_close_gives_up(
    server: RedisServer, seeded: str, operation: str
) -> None:
    """Also one of many steps, of which each is in time."""
    async with FaultProxy(server.host, server.port) as proxy:
        store: Store = RedisStateStore.from_url(url_of(proxy.url, seeded))
        await store.ping()
        run, _ = EACH[operation]
        proxy.delay = 0.15
        task = asyncio.create_task(outcomes({operation: forever(lambda: run(store))}, 3 * BUDGET))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(BUDGET + SLACK):
            await store.aclose()
        async with asyncio.timeout(4 * BUDGET + SLACK):
            found = await task
    assert found[operation] in EACH[operation][1]


@pytest.mark.parametrize("silent", [True, False])
async def test_nothing_is_left_when_a_close_has_returned(server: RedisServer, prefix: str, *, silent: bool) -> None:
    """At rest and with a silent server: every operation has ended, and no task, timer or connection is there."""
    tasks_before, timers_before = asyncio.all_tasks(), timers()
    store: Store = RedisStateStore.from_url(url_of(server.url, prefix))
    await asyncio.gather(*(store.save(state(f"s-{n}")) for n in range(100)))
    await store.list("a")
    running: dict[str, asyncio.Task[str]] = {}
    if silent:
        server.freeze()
        running = {name: asyncio.create_task(_caught(run(store))) for name, (run, _) in EACH.items()}
        await asyncio.sleep(0.1)
    try:
        async with asyncio.timeout(BUDGET + SLACK):
            await store.aclose()
        await asyncio.sleep(0.05 * silent)
        pending = {name for name, task in running.items() if not task.done()}
        left_tasks, left_timers = asyncio.all_tasks() - tasks_before, timers() - timers_before
    finally:
        server.thaw()
    assert (pending, left_tasks, left_timers) == (set(), set(), set())
    for name, task in running.items():
        assert task.result() in EACH[name][1], name
    assert not silent or running["save"].result() == "OutcomeUnknownError"
    await until(lambda: server.info("clients")["connected_clients"] == "1")


async def _caught(operation: Awaitable[Any]) -> str:
    (result,) = (await outcomes({"": operation}, 60)).values()
    return result


async def test_what_was_taken_before_a_close_is_carried_out(server: RedisServer, prefix: str) -> None:
    """Saves that wait for a slow connection are stored, and those of later callers are refused."""
    async with FaultProxy(server.host, server.port) as proxy:
        store: Store = RedisStateStore.from_url(url_of(proxy.url, prefix))
        await store.ping()
        proxy.delay = 0.1
        saves = {f"{n}": asyncio.create_task(store.save(state(f"s-{n}"))) for n in range(200)}
        await asyncio.sleep(0)
        await store.aclose()
        assert set((await outcomes(dict(saves), 0)).values()) == {"done"}
        assert (await outcomes({"late": store.save(state("late"))}))["late"] == "StoreClosedError"


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 10])
async def test_operations_in_flight_end_before_a_store_is_closed(bench: Bench, turns: int) -> None:
    """Each is carried out and says so, or was not taken any more; nothing is left over."""
    await bench.store.save(state("warm"))
    saves = [asyncio.ensure_future(outcome(bench.store.save(state(str(number))))) for number in range(300)]
    lists = [asyncio.ensure_future(outcome(bench.store.list("a"))) for _ in range(10)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.gather(*(bench.store.aclose() for _ in range(3)))  # all return when it is closed
    results = await asyncio.gather(*saves, *lists)
    assert set(results) <= {"done", "StoreClosedError"}
    assert turns < 2 or results == ["done"] * 310
    assert len(await bench.truth.store.list("a")) == results[:300].count("done") + 1


@pytest.mark.parametrize("read", ["load", "list"])
async def test_a_close_that_is_cancelled_goes_on_and_takes_nothing_new(bench: Bench, read: str) -> None:
    """Whatever it still waits for, of one step or of several; it can be waited for again."""
    store = bench.store
    await store.save(state())
    bench.proxy.stall()
    last = asyncio.ensure_future(outcome(store.load("a", "s") if read == "load" else store.list("a")))
    await asyncio.sleep(0.01)
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0.01)
    later = [asyncio.ensure_future(outcome(call)) for call in (store.load("a", "s"), store.list("a"))]
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    bench.proxy.release()
    assert await last == "done"
    await store.aclose()
    assert await asyncio.gather(*later) == ["StoreClosedError"] * 2
    assert bench.pending == 0


async def test_a_store_may_be_closed_while_it_connects(bench: Bench) -> None:
    """The caller is told at once or has a result, and no connection is left, whenever the close comes."""
    before = bench.proxy.open_connections
    for turns in range(60):
        store = RedisStateStore.from_url(bench.proxy.url + f"?key_prefix={bench.truth.prefix}")
        save = asyncio.ensure_future(outcome(store.save(state(str(turns)))))
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(SLACK):
            await store.aclose()
            assert await save in ("done", "StoreClosedError", "StoreUnavailableError"), f"after {turns} turns"
        with pytest.raises(StoreClosedError):
            await store.load("a", "s")
        await until(lambda: bench.proxy.open_connections == before, SLACK)


async def test_a_body_that_is_cancelled_closes_its_store(bench: Bench) -> None:
    """No connection outlives `async with`."""

    async def body() -> None:
        async with RedisStateStore.from_url(bench.proxy.url + f"?key_prefix={bench.truth.prefix}") as store:
            while True:
                await asyncio.gather(*(store.save(state(str(number))) for number in range(50)))

    before = bench.proxy.open_connections
    task = asyncio.ensure_future(body())
    await until(lambda: bench.proxy.open_connections > before)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await until(lambda: bench.proxy.open_connections == before)
    assert not bench.truth.disagreement()
