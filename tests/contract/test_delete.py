"""Deleting a session and an agent, and which agents there are."""

from __future__ import annotations

import asyncio

from support.states import Store, agent_ids, saved, state
from support.stores import Stores, on_servers


async def test_a_delete_removes_state_and_place_and_tells_whether_there_was_one(store: Store) -> None:
    """The others stay; what is saved under its name then starts anew, at version 1."""
    await saved(store, "s1", "s2")
    await saved(store, "s1", agent_id="b")
    assert await store.delete("a", "s1") is True
    assert await store.delete("a", "s1") is await store.delete("nobody", "s1") is False
    assert (await store.list("a"), await store.list("b")) == (["s2"], ["s1"])
    await saved(store, "s1")
    assert (await store.load("a", "s1")).version == 1


@on_servers
async def test_deleting_the_last_session_leaves_no_key(store: Store, stores: Stores) -> None:
    await saved(store, "s1", "s2")
    await store.delete("a", "s1")
    await store.delete("a", "s2")
    assert stores.keys() == []


async def test_an_agent_is_deleted_and_no_other_whatever_its_id_looks_like(store: Store) -> None:
    others = ["b", "aa", "a:0", "a:s", "{a}", "a}", "*", "?", "%61", "A"]
    for other in others:
        await saved(store, "s", agent_id=other)
    await saved(store, "s1", "s2", "s3")
    assert await store.delete_agent("a") == 3
    assert await store.delete_agent("a") == await store.count("a") == 0
    assert await agent_ids(store) == sorted(others)
    for hostile in ("*", "?", "%61"):
        assert await store.delete_agent(hostile) == 1
    assert await agent_ids(store) == sorted(set(others) - {"*", "?", "%61"})


async def test_deleting_an_agent_tells_its_progress(store: Store) -> None:
    """Growing numbers of which the last is the result; none for an agent without sessions."""
    await asyncio.gather(*(store.save(state(f"s{n}")) for n in range(1200)))
    told: list[int] = []
    assert await store.delete_agent("a", progress=told.append) == 1200
    assert told == sorted(set(told))
    assert told[-1] == 1200
    told.clear()
    assert await store.delete_agent("a", progress=told.append) == 0
    assert told == []


@on_servers
async def test_an_entry_without_a_state_is_neither_counted_nor_an_agent(store: Store, stores: Stores) -> None:
    await saved(store, "s1", "s2")
    await saved(store, "s", agent_id="b")
    stores.command("DEL", stores.state_key("a", "s1"))
    stores.command("DEL", stores.state_key("b", "s"))
    assert await agent_ids(store) == ["a"]
    assert await store.delete_agent("a") == 1
    assert await store.delete_agent("b") == 0
    assert stores.keys() == []


async def test_every_agent_with_a_session_is_shown_once(store: Store) -> None:
    assert await agent_ids(store) == []
    names = [f"agent-{n:02}" for n in range(40)]
    await asyncio.gather(*(store.save(state(f"s{n}", agent_id=name)) for name in names for n in range(3)))
    await store.delete("agent-00", "s0")
    assert await agent_ids(store) == names
    await store.delete("agent-00", "s1")
    await store.delete("agent-00", "s2")
    await store.delete_agent("agent-01")
    assert await agent_ids(store) == names[2:]


@on_servers
async def test_stores_of_other_prefixes_are_left_alone(store: Store, stores: Stores) -> None:
    """Even one that looks like this one's index."""
    await saved(store, "s")
    other = Stores(stores.way, stores.server)
    other.prefix = f"{stores.prefix}sessions:"
    neighbour = await other.open()
    await saved(neighbour, "s", agent_id="b")
    assert (await agent_ids(store), await agent_ids(neighbour)) == (["a"], ["b"])
    await store.delete_agent("a")
    assert await agent_ids(neighbour) == ["b"]
    await other.aclose()
