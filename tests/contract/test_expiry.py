"""Expiry: exact to the millisecond, and gone from everywhere."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from support.stores import Stores, eventually, on_kinds, on_one_server, on_server_kinds

from redis_state import AgentState, Message, SessionStore, StateNotFoundError, VersionConflictError

Store = SessionStore[AgentState]
SOON = timedelta(milliseconds=30)
HOUR = timedelta(hours=1)


def a_state(session_id: str = "s1", **fields: Any) -> AgentState:
    return AgentState(agent_id="a1", session_id=session_id, **fields)


def left(stores: Stores, session_id: str = "s1") -> int:
    """Milliseconds; -1: for ever, -2: there is none."""
    return stores.command("PTTL", stores.state_key("a1", session_id))


def never(state: AgentState) -> None:
    """The change that is not asked for."""
    pytest.fail("it was called")


async def gone(store: Store, session_id: str = "s1") -> bool:
    return not await store.exists("a1", session_id)


@on_server_kinds
@pytest.mark.parametrize("milliseconds", [900, 1700, 3_600_001])
async def test_every_write_sets_it_to_the_millisecond(store: Store, stores: Stores, milliseconds: int) -> None:
    """No rounding to seconds, up or down."""
    ttl = timedelta(milliseconds=milliseconds)
    least = max(1, milliseconds // 1000 * 1000 - 60_000 * (milliseconds > 60_000))
    await store.save(a_state(), ttl=ttl)
    assert least <= left(stores) <= milliseconds
    for write in (
        lambda: store.save(a_state(), if_version=1, ttl=ttl),
        lambda: store.append("a1", "s1", [Message("user", "hi")], ttl=ttl),
        lambda: store.touch("a1", "s1", ttl=ttl),
        lambda: store.update("a1", "s1", lambda _: None, ttl=ttl),
    ):
        await store.save(a_state(), ttl=HOUR * 2)
        await write()
        assert least <= left(stores) <= milliseconds


@on_server_kinds
async def test_the_stores_own_is_the_default(stores: Stores) -> None:
    """The call's goes before it; `touch` uses it too."""
    store = await stores.open(ttl=HOUR)
    await store.save(a_state())
    assert 0 < left(stores) <= 3_600_000
    await store.save(a_state(), ttl=HOUR * 2)
    assert 3_600_000 < left(stores) <= 7_200_000
    assert await store.touch("a1", "s1")
    assert 0 < left(stores) <= 3_600_000
    await store.save(a_state(), if_version=1, ttl=HOUR * 2)
    assert 3_600_000 < left(stores) <= 7_200_000
    await store.save(await store.load("a1", "s1"), if_version=2)
    assert 0 < left(stores) <= 3_600_000


@on_server_kinds
async def test_a_save_without_one_lasts(store: Store, stores: Stores) -> None:
    """It replaces the state and its expiry."""
    await store.save(a_state(), ttl=HOUR)
    await store.save(a_state())
    assert left(stores) == -1
    await store.save(a_state(), ttl=HOUR)
    await store.save(await store.load("a1", "s1"), if_version=1)
    assert left(stores) == -1


@on_server_kinds
async def test_a_load_leaves_it(store: Store, stores: Stores) -> None:
    """Unless the store was told to refresh it, which then every load does."""
    await store.save(a_state(), ttl=HOUR)
    await store.load("a1", "s1")
    assert left(stores) <= 3_600_000
    refreshing = await stores.open(ttl=HOUR * 2, refresh_ttl=True)
    await refreshing.load("a1", "s1")
    assert 3_600_000 < left(stores) <= 7_200_000


@on_server_kinds
async def test_a_load_of_many_refreshes_as_well(stores: Stores) -> None:
    """Whoever loads a state keeps it alive, in whatever company."""
    store = await stores.open(ttl=HOUR * 2, refresh_ttl=True)
    await store.save(a_state(), ttl=HOUR)
    await store.load_many("a1", ["s1"])
    assert 3_600_000 < left(stores) <= 7_200_000


@on_kinds
async def test_a_refreshed_state_stays(stores: Stores) -> None:
    """It is gone only when nobody has loaded it for that long."""
    store = await stores.open(ttl=timedelta(milliseconds=60), refresh_ttl=True)
    await store.save(a_state(), ttl=HOUR)
    await store.load("a1", "s1")
    await eventually(lambda: gone(store))


@on_kinds
async def test_what_has_expired_was_never_there(store: Store) -> None:
    """For every operation: not found, version 0, nothing to delete."""
    state = a_state()
    await store.save(state, ttl=SOON)
    await eventually(lambda: gone(store))
    with pytest.raises(StateNotFoundError):
        await store.load("a1", "s1")
    with pytest.raises(StateNotFoundError):
        await store.append("a1", "s1", [])
    with pytest.raises(StateNotFoundError):
        await store.update("a1", "s1", never)
    with pytest.raises(VersionConflictError) as caught:
        await store.save(state, if_version=1)
    assert caught.value.stored == 0
    assert await store.touch("a1", "s1", ttl=HOUR) is False
    assert await store.load_many("a1", ["s1"]) == {}
    assert await store.list("a1") == []
    assert await store.count("a1") == 0
    assert [agent_id async for agent_id in store.agents()] == []
    assert await store.delete("a1", "s1") is False
    await store.save(state, if_version=0)
    assert state.version == 1


@on_kinds
async def test_each_session_has_its_own(store: Store) -> None:
    """The index expires with none of them."""
    await store.save(a_state("soon"), ttl=SOON)
    await store.save(a_state("later"), ttl=HOUR)
    await store.save(a_state("never"))
    await eventually(lambda: gone(store, "soon"))
    assert await store.list("a1") == ["never", "later"]


@on_kinds
async def test_centuries_are_fine(store: Store) -> None:
    """As long as a timedelta of a few thousand years."""
    await store.save(a_state(), ttl=timedelta(days=365_000))
    assert await store.exists("a1", "s1")


@on_one_server
async def test_an_index_that_nobody_lists_is_emptied(store: Store, stores: Stores) -> None:
    """What has expired leaves the index by the writes that follow, however they are spread over time."""
    for number in range(20):
        await store.save(a_state(f"s{number}"), ttl=SOON)
    index = stores.index_key("a1", "s1")
    assert stores.command("ZCARD", index) == 20
    await asyncio.sleep(SOON.total_seconds())

    async def emptied() -> bool:
        await store.save(a_state("alive"))
        return stores.command("ZCARD", index) == 1

    await eventually(emptied)
