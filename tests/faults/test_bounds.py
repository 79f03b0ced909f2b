"""What one call may take of a store's memory and of its connections."""

from __future__ import annotations

import asyncio
import tracemalloc
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from support.timed import opened, url_of

from redis_state import AgentState, MemoryStateStore

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

MANY = 20_000


async def test_a_load_of_many_with_refreshed_times_goes_out_in_bounded_parts(redis_server: RedisServer) -> None:
    """Twice as many ids at once do not take twice the memory of a store whose server is silent."""
    url = url_of(redis_server.url, f"test-{uuid.uuid4().hex}:", read_timeout=5, write_timeout=5)
    async with opened(url, 10, ttl=timedelta(minutes=5), refresh_ttl=True) as store:
        await store.ping()

        async def taken(many: int) -> int:
            ids = [f"s-{n}" for n in range(many)]
            redis_server.freeze()
            tracemalloc.start()
            try:
                load = asyncio.create_task(store.load_many("a", ids))
                await asyncio.sleep(1.0)
                found, _ = tracemalloc.get_traced_memory()
                load.cancel()
                await asyncio.wait({load})
            finally:
                tracemalloc.stop()
                redis_server.thaw()
            await store.ping()
            return found

        few, many = await taken(MANY), await taken(4 * MANY)
        print(f"{few / 1e6:.1f} MB for {MANY} ids, {many / 1e6:.1f} MB for four times as many")
        assert many < 3 * few


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
