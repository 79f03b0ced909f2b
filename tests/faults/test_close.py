"""`aclose()`: when it has returned nothing is pending, and no task, timer or connection is left."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from support.proxy import FaultProxy
from support.timed import BUDGET, SLACK, Store, messages, outcomes, state, timers, until, url_of

from redis_state import RedisStateStore
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

MANY = 6000  # sessions, more than a few pages of an index
READS = {"StoreClosedError", "StoreTimeoutError", "StoreUnavailableError"}
WRITES = {*READS, "OutcomeUnknownError"}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


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
    server: RedisServer, prefix: str, operation: str
) -> None:
    """Also one of many steps, of which each is in time."""
    async with FaultProxy(server.host, server.port) as proxy:
        async with RedisStateStore.from_url(f"{server.url}?key_prefix={prefix}") as seeding:
            for first in range(0, MANY, 500):
                await asyncio.gather(*(seeding.save(state(f"s-{first + n}")) for n in range(500)))
        store: Store = RedisStateStore.from_url(url_of(proxy.url, prefix))
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


async def test_nothing_is_left_when_a_close_of_a_silent_server_returns(server: RedisServer, prefix: str) -> None:
    """Every operation has ended with an error, and no task, timer or connection of the store is there."""
    tasks_before, timers_before = asyncio.all_tasks(), timers()
    store: Store = RedisStateStore.from_url(url_of(server.url, prefix))
    await asyncio.gather(*(store.save(state(f"s-{n}")) for n in range(100)))
    server.freeze()
    try:
        running = {name: asyncio.create_task(_caught(run(store))) for name, (run, _) in EACH.items()}
        await asyncio.sleep(0.1)
        async with asyncio.timeout(BUDGET + SLACK):
            await store.aclose()
        done, pending = await asyncio.wait(running.values(), timeout=0.05)
        left_tasks = asyncio.all_tasks() - tasks_before - pending
        left_timers = timers() - timers_before
    finally:
        server.thaw()
    for task in pending:
        task.cancel()
    assert not pending, sorted(name for name, task in running.items() if task in pending)
    assert len(done) == len(EACH)
    assert not left_tasks
    assert not left_timers
    for name, task in running.items():
        assert task.result() in EACH[name][1], name
    assert running["save"].result() == "OutcomeUnknownError"
    await until(lambda: server.info("clients")["connected_clients"] == "1")


async def test_a_close_at_rest_leaves_no_task_and_no_timer(server: RedisServer, prefix: str) -> None:
    """Whatever the store did before."""
    tasks_before, timers_before = asyncio.all_tasks(), timers()
    store: Store = RedisStateStore.from_url(url_of(server.url, prefix))
    await asyncio.gather(*(store.save(state(f"s-{n}")) for n in range(100)))
    await store.list("a")
    await store.delete_agent("a")
    await store.aclose()
    assert asyncio.all_tasks() == tasks_before
    assert timers() == timers_before
    await until(lambda: server.info("clients")["connected_clients"] == "1")


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


async def _caught(operation: Awaitable[Any]) -> str:
    (result,) = (await outcomes({"": operation}, 60)).values()
    return result
