"""A store's life, and each other way to begin it."""

from __future__ import annotations

import asyncio

import pytest
from support.states import Store, agent_ids, infos, messages, saved, state, texts
from support.stores import OTHER_WAYS, on

from redis_state import StoreClosedError


async def test_it_is_entered_once_and_closed_as_often_as_one_likes(store: Store) -> None:
    """Entering returns the store, and ping answers nothing; its repr tells class and state type."""
    async with store as entered:
        assert entered is store
        assert await store.ping() is None
        for part in (type(store).__name__, "AgentState"):
            assert part in repr(store)
    with pytest.raises(StoreClosedError):
        await store.ping()
    await asyncio.gather(store.aclose(), store.aclose())
    await store.aclose()


async def test_what_is_in_flight_ends_before_the_store_is_closed(store: Store) -> None:
    """None of it is lost and none of it fails."""
    states = [state(f"s{n}") for n in range(50)]
    saving = [asyncio.ensure_future(store.save(each)) for each in states]
    await asyncio.sleep(0)
    await store.aclose()
    assert await asyncio.gather(*saving) == [None] * 50
    assert {each.version for each in states} == {1}


@on(*OTHER_WAYS)
async def test_each_other_way_in_leads_to_a_store_that_does_everything(store: Store) -> None:
    (mine,) = await saved(store, "s")
    await store.append("a", "s", messages("one"))
    assert texts(await store.update("a", "s", lambda of: of.messages.extend(messages("two")))) == ["one", "two"]
    await store.save(mine)
    await saved(store, *(f"s{n}" for n in range(20)))
    names = [*(f"s{n}" for n in range(19, -1, -1)), "s"]
    assert await store.list("a") == [info.session_id for info in await infos(store)] == names
    assert list(await store.load_many("a", names)) == names
    assert await store.delete("a", "s7") is True
    assert (await agent_ids(store), await store.count("a"), await store.delete_agent("a")) == (["a"], 20, 20)
