"""A failover that an operator asks the Sentinels for: writes pause, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from itertools import pairwise

from support.proxy import FaultProxy
from support.sentinel import SentinelServers
from support.timed import Store, state

from redis_state import RedisStateStore, StateStoreError

WRITERS = 32


class Load:
    """Writers that save one session after the other, each once, so that no later write hides a lost one."""

    def __init__(self, store: Store, name: str = "") -> None:
        self.store = store
        self.name = name
        self.acknowledged: list[str] = []
        self.errors: Counter[str] = Counter()
        self.times: list[float] = []
        self.going = True

    async def write(self, writer: int) -> None:
        clock = asyncio.get_running_loop().time
        number = 0
        while self.going:
            number += 1
            session_id = f"{self.name}{writer}-{number}"
            try:
                await self.store.save(state(session_id, n=number))
            except StateStoreError as error:
                self.errors[type(error).__name__] += 1
                await asyncio.sleep(0.01)
            else:
                self.acknowledged.append(session_id)
                self.times.append(clock())
                await asyncio.sleep(0.005)

    @property
    def pause(self) -> float:
        """The longest time without an acknowledged write, in seconds."""
        return max(late - early for early, late in pairwise(self.times))

    async def lost(self) -> int:
        """How many acknowledged saves are not there."""
        found = 0
        for first in range(0, len(self.acknowledged), 1000):
            found += len(await self.store.load_many("a", self.acknowledged[first : first + 1000]))
        return len(self.acknowledged) - found


async def test_a_planned_failover_loses_no_acknowledged_write() -> None:
    """With default settings, and with `replicas=1` as soon as a replica follows the new primary."""
    async with SentinelServers() as first, SentinelServers() as second:
        await asyncio.gather(fail_over_under_load(first, 0), fail_over_under_load(second, 1))


async def test_a_store_that_was_not_told_of_it_loses_none_either() -> None:
    """One that is opened after it has begun, and one whose subscriptions were lost just before or after."""
    async with SentinelServers() as system, RedisStateStore.from_url(system.url) as early:
        await early.ping()
        await asyncio.sleep(0.5)
        loads = [Load(early, "early")]
        writers = [asyncio.create_task(loads[0].write(0))]
        for sentinel in system.sentinels:
            sentinel.command("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.to_thread(system.sentinels[0].command, "SENTINEL", "FAILOVER", system.service_name)
        late = [RedisStateStore.from_url(system.url) for _ in range(4)]
        for number, store in enumerate(late):
            await asyncio.sleep(0.1)
            loads.append(Load(store, f"late{number}"))
            writers.append(asyncio.create_task(loads[-1].write(number)))
        await asyncio.sleep(3.0)
        for load in loads:
            load.going = False
        await asyncio.gather(*writers)
        await system.wait_until_ready()
        lost = [await load.lost() for load in loads]
        print(f"not told: {[len(load.times) for load in loads]} writes, {lost} lost")
        assert sum(lost) == 0
        for store in late:
            await store.aclose()


async def fail_over_under_load(system: SentinelServers, replicas: int) -> None:
    url = f"{system.url}?key_prefix=test-{uuid.uuid4().hex}:"
    async with RedisStateStore.from_url(url, replicas=replicas) as store:
        load = Load(store)
        writers = [asyncio.create_task(load.write(number)) for number in range(WRITERS)]
        await asyncio.sleep(1.0)
        await system.failover()
        await asyncio.sleep(3.0)
        load.going = False
        await asyncio.gather(*writers)
        # The old primary becomes a replica only later, and what it alone has is gone then.
        await system.wait_until_ready()
        lost = await load.lost()
        print(
            f"replicas={replicas}: {len(load.times)} writes, {lost} lost, longest pause {load.pause:.2f} s, "
            f"errors {dict(load.errors)}"
        )
        assert lost == 0
        await store.save(state("after"))


async def test_a_store_asks_the_sentinels_rarely(redis_sentinel: SentinelServers) -> None:
    """While it is told of a failover by their events it asks at most every ten seconds."""
    asked = 0

    def count(data: bytes) -> None:
        nonlocal asked
        asked += data.lower().count(b"get-master-addr-by-name")

    first = redis_sentinel.sentinels[0]
    async with FaultProxy(first.host, first.port) as proxy:
        proxy.on_request = count
        url = f"redis+sentinel://{proxy.host}:{proxy.port}/{redis_sentinel.service_name}"
        async with RedisStateStore.from_url(f"{url}?key_prefix=test-{uuid.uuid4().hex}:") as store:
            await store.save(state())
            assert asked > 0
            await asyncio.sleep(0.5)
            before = asked
            for number in range(60):
                await store.save(state(n=number))
                await asyncio.sleep(0.05)
            await store.delete_agent("a")
    print(f"asked {asked - before} times in three seconds")
    assert asked - before <= 1
