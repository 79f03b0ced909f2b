"""What one call may take of a store's memory and of its connections."""

from __future__ import annotations

import asyncio
import tracemalloc
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from proxy import FaultProxy
from timed import opened, state, url_of

from redis_state import AgentState, MemoryStateStore, RedisStateStore

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

MANY = 20_000


async def test_a_load_of_many_with_refreshed_times_goes_out_in_bounded_parts(redis_server: RedisServer) -> None:
    """20,000 ids at once do not become 20,000 commands that wait for a server that is silent."""
    prefix = f"test-{uuid.uuid4().hex}:"
    url = f"{redis_server.url}?key_prefix={prefix}"
    options = {"ttl": timedelta(minutes=5), "refresh_ttl": True}
    async with FaultProxy(redis_server.host, redis_server.port) as proxy:
        async with opened(url_of(proxy.url, prefix), **options) as store, RedisStateStore.from_url(url) as seeding:
            await seeding.save(state("s-7"))
            found = await seeding.load_many("a", ["s-7"])
            assert list(await store.load_many("a", [f"s-{n}" for n in range(MANY)])) == list(found)
            before = proxy.bytes_up
            proxy.stall(requests=False)
            load = asyncio.create_task(store.load_many("a", [f"s-{n}" for n in range(MANY)]))
            await asyncio.sleep(0.3)
            sent = proxy.bytes_up - before
            load.cancel()
            await asyncio.wait({load})
            proxy.release()
            print(f"{sent} bytes sent before the first reply")
            assert sent < 64 * MANY // 4
            await seeding.delete_agent("a")


async def test_a_store_in_memory_keeps_nothing_of_agents_that_were_only_asked_about() -> None:
    """A hundred thousand questions about agents without sessions leave no memory taken."""

    async def ask(store: MemoryStateStore[AgentState], agents: range) -> None:
        for number in agents:
            agent_id = f"agent-{number}"
            await store.count(agent_id)
            await store.list(agent_id)
            await store.exists(agent_id, "s")
            await store.delete_agent(agent_id)

    async with MemoryStateStore() as store:
        await ask(store, range(100))
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await ask(store, range(5000))
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        print(f"{after - before} bytes for 5,000 agents")
        assert after - before < 5000 * 20
