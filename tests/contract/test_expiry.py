"""Expiry: exact to the millisecond, and gone from everywhere."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Final

import pytest
from support.states import Store, agent_ids, messages, never, saved, session_ids, state
from support.stores import Stores, eventually, on_one_server, on_servers

from redis_state import StateNotFoundError, VersionConflictError

SOON: Final = timedelta(milliseconds=30)
HOUR: Final = timedelta(hours=1)


async def until_gone(store: Store, session_id: str = "s") -> None:
    async def gone() -> bool:
        return not await store.exists("a", session_id)

    await eventually(gone)


def hours_left(stores: Stores) -> float:
    """Rounded up to whole hours; for ever is 0."""
    milliseconds = stores.command("PTTL", stores.state_key("a", "s"))
    return 0 if milliseconds == -1 else -(-milliseconds // 3_600_000)


def writes(store: Store, **options: Any) -> dict[str, Any]:
    """Every write that takes a ttl, as a call over version 1."""
    return {
        "save": lambda: store.save(state(), **options),
        "save if_version": lambda: store.save(state(), if_version=1, **options),
        "append": lambda: store.append("a", "s", messages("hi"), **options),
        "update": lambda: store.update("a", "s", lambda _: None, **options),
        "touch": lambda: store.touch("a", "s", **options),
    }


@on_servers
@pytest.mark.parametrize("milliseconds", [900, 1700, 3_600_001])
async def test_every_write_sets_it_to_the_millisecond(store: Store, stores: Stores, milliseconds: int) -> None:
    """No rounding to seconds, up or down."""
    least = max(1, milliseconds // 1000 * 1000 - 60_000 * (milliseconds > 60_000))
    for write in writes(store, ttl=timedelta(milliseconds=milliseconds)).values():
        await store.save(state(), ttl=HOUR * 2)
        await write()
        assert least <= stores.command("PTTL", stores.state_key("a", "s")) <= milliseconds


@on_servers
async def test_the_stores_own_is_the_default_and_without_one_a_save_lasts(store: Store, stores: Stores) -> None:
    """A save replaces the expiry, an append and an update without a time leave it; the call's goes first."""
    expiring = await stores.open(ttl=HOUR)
    for name, write in writes(expiring).items():
        await store.save(state(), ttl=HOUR * 3)
        await write()
        assert hours_left(stores) == 1, name
    await expiring.save(state(), ttl=HOUR * 2)
    assert hours_left(stores) == 2
    for name, write in writes(store).items():
        await store.save(state(), ttl=HOUR * 3)
        if name == "touch":
            with pytest.raises(ValueError, match="ttl"):
                await write()
        else:
            await write()
            assert hours_left(stores) == (3 if name == "append" else 0), name


@on_servers
async def test_a_load_leaves_it_unless_the_store_refreshes(store: Store, stores: Stores) -> None:
    """Then every load does, of one and of many."""
    refreshing = await stores.open(ttl=HOUR * 2, refresh_ttl=True)
    for load, hours in ((store.load, 1), (refreshing.load, 2)):
        await store.save(state(), ttl=HOUR)
        await load("a", "s")
        assert hours_left(stores) == hours
    await store.save(state(), ttl=HOUR)
    await refreshing.load_many("a", ["s"])
    assert hours_left(stores) == 2


async def test_a_refreshed_state_is_gone_when_nobody_has_loaded_it_for_that_long(stores: Stores) -> None:
    store = await stores.open(ttl=timedelta(milliseconds=60), refresh_ttl=True)
    await store.save(state(), ttl=HOUR)
    await store.load("a", "s")
    await until_gone(store)


async def test_what_has_expired_was_never_there_for_any_operation(store: Store) -> None:
    """Not found, version 0, nothing to delete, not listed; a limit is filled from what is left."""
    await saved(store, "older", "old")
    mine = state()
    await store.save(mine, ttl=SOON)
    await until_gone(store)
    for call in (store.load("a", "s"), store.append("a", "s", []), store.update("a", "s", never)):
        with pytest.raises(StateNotFoundError):
            await call
    with pytest.raises(VersionConflictError) as caught:
        await store.save(mine, if_version=1)
    assert caught.value.stored == 0
    assert await store.touch("a", "s", ttl=HOUR) is await store.delete("a", "s") is False
    assert await store.load_many("a", ["s"]) == {}
    assert await store.list("a", limit=2) == await store.list("a") == await session_ids(store) == ["old", "older"]
    assert await store.count("a") == 2
    await store.update("a", "old", lambda _: None, ttl=SOON)
    await store.touch("a", "older", ttl=SOON)
    await until_gone(store, "old")
    await until_gone(store, "older")
    assert await agent_ids(store) == []
    await store.save(mine, if_version=0)
    assert mine.version == 1


async def test_a_touch_changes_the_expiry_and_nothing_else(store: Store) -> None:
    """It tells whether there is a state. Centuries are fine."""
    await saved(store, "s", "other")
    assert await store.touch("a", "s", ttl=timedelta(days=365_000)) is True
    assert await store.touch("a", "nobody", ttl=HOUR) is False
    assert (await store.list("a"), (await store.load("a", "s")).version) == (["other", "s"], 1)


@pytest.mark.parametrize(
    ("ttl", "error"),
    [
        *((timedelta(microseconds=us), ValueError) for us in (0, -1_000_000, 999)),
        *((ttl, TypeError) for ttl in (60, 1.5)),
    ],
)
async def test_what_is_no_ttl_is_refused_by_every_write(store: Store, ttl: Any, error: type[Exception]) -> None:
    """Below a millisecond it is a ValueError, and no timedelta is a TypeError. Nothing is changed or counted."""
    mine = state()
    with pytest.raises(error, match="ttl"):
        await store.save(mine, ttl=ttl)
    assert (mine.version, await store.exists("a", "s")) == (0, False)
    await store.save(mine)
    assert mine.version == 1
    for write in writes(store, ttl=ttl).values():
        with pytest.raises(error, match="ttl"):
            await write()
    assert (await store.load("a", "s")).version == 1


@on_one_server
async def test_an_index_that_nobody_lists_is_emptied_by_the_writes_that_follow(store: Store, stores: Stores) -> None:
    for number in range(20):
        await store.save(state(f"s{number}"), ttl=SOON)
    index = stores.index_key("a", "s")
    assert stores.command("ZCARD", index) == 20
    await asyncio.sleep(SOON.total_seconds())

    async def emptied() -> bool:
        await store.save(state("alive"))
        return stores.command("ZCARD", index) == 1

    await eventually(emptied)
