"""All sessions of a large agent: none is missing whatever moves meanwhile, and other tasks have their turns."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from redis_state import AgentState, MemoryStateStore, RedisStateStore
from redis_state.index import listing, pages, whole
from redis_state.index.entries import SLICE, Entry, joined, newest_first
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

INDEX = "forge:state:sessions:{busy}"
DOCUMENT = '{"agent_id":"busy","session_id":"%s"}'


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as own:
        yield own


@pytest.fixture
async def store(server: RedisServer) -> Any:
    server.command("FLUSHALL")
    async with RedisStateStore.from_url(server.url) as own:
        yield own


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few thousand sessions are read in as many parts as a million."""
    monkeypatch.setattr(whole, "_RANGE", 50)
    monkeypatch.setattr(whole, "_LOOK", 20)
    monkeypatch.setattr(listing, "_IDS", 50)
    monkeypatch.setattr(pages, "PAGE", 50)


def fill(server: RedisServer, scores: dict[str, float]) -> None:
    """Write sessions the way the library does, with these scores."""
    names = list(scores)
    for start in range(0, len(names), 2000):
        some = names[start : start + 2000]
        server.command("MSET", *(part for name in some for part in (f"forge:state:{{busy}}:{name}", DOCUMENT % name)))
        server.command("ZADD", INDEX, *(part for name in some for part in (repr(scores[name]), name)))


async def turns_during(work: Awaitable[Any]) -> tuple[Any, int]:
    """What some work returns, and how many turns another task had meanwhile."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    try:
        return await work, turns
    finally:
        task.cancel()


@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize("deletes", [False, True])
async def test_what_is_there_throughout_is_listed_once(
    server: RedisServer, store: RedisStateStore, *, deletes: bool
) -> None:
    """Also while sessions jump to any place by clocks that are hours apart, others come, and others are deleted."""
    staying = [f"stay{n}" for n in range(1500)]
    fill(server, {name: 1e15 + n for n, name in enumerate(staying)})
    fill(server, {f"go{n}": 1e15 + 3 * n for n in range(500)})
    rng = random.Random(11)
    stop = False

    async def disturb() -> None:
        number = 0
        while not stop:
            number += 1
            for _ in range(5):
                server.command("ZADD", INDEX, str(10**15 + rng.randrange(1700)), rng.choice(staying))
            await store.save(AgentState(agent_id="busy", session_id=f"new{number}"))
            if deletes:
                await store.delete("busy", f"go{number}")

    disturbing = asyncio.create_task(disturb())
    for _ in range(5):
        listed = await store.list("busy")
        assert len(set(listed)) == len(listed)
        assert [name for name in staying if name not in set(listed)] == []
        assert await store.count("busy") >= len(staying)
    stop = True
    await disturbing


@pytest.mark.usefixtures("small_ranges")
async def test_a_large_agent_is_listed_in_order(server: RedisServer, store: RedisStateStore) -> None:
    """By time, then by id, escaped ids and infinite times among them; what has gone is removed."""
    scores = {f"s{n}": float(10**15 + n // 3) for n in range(1000)}
    scores |= {f"user:{n}": 10**15 + n * 3.5 for n in range(50)} | {"ever": float("inf"), "never": float("-inf")}
    fill(server, {name: score for name, score in scores.items() if ":" not in name})
    for name, score in scores.items():
        if ":" in name:
            await store.save(AgentState(agent_id="busy", session_id=name))
            server.command("ZADD", INDEX, repr(score), name)
    for name in list(scores)[:400:7]:
        server.command("DEL", f"forge:state:{{busy}}:{name}")
        del scores[name]
    expected = sorted(scores, key=lambda name: (scores[name], name.encode()), reverse=True)
    assert await store.list("busy") == expected
    assert server.command("ZCARD", INDEX) == len(expected)
    assert await store.count("busy") == len(expected)


@pytest.mark.usefixtures("small_ranges")
async def test_sessions_of_one_time_are_all_listed(server: RedisServer, store: RedisStateStore) -> None:
    """However many have the same score, which cannot be read in ranges of scores."""
    fill(server, dict.fromkeys([f"s{n}" for n in range(500)], 0.0))
    assert await store.list("busy") == sorted((f"s{n}" for n in range(500)), reverse=True)


async def test_another_session_s_state_makes_none_alive(server: RedisServer, store: RedisStateStore) -> None:
    """The key of `a b` reads `a%20b`, which is an id itself; and a key that is not escaped is nobody's."""
    await store.save(AgentState(agent_id="busy", session_id="a b"))
    server.command("SET", "forge:state:{busy}:x y", "foreign")
    server.command("ZADD", INDEX, 2**52, "a%20b", 2**52, "x y")
    assert await store.list("busy", limit=1) == ["a b"]
    server.command("ZADD", INDEX, 2**52, "a%20b", 2**52, "x y")
    assert [info.session_id async for info in store.sessions("busy", limit=1)] == ["a b"]
    server.command("ZADD", INDEX, 2**52, "a%20b", 2**52, "x y")
    assert await store.list("busy") == ["a b"]


