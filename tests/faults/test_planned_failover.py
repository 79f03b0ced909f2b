"""A failover that an operator asks the Sentinels for: writes pause, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from timed import Store, calls, state

from redis_state import RedisStateStore, StateStoreError
from redis_state.testing import SentinelServers

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITERS = 32


@pytest.fixture
def system() -> Iterator[SentinelServers]:
    with SentinelServers() as system:
        yield system


class Load:
    """Writers of sessions of their own, and the number that each was last told is stored."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.acknowledged: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.times: list[float] = []
        self.going = True

    async def write(self, writer: int) -> None:
        clock = asyncio.get_running_loop().time
        number = 0
        while self.going:
            number += 1
            session_id = f"{writer}-{number % 50}"
            try:
                await self.store.save(state(session_id, n=number))
            except StateStoreError as error:
                self.errors[type(error).__name__] += 1
                await asyncio.sleep(0.01)
            else:
                self.acknowledged[session_id] = number
                self.times.append(clock())

    @property
    def pause(self) -> float:
        """The longest time without an acknowledged write, in seconds."""
        return max(late - early for early, late in pairwise(self.times))

    async def lost(self) -> int:
        """How many sessions hold less than was acknowledged."""
        stored = await self.store.load_many("a", self.acknowledged)
        found = {session_id: of.data["n"] for session_id, of in stored.items()}
        return sum(found.get(session_id, 0) < number for session_id, number in self.acknowledged.items())


@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_planned_failover_loses_no_acknowledged_write(system: SentinelServers, replicas: int) -> None:
    """With default settings; writes go on at the new primary, with `replicas=1` as soon as one follows it."""
    url = f"{system.url}?key_prefix=test-{uuid.uuid4().hex}:"
    async with RedisStateStore.from_url(url, replicas=replicas) as store:
        load = Load(store)
        writers = [asyncio.create_task(load.write(number)) for number in range(WRITERS)]
        await asyncio.sleep(1.0)
        await system.failover()
        await asyncio.sleep(1.0)
        # The old primary becomes a replica only later, and what it alone has is gone then.
        await asyncio.to_thread(system._wait_until_ready, 60.0)
        load.going = False
        await asyncio.gather(*writers)
        load.times.append(asyncio.get_running_loop().time())
        lost = await load.lost()
        print(f"replicas={replicas}: {len(load.times)} writes, {lost} lost, longest pause {load.pause:.2f} s, {load.errors}")
        assert lost == 0
        assert load.pause < 6
        async with asyncio.timeout(7):
            await store.save(state("after"))


async def test_a_store_at_rest_asks_the_sentinels_rarely(system: SentinelServers) -> None:
    """While it is told of a failover by their events it asks at most every ten seconds."""
    asking = ("sentinel|get-master-addr-by-name",)
    async with RedisStateStore.from_url(f"{system.url}?key_prefix=test-{uuid.uuid4().hex}:") as store:
        await store.ping()
        await asyncio.sleep(1.0)
        before = calls(system.sentinels, *asking)
        await asyncio.sleep(5.0)
        assert calls(system.sentinels, *asking) - before <= len(system.sentinels)
