"""Listing large, broken and lost indexes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.stores import Stores, on_indexes, on_one_server, on_server_indexes

from redis_state import AgentState, RedisStateStore, SessionInfo, SessionStore
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

Store = SessionStore[AgentState]


def a_state(session_id: str, agent_id: str = "a1") -> AgentState:
    return AgentState(agent_id=agent_id, session_id=session_id)


async def fill(store: Store, count: int) -> list[str]:
    """Save sessions; returns their ids, newest first."""
    names = [f"s{number:05}" for number in range(count)]
    await asyncio.gather(*(store.save(a_state(name)) for name in names))
    return names[::-1]


async def infos(store: Store, **options: Any) -> list[SessionInfo]:
    return [info async for info in store.sessions("a1", **options)]


async def ids(store: Store, **options: Any) -> list[str]:
    return [info.session_id for info in await infos(store, **options)]


async def ids_in_pages(store: Store, size: int) -> list[str]:
    """All sessions, each page starting after the last one of the page before."""
    shown: list[str] = []
    page = await infos(store, limit=size)
    while page:
        shown += [info.session_id for info in page]
        page = await infos(store, limit=size, before=page[-1])
    return shown


@on_indexes
async def test_more_than_a_few_pages(store: Store) -> None:
    """Whatever the limit is, before and after the end of a page."""
    names = await fill(store, 1100)
    assert await store.list("a1") == names
    assert await ids(store) == names
    assert await store.count("a1") == 1100
    for limit in (1, 499, 500, 501, 999, 1000, 1001, 1099, 1100, 1101):
        assert await store.list("a1", limit=limit) == names[:limit]
        assert await ids(store, limit=limit) == names[:limit]
    assert await ids_in_pages(store, 400) == names


@on_server_indexes
async def test_more_dead_than_a_few_pages(store: Store, stores: Stores) -> None:
    """A limit is filled with what is alive, however much dangles before it."""
    names = await fill(store, 1300)
    for name in names[:1200]:
        stores.command("DEL", stores.state_key("a1", name))
    assert await store.list("a1", limit=5) == names[1200:1205]
    assert await ids(store) == names[1200:]
    assert await store.list("a1") == names[1200:]


@on_server_indexes
async def test_many_written_in_the_same_microsecond(store: Store, stores: Stores) -> None:
    """Each is shown once, in the order of their ids, wherever a page ends."""
    names = await fill(store, 1100)
    moment = int(time.time()) * 1_000_000
    for name in names:
        stores.command("ZADD", stores.index_key("a1", name), moment, name)
    expected = sorted(names, reverse=True)
    assert await ids(store) == expected
    assert await store.list("a1") == expected
    assert await store.list("a1", limit=700) == expected[:700]
    assert await ids_in_pages(store, 300) == expected


@on_server_indexes
async def test_dead_ones_among_those_of_the_same_microsecond(store: Store, stores: Stores) -> None:
    """What is removed on the way moves nobody past the cursor."""
    names = await fill(store, 1100)
    for name in names:
        stores.command("ZADD", stores.index_key("a1", name), 1_700_000_000_000_000, name)
    dead = names[::3]
    for name in dead:
        stores.command("DEL", stores.state_key("a1", name))
    expected = sorted(set(names) - set(dead), reverse=True)
    assert await store.list("a1", limit=600) == expected[:600]
    assert await ids(store) == expected
    assert await store.list("a1") == expected


@on_indexes
async def test_saved_while_it_is_listed_in_pages(store: Store) -> None:
    """Sessions that are there from the first page to the last are shown exactly once."""
    names = await fill(store, 1200)
    shown: list[str] = []
    async for info in store.sessions("a1"):
        shown.append(info.session_id)
        if len(shown) % 100 == 0:
            await asyncio.gather(*(store.save(a_state(name)) for name in names[len(shown) % 7 :: 40]))
    assert sorted(shown) == sorted(names)


@on_server_indexes
async def test_a_writer_whose_clock_is_wrong(store: Store, stores: Stores) -> None:
    """Its sessions stand elsewhere in the list and are never missing from it."""
    await store.save(a_state("past"))
    await store.save(a_state("present"))
    await store.save(a_state("future"))
    now = int(time.time() * 1_000_000)
    stores.command("ZADD", stores.index_key("a1", "past"), 0, "past")
    stores.command("ZADD", stores.index_key("a1", "future"), now * 2, "future")
    assert await store.list("a1") == ["future", "present", "past"]
    assert await store.list("a1", limit=1) == ["future"]
    assert await ids(store) == ["future", "present", "past"]
    assert await ids_in_pages(store, 1) == ["future", "present", "past"]


@pytest.mark.parametrize("shift", [-3600, 3600])
async def test_a_clock_that_jumps(store: Store, shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One store's writes stay in their order."""
    await store.save(a_state("before"))
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + shift * 1_000_000_000)
    await store.save(a_state("after"))
    assert await store.list("a1") == ["after", "before"]