async def test_listings_ask_nothing_of_a_server_that_does_not_evict_indexes(
    server: RedisServer, store: RedisStateStore
) -> None:
    """Neither INFO nor anything else but one script."""
    fill(server, {f"s{n}": 1e15 + n for n in range(30)})
    await store.list("busy", limit=10)
    server.command("CONFIG", "RESETSTAT")
    for _ in range(100):
        await store.list("busy", limit=10)
        await store.list("busy")
        assert len([info async for info in store.sessions("busy", limit=10)]) == 10
    stats = server.info("commandstats")
    sent = {name.removeprefix("cmdstat_") for name in stats} - {"config|resetstat", "config", "info"}
    assert sent == {"evalsha", "zrevrangebyscore", "exists"}
    assert "cmdstat_info" not in stats
    assert stats["cmdstat_evalsha"].startswith("calls=300,")


async def test_a_listing_in_memory_lets_others_run() -> None:
    """Another task has a turn for every few thousand sessions, whatever is asked of them."""
    async with MemoryStateStore() as store:
        names = [f"s{n:05}" for n in range(5 * SLICE)]
        await asyncio.gather(*(store.save(AgentState(agent_id="busy", session_id=name)) for name in names))
        operations: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.list("busy"),
            lambda: store.count("busy"),
            lambda: _all_of(store),
            lambda: store.delete_agent("busy"),
        ]
        for operation in operations:
            _, turns = await turns_during(operation())
            assert turns >= 4


async def _all_of(store: MemoryStateStore) -> int:
    return len([info async for info in store.sessions("busy")])


async def test_load_many_lets_others_run(store: RedisStateStore) -> None:
    """Another task has a turn for every half megabyte, in memory as well."""
    async with MemoryStateStore() as memory:
        for own in (store, memory):
            for n in range(10):
                state = AgentState(agent_id="busy", session_id=f"s{n}", data={"filler": "x" * 300_000})
                await own.save(state)
            found, turns = await turns_during(own.load_many("busy", [f"s{n}" for n in range(10)]))
            assert len(found) == 10
            assert turns >= 4


async def test_entries_are_sorted_and_joined_in_slices() -> None:
    """What no single sort could be asked to do without holding the loop."""
    rng = random.Random(3)
    entries: list[Entry] = [(rng.randrange(1000), b"%d" % n) for n in range(5 * SLICE)]

    async def all_of() -> list[Entry]:
        return [entry async for some in newest_first(entries[:SLICE], entries[SLICE:]) for entry in some]

    found, turns = await turns_during(all_of())
    assert found == sorted(entries, reverse=True)
    assert turns >= 8
    pieces = [[str(n)] for n in range(100)]
    found, turns = await turns_during(joined(pieces))
    assert found == [str(n) for n in range(100)]
    assert turns >= 90
