"""Under every maxmemory policy: a listing shows what can be loaded and all of it, whatever the server has evicted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Final

import pytest

from redis_state import AgentState, RedisStateStore, ServerRefusedError
from redis_state.testing import CommandError, RedisServer

POLICIES: Final = (
    *("noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random"),
    *("volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"),
)
AGENTS: Final = [f"a{number}" for number in range(20)]  # so many that indexes are evicted as well
SESSIONS: Final = [f"s{number}" for number in range(25)]
ROOM: Final = 250_000  # bytes, less than half of what is saved


def evicted(server: RedisServer) -> int:
    return int(server.info("stats")["evicted_keys"])


async def living(store: RedisStateStore[AgentState], agent_id: str) -> set[str]:
    """The sessions that can be loaded, asked for one by one and without the index."""
    found = await asyncio.gather(*(store.exists(agent_id, session_id) for session_id in SESSIONS))
    return {session_id for session_id, exists in zip(SESSIONS, found, strict=True) if exists}


async def is_refused(save: Awaitable[None]) -> bool:
    """Whether the server had no room for it."""
    try:
        await save
    except ServerRefusedError as error:
        return error.code == "OOM"
    return False


@pytest.mark.parametrize("expires", [True, False], ids=["with a ttl", "without"])
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_listing_is_true_after_eviction(policy: str, *, expires: bool) -> None:
    """States, indexes or both are gone, or saves were refused: every listing says what is there, and all of it."""
    ttl = timedelta(hours=1) if expires else None
    async with (
        RedisServer(config={"maxmemory-policy": policy}) as server,
        RedisStateStore.from_url(server.url, ttl=ttl) as store,
    ):
        server.command("CONFIG", "SET", "maxmemory", int(server.info("memory")["used_memory"]) + ROOM)
        refused = 0
        for session_id in SESSIONS:
            for agent_id in AGENTS:
                state = AgentState(agent_id=agent_id, session_id=session_id, data={"filler": "x" * 1000})
                refused += await is_refused(store.save(state))
        server.command("CONFIG", "SET", "maxmemory", 0)
        indexes = len(server.command("KEYS", "forge:state:sessions:*"))
        print(f"\n{policy}: {evicted(server)} evicted, {refused} refused, {indexes} of {len(AGENTS)} indexes left")
        assert bool(refused) == (policy == "noeviction" or (policy.startswith("volatile") and not expires))
        assert bool(evicted(server)) != bool(refused)
        busy: set[str] = set()
        for agent_id in AGENTS:
            there = await living(store, agent_id)
            listed = await store.list(agent_id)
            assert set(listed) == there
            assert len(listed) == len(there) == await store.count(agent_id)
            assert [info.session_id async for info in store.sessions(agent_id)] == listed
            assert await store.list(agent_id, limit=10) == listed[:10]
            if there:
                busy.add(agent_id)
        assert {agent_id async for agent_id in store.agents()} == busy


STRANGE: Final = {  # what stands under keys that look as those of states
    "another type": ("RPUSH", "forge:state:{a}:list", "x"),
    "no id": ("SET", b"forge:state:{a}:%FF", "x"),
    "an escape that ends": ("SET", b"forge:state:{a}:%", "x"),
    "bytes": ("SET", b"forge:state:{a}:\xff\xfe", "x"),
    "no name": ("SET", "forge:state:{a}:", "x"),
    "a long name": ("SET", "forge:state:{a}:" + "x" * 5000, "x"),
}


@pytest.mark.parametrize("kind", STRANGE)
async def test_an_index_is_built_again_beside_what_is_no_state(kind: str) -> None:
    """What somebody else has written under a key like that of a state fails no listing."""
    async with (
        RedisServer(config={"maxmemory-policy": "allkeys-random"}) as server,
        RedisStateStore.from_url(server.url) as store,
    ):
        server.command("SET", "filler", "x" * 1000)
        server.command("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(CommandError):
            server.command("SET", "filler", "y")
        server.command("CONFIG", "SET", "maxmemory", 0)
        assert evicted(server) > 0
        for session_id in ("s1", "s2"):
            await store.save(AgentState(agent_id="a", session_id=session_id))
        server.command(*STRANGE[kind])
        server.command("DEL", "forge:state:sessions:{a}")
        assert sorted(await store.list("a")) == ["s1", "s2"]
        assert {agent_id async for agent_id in store.agents()} == {"a"}
        assert await store.delete_agent("a") == 2