@on_server_indexes
@pytest.mark.parametrize("member", [b"\xff\xfe", b"x" * 600, "nobody's".encode("utf-16")])
async def test_an_entry_that_is_no_session(store: Store, stores: Stores, member: bytes) -> None:
    """It cannot be loaded, so it is not listed, and stops no operation."""
    await store.save(a_state("s1"))
    index = stores.index_key("a1", "s1")
    look = (lambda: store.list("a1"), lambda: store.list("a1", limit=2), lambda: ids(store))
    for listing in look:
        stores.command("ZADD", index, 2**52, member)
        assert await listing() == ["s1"]
    stores.command("ZADD", index, 2**52, member)
    assert await store.count("a1") == 1
    assert await store.delete_agent("a1") == 1
    assert stores.keys() == []


@pytest.fixture(scope="module")
def evicting_server() -> Iterator[RedisServer]:
    with RedisServer(config={"maxmemory-policy": "allkeys-lru"}) as server:
        yield server


@pytest.fixture
def evicted(evicting_server: RedisServer) -> RedisServer:
    """A server that has evicted something, and has room again."""
    if "evicted_keys:0" in evicting_server.command("INFO", "stats").decode():
        used = int(evicting_server.info("memory")["used_memory"])
        for number in range(200):
            evicting_server.command("SET", f"filler-{number}", "x" * 1000)
        evicting_server.command("CONFIG", "SET", "maxmemory", used + 50_000)
        while evicting_server.info("stats")["evicted_keys"] == "0":
            evicting_server.command("SET", f"filler-{time.time_ns()}", "x" * 1000)
        evicting_server.command("CONFIG", "SET", "maxmemory", 0)
    return evicting_server


async def test_an_index_that_was_evicted_is_built_again(evicted: RedisServer) -> None:
    """States whose index is gone are listed, in order; other agents' and appended ones too."""
    url = f"{evicted.url}?key_prefix=evicted*["
    async with RedisStateStore.from_url(url) as store:
        await fill(store, 30)
        await store.save(a_state("other", "a2"))
        await store.append("a1", "s00003", [])
        evicted.command("DEL", "evicted*[sessions:{a1}", "evicted*[sessions:{a2}")
        expected = ["s00003", *(f"s{number:05}" for number in range(29, -1, -1) if number != 3)]
        assert await store.list("a1") == expected
        evicted.command("DEL", "evicted*[sessions:{a1}")
        assert await store.list("a1", limit=3) == expected[:3]
        evicted.command("DEL", "evicted*[sessions:{a1}")
        assert await ids(store) == expected
        evicted.command("DEL", "evicted*[sessions:{a1}")
        assert sorted([agent_id async for agent_id in store.agents()]) == ["a1", "a2"]
        evicted.command("DEL", "evicted*[sessions:{a1}")
        assert await store.count("a1") == 30
        evicted.command("DEL", "evicted*[sessions:{a1}")
        await store.save(a_state("new"))
        assert await store.list("a1") == ["new", *expected]
        evicted.command("DEL", "evicted*[sessions:{a1}")
        assert await store.delete_agent("a1") == 31
        assert await store.delete_agent("a2") == 1


@on_one_server
async def test_a_page_costs_what_a_page_costs(store: Store, stores: Stores) -> None:
    """Listing the newest few of two thousand does not read the others."""
    await fill(store, 2000)

    def received() -> int:
        return int(stores.server.info("stats")["total_net_output_bytes"])

    costs: list[int] = []
    for look in (lambda: store.list("a1", limit=10), lambda: ids(store, limit=10)):
        before = received()
        await look()
        costs.append(received() - before)
    before = received()
    await store.list("a1")
    everything = received() - before
    assert costs[0] < everything / 3
    assert costs[1] < everything
