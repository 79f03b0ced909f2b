"""Large agents. Each test has a small size for every run, and its full one behind ``-m scale``."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from redis_state import AgentState, Message, RedisStateStore
from redis_state.testing import RedisServer

FILL = 2000  # sessions that one command writes when an index is filled


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that notes what holds it for longer than 100 ms, of which other processes may take some."""
    with RedisServer(config={"slowlog-log-slower-than": 100_000}) as own:
        yield own


def fill(server: RedisServer, agent_id: str, sessions: int) -> None:
    """Write sessions the way the library does, many at once."""
    state, index = f"forge:state:{{{agent_id}}}:", f"forge:state:sessions:{{{agent_id}}}"
    document = '{"agent_id":"%s","session_id":"s%d","_rev":"1-AAAAAA."}'
    for start in range(0, sessions, FILL):
        some = range(start, min(sessions, start + FILL))
        server.command("MSET", *(part for n in some for part in (f"{state}s{n}", document % (agent_id, n))))
        server.command("ZADD", index, *(part for n in some for part in (str(10**15 + n), f"s{n}")))


async def median_time(store: RedisStateStore, agent_id: str) -> float:
    """Seconds that the newest 50 take, from repeated calls."""
    times: list[float] = []
    for _ in range(200):
        started = time.perf_counter()
        assert len(await store.list(agent_id, limit=50)) == 50
        times.append(time.perf_counter() - started)
    return statistics.median(times)


@pytest.mark.parametrize("sessions", [20_000, pytest.param(1_000_000, marks=pytest.mark.scale)])
async def test_an_agent_of_any_size_is_listed_in_pages_and_deleted_in_batches(
    server: RedisServer, sessions: int
) -> None:
    """The newest are as near as in a small agent, no command holds the server, and nobody else is touched."""
    fill(server, "small", 1000)
    fill(server, "big", sessions)
    async with RedisStateStore.from_url(server.url) as store:
        small, big = await median_time(store, "small"), await median_time(store, "big")
        print(f"\nnewest 50 of {sessions}: {big * 1e6:.0f} us, of 1000: {small * 1e6:.0f} us, {big / small:.2f}x")
        server.command("SLOWLOG", "RESET")
        assert await store.count("big") == sessions
        assert sum([1 async for _ in store.sessions("big")]) == sessions
        begun = asyncio.Event()
        deleting = asyncio.ensure_future(store.delete_agent("big", progress=lambda _: begun.set()))
        await begun.wait()
        deleting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deleting
        left = await store.count("big")
        assert 0 < left < sessions
        assert await store.delete_agent("big") == left
        assert await store.count("big") == 0
        assert await store.count("small") == 1000
        assert server.command("SLOWLOG", "GET") == []
        assert await store.delete_agent("small") == 1000
    assert server.command("DBSIZE") == 0


@pytest.mark.parametrize("sessions", [3_000, pytest.param(100_000, marks=pytest.mark.scale)])
async def test_paging_shows_what_was_there_throughout_exactly_once(server: RedisServer, sessions: int) -> None:
    """Also while sessions that were not reached yet jump to the front, by clocks an hour apart, and others come."""
    fill(server, "busy", sessions)
    rng = random.Random(7)
    async with RedisStateStore.from_url(server.url) as store:
        stop = asyncio.Event()

        async def disturb() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                await store.save(AgentState(agent_id="busy", session_id=f"s{rng.randrange(sessions)}"))
                await store.save(AgentState(agent_id="busy", session_id=f"new{number}"))
                late = 10**15 + rng.randrange(2 * sessions)  # a writer whose clock is wrong
                server.command("ZADD", "forge:state:sessions:{busy}", str(late), f"s{rng.randrange(sessions)}")
                await asyncio.sleep(0)

        disturbing = asyncio.ensure_future(disturb())
        seen = Counter([info.session_id async for info in store.sessions("busy")])
        stop.set()
        await disturbing
        assert [f"s{n}" for n in range(sessions) if seen[f"s{n}"] != 1] == []
        assert max(seen.values()) == 1
        await store.delete_agent("busy")


@pytest.mark.parametrize("sessions", [3_000, pytest.param(100_000, marks=pytest.mark.scale)])
async def test_an_index_of_expired_sessions_shrinks_without_a_listing(server: RedisServer, sessions: int) -> None:
    """Ordinary traffic leaves an index of the living."""
    index = "forge:state:sessions:{brief}"
    async with RedisStateStore.from_url(server.url) as store:
        for start in range(0, sessions, 1000):
            some = [AgentState(agent_id="brief", session_id=f"s{n}") for n in range(start, start + 1000)]
            await asyncio.gather(*(store.save(state, ttl=timedelta(seconds=1)) for state in some))
        assert server.command("ZCARD", index) > 0
        deadline = time.monotonic() + 60
        while (left := server.command("ZCARD", index)) > 10 and time.monotonic() < deadline:
            for n in range(10):
                await store.save(AgentState(agent_id="brief", session_id=f"living{n}"))
            await asyncio.sleep(0.05)
        print(f"\n{sessions} sessions expired, 10 living, {left} in the index")
        assert left == 10
        await store.delete_agent("brief")


def received(server: RedisServer) -> int:
    """Bytes that the server has read from its clients."""
    return int(server.info("stats")["total_net_input_bytes"])


@pytest.mark.parametrize("turns", [200])
async def test_a_conversation_by_append_moves_a_fraction_of_the_bytes(server: RedisServer, turns: int) -> None:
    """A save sends the whole history every turn, an append the turn."""
    moved: dict[str, int] = {}
    async with RedisStateStore.from_url(server.url) as store:
        state = AgentState(agent_id="talk", session_id="save")
        before = received(server)
        for turn in range(turns):
            state.messages.append(Message(role="user", content=f"turn {turn}"))
            await store.save(state)
        moved["save"] = received(server) - before
        await store.save(AgentState(agent_id="talk", session_id="append"))
        before = received(server)
        for turn in range(turns):
            await store.append("talk", "append", [Message(role="user", content=f"turn {turn}")])
        moved["append"] = received(server) - before
        assert (await store.load("talk", "append")).version == turns + 1
        await store.delete_agent("talk")
    ratio = moved["save"] / moved["append"]
    print(f"\n{turns} turns: save {moved['save']} bytes, append {moved['append']} bytes, {ratio:.0f}x")
    assert ratio > turns / 20
