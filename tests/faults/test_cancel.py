"""Callers that are cancelled: nobody else notices, and no connection is lost over it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Coroutine
from typing import TYPE_CHECKING

import pytest
from support.faulty import Bench, behind_proxy, outcome, state, until
from support.proxy import Action

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

OPERATIONS = 5_000
WORKERS = 100


@pytest.fixture
async def bench(redis_server: RedisServer) -> AsyncGenerator[Bench]:
    async with behind_proxy(redis_server, timeout=5.0, pool_size=4) as bench:
        yield bench


class Worker:
    """One caller with a session of its own, and what it knows of it."""

    def __init__(self, bench: Bench, number: int) -> None:
        self.store = bench.store
        self.session_id = f"{number:03}"
        self.dice = random.Random(number)
        self.wrong: list[str] = []
        self.operations = self.cancelled = 0
        self.last = self.tried = 0  # what was saved for certain, and what may have been

    async def load(self) -> None:
        loaded = await self.store.load("a", self.session_id)
        if loaded.session_id != self.session_id or not self.last <= loaded.data["n"] <= self.tried:
            self.wrong.append(f"{self.session_id} loaded {loaded.session_id} with {loaded.data}")

    async def save(self) -> None:
        self.tried = number = self.tried + 1
        await self.store.save(state(self.session_id, n=number))
        self.last = number

    async def save_large(self) -> None:
        await self.store.save(state(f"{self.session_id}-large", "x" * 100_000))

    async def look(self) -> None:
        if await self.store.exists("a", self.session_id) is not True:
            self.wrong.append(f"{self.session_id} is gone")

    async def delete(self) -> None:
        if await self.store.delete("a", f"{self.session_id}-none") is not False:
            self.wrong.append(f"{self.session_id}-none was there")

    def choose(self) -> Coroutine[None, None, None]:
        kinds = [self.load, self.save, self.look, self.delete, self.save_large]
        return self.dice.choices(kinds, [30, 30, 10, 10, 1])[0]()

    async def run(self, times: int) -> None:
        await self.save()
        for _ in range(times):
            self.operations += 1
            task = asyncio.ensure_future(self.choose())
            if self.dice.random() < 0.5:
                await self.cancel(task)
            try:
                await task
            except asyncio.CancelledError:
                self.cancelled += 1

    async def cancel(self, task: asyncio.Task[None]) -> None:
        """Cancel at a random moment, and perhaps once more in the same turn of the loop or soon after."""
        if self.dice.random() < 0.7:
            for _ in range(self.dice.randrange(6)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self.dice.uniform(0, 0.01))
        for _ in range(self.dice.choice([1, 1, 2, 3])):
            task.cancel()
            if self.dice.random() < 0.5:
                await asyncio.sleep(0)


@pytest.mark.parametrize("slices", [None, 700])
async def test_cancellations_leave_no_wrong_reply_and_cost_no_connection(bench: Bench, slices: int | None) -> None:
    """Thousands of operations with random and double cancels: neighbours get their own results, no task is left."""
    bench.proxy.slice_size = slices
    connections = bench.proxy.accepted + 3  # those that load may open
    tasks = asyncio.all_tasks()
    workers = [Worker(bench, number) for number in range(WORKERS)]
    await asyncio.gather(*(worker.run(OPERATIONS // WORKERS // (4 if slices else 1)) for worker in workers))
    await bench.quiet()
    cancelled = sum(worker.cancelled for worker in workers)
    reconnects = max(0, bench.proxy.accepted - connections)
    operations = sum(worker.operations for worker in workers)
    print(f"{operations} operations, {cancelled} cancelled, {reconnects} reconnects")
    assert [wrong for worker in workers for wrong in worker.wrong] == []
    assert cancelled > operations / 10
    assert reconnects / cancelled < 0.01
    assert bench.proxy.open_connections <= 4
    for worker in workers:
        stored = await bench.truth.load(worker.session_id)
        assert stored is not None
        assert worker.last <= stored.data["n"] <= worker.tried
    assert not bench.truth.disagreement()
    proxys = ("_pump", "_serve")
    assert [task for task in asyncio.all_tasks() - tasks if not any(name in repr(task) for name in proxys)] == []


async def test_an_operation_that_was_not_sent_is_withdrawn(bench: Bench) -> None:
    """The server never hears of it."""
    await bench.store.save(state("kept"))
    bench.proxy.refuse()
    bench.proxy.cut()
    await until(lambda: bench.proxy.open_connections == 0)
    saves = [asyncio.ensure_future(bench.store.save(state(str(number)))) for number in range(50)]
    await asyncio.sleep(0)
    for save in saves:
        save.cancel()
    await asyncio.wait(saves)
    await bench.proxy.admit()
    assert await bench.store.list("a") == ["kept"]
    assert all(save.cancelled() for save in saves)


async def test_the_reply_of_an_operation_that_was_sent_is_dropped(bench: Bench) -> None:
    """Those behind it get their own, on the same connection."""
    await asyncio.gather(*(bench.store.save(state(str(number), n=number)) for number in range(100)))
    accepted = bench.proxy.accepted
    bench.proxy.stall(requests=False)
    loads = [asyncio.ensure_future(bench.store.load("a", str(number))) for number in range(100)]
    await asyncio.sleep(0.05)
    for load in loads[::2] * 2:
        load.cancel()
    bench.proxy.release()
    assert [each.data["n"] for each in await asyncio.gather(*loads[1::2])] == list(range(1, 100, 2))
    assert all(load.cancelled() for load in loads[::2])
    assert bench.proxy.accepted == accepted


@pytest.mark.parametrize("turns", [0, 1, 2, 20])
async def test_a_cancelled_save_leaves_the_object_as_it_was(bench: Bench, turns: int) -> None:
    """Also one that had not begun. Whether it was carried out is not known; the object can be saved again."""
    mine = state(n=1)
    await bench.store.save(mine)
    before = (mine.version, mine.updated_at)
    bench.proxy.stall()
    save = asyncio.ensure_future(bench.store.save(mine))
    for _ in range(turns):
        await asyncio.sleep(0)
    save.cancel()
    await asyncio.wait([save])
    assert (mine.version, mine.updated_at) == before
    bench.proxy.release()
    await bench.store.save(mine)
    assert await bench.truth.load() == mine


async def test_a_caller_that_gives_up_while_replies_are_lost_stops_no_other(bench: Bench) -> None:
    """A batch is cut in flight, half of its callers are gone: the other half is settled."""
    await bench.store.save(state("warm"))
    cut = iter([True])
    bench.proxy.on_reply = lambda _: Action(forward=0, cut=True) if next(cut, False) else None
    objects = [state(str(number), n=number) for number in range(100)]
    saves = [asyncio.ensure_future(outcome(bench.store.save(each))) for each in objects]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for save in saves[::2]:
        save.cancel()
    assert await asyncio.gather(*saves[1::2]) == ["done"] * 50
    await bench.quiet()
    for each in objects[1::2]:
        assert await bench.truth.load(each.session_id) == each
    assert not bench.truth.disagreement()


@pytest.mark.parametrize("turns", range(0, 15, 3))
async def test_the_first_caller_may_be_cancelled_while_the_store_connects(bench: Bench, turns: int) -> None:
    """Those who wait for the same first connection get it."""
    bench.proxy.delay = 0.005
    store = type(bench.store).from_url(bench.proxy.url + f"?key_prefix={bench.truth.prefix}")
    saves = [asyncio.ensure_future(store.save(state(str(number)))) for number in range(10)]
    for _ in range(turns):
        await asyncio.sleep(0)
    saves[0].cancel()
    await asyncio.gather(*saves[1:])
    await asyncio.wait(saves[:1])
    await store.aclose()
    bench.proxy.delay = 0.0


async def test_an_update_that_is_cancelled_leaves_the_session_as_it_was_or_updated(bench: Bench) -> None:
    """Never a part of it, whenever that happens."""
    await bench.store.save(state(n=0, m=0))
    done = 0
    for number in range(200):
        add = bench.store.update("a", "s", lambda of: of.data.update(n=of.data["n"] + 1, m=of.data["m"] + 1))
        update = asyncio.ensure_future(add)
        for _ in range(number % 20):
            await asyncio.sleep(0)
        update.cancel()
        await asyncio.wait([update])
        done += not update.cancelled()
    await bench.quiet()
    stored = await bench.truth.load()
    assert stored is not None
    assert stored.data["n"] == stored.data["m"] == stored.version - 1
    assert done <= stored.data["n"] <= 200
